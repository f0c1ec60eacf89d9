"""Parallel codes: one head of logits a level, no codebook to match."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.quantizers.beam import check_count, grow_beams
from sid_tfx.quantizers.matching import best
from sid_tfx.quantizers.quantizer import Quantizer, QuantizerOutput


@keras.saving.register_keras_serializable(package="sid_tfx")
class ParallelQuantizer(Quantizer):
    """The code of a level is the argmax of its logits, as in UniSID.

    No gradient passes to the logits: every loss acts on the logits themselves. What codes stand
    for is the sum of read-out vectors, one table a level, which learn from what is done with
    `quantized`.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a read-out vector. Inputs are logits `[B, L * K]`.
        seed: Seed of the read-out tables.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> quantizer = ParallelQuantizer(levels=3, codebook_size=16, dim=8)
    >>> out = quantizer(np.random.default_rng(0).normal(size=(2, 48)))
    >>> out.codes.shape, out.quantized.shape
    ((2, 3), (2, 8))

    Reference:
        UniSID, arXiv 2602.10445.
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        seed: int = 0,
        usage_momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(levels, codebook_size, dim, seed, usage_momentum, **kwargs)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the read-out tables `[L, K, D]`."""
        if self.built:
            return
        super().build(input_shape)
        shape = (self.levels, self.codebook_size, self.dim)
        rng = np.random.default_rng(self.seed)
        self.tables = self.add_weight(name="tables", shape=shape, initializer="zeros")
        self.tables.assign(rng.normal(size=shape) / np.sqrt(self.levels * self.dim))

    @property
    def input_dim(self) -> int:
        """Logits of all levels, L * K."""
        return self.levels * self.codebook_size

    @property
    def fits_data(self) -> bool:
        """False: codes are the logits' own."""
        return False

    def call(self, vectors: Any, training: bool | None = None) -> QuantizerOutput:
        """Takes the codes out of logits.

        Args:
            vectors: Logits of all levels, float `[B, L * K]`.
            training: Whether the codes count as used.

        Returns:
            `QuantizerOutput`. There is no residual: `residual_norms` is zero, and `inputs` equals
            `vectors`, the read-out vectors, so that a commitment loss is 0 and has no gradient.
        """
        codes = best(self._logits(vectors))
        if training:
            self.observe(codes)
        chosen = self.lookup(self.tables, codes)
        return QuantizerOutput(
            codes=codes,
            quantized=ops.sum(chosen, axis=1),
            inputs=ops.stop_gradient(chosen),
            vectors=chosen,
            residual_norms=ops.zeros((ops.shape(vectors)[0], self.levels + 1), dtype=chosen.dtype),
        )

    def _logits(self, vectors: Any) -> Any:
        return ops.reshape(vectors, (-1, self.levels, self.codebook_size))

    def ranked_codes(self, vectors: Any, count: int) -> Any:
        """Returns the most probable code tuples of each vector.

        Args:
            vectors: Logits of all levels, float `[B, L * K]`.
            count: Tuples per vector, at most K ** L.

        Returns:
            int32 `[B, count, L]`, all different, by falling sum of log-softmax; the search is
            exact.

        Raises:
            ValueError: There are not `count` tuples.
        """
        check_count(count, self.codebook_size, self.levels)
        logits = self._logits(vectors)
        # Up to a constant a level these are the negative log-probabilities.
        costs = ops.max(logits, axis=-1, keepdims=True) - logits
        totals = ops.zeros_like(costs[:, :1, 0])
        codes = ops.zeros((ops.shape(costs)[0], 1, 0), dtype="int32")
        for level in range(self.levels):
            children = totals[..., None] + costs[:, level][:, None]
            codes, parents, last = grow_beams(codes, children, best(logits[:, level]), count)
            totals = ops.take_along_axis(totals, parents, axis=1) + ops.take_along_axis(
                costs[:, level], last, axis=1
            )
        return codes

    def decode(self, codes: Any) -> Any:
        """Returns the sum of the read-out vectors, float `[B, D]`, for codes int `[B, L]`."""
        return ops.sum(self.lookup(self.tables, ops.cast(codes, "int32")), axis=1)

    def initialize(self, vectors: np.ndarray, seed: int = 0) -> None:
        """Marks the quantizer initialized; codes are the logits' own, there is nothing to fit."""
        self.usage.assign(np.ones(self.usage.shape, "float32"))
        self.initialized.assign(1.0)
