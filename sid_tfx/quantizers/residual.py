"""Residual quantization: each level quantizes what the levels before left over."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.quantizers.assignment import ASSIGNMENTS
from sid_tfx.quantizers.gradient import GRADIENTS
from sid_tfx.quantizers.initialization import kmeans_centers
from sid_tfx.quantizers.quantizer import Quantizer, QuantizerOutput


@keras.saving.register_keras_serializable(package="sid_tfx")
class ResidualQuantizer(Quantizer):
    """Residual codebooks with a gradient estimator, as RQ-VAE and QuaSID use them.

    Level l picks the code vector nearest to what levels 1 to l - 1 left over of the vector; the
    vector is approximated by the sum of the L code vectors.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        assignment: How a code is chosen: `nearest`.
        gradient: How the gradient passes the choice: `straight_through`.
        seed: Seed of the initial codebooks.
        usage_momentum: Share of the running code counts that a batch keeps.

    Raises:
        ValueError: An argument is out of its range or not one of the names.

    Example:

    >>> quantizer = ResidualQuantizer(levels=3, codebook_size=16, dim=8)
    >>> quantizer.initialize(np.random.default_rng(0).normal(size=(500, 8)))
    >>> quantizer(np.zeros((2, 8), "float32")).codes.shape
    (2, 3)

    Reference:
        [Lee et al., 2022, Autoregressive Image Generation using Residual Quantization](
        https://arxiv.org/abs/2203.01941)
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        assignment: str = "nearest",
        gradient: str = "straight_through",
        seed: int = 0,
        usage_momentum: float = 0.95,
        **kwargs: Any,
    ) -> None:
        super().__init__(levels, codebook_size, dim, seed, usage_momentum, **kwargs)
        choices: dict[str, tuple[str, Any]] = {
            "assignment": (assignment, ASSIGNMENTS),
            "gradient": (gradient, GRADIENTS),
        }
        for name, (value, known) in choices.items():
            if value not in known:
                raise ValueError(f"{name} must be one of {sorted(known)}, got {value!r}.")
        self.assignment = assignment
        self.gradient = gradient
        self._costs = ASSIGNMENTS[assignment]
        self._estimate = GRADIENTS[gradient]
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the codebooks `[L, K, D]`, each level half as wide as the one before."""
        if self.built:
            return
        super().build(input_shape)
        rng = np.random.default_rng(self.seed)
        shape = (self.levels, self.codebook_size, self.dim)
        scale = (0.5 ** np.arange(self.levels))[:, None, None] / np.sqrt(self.dim)
        start = (rng.normal(size=shape) * scale).astype("float32")
        self.codebooks = self.add_weight(name="codebooks", shape=shape, initializer="zeros")
        self.codebooks.assign(start)

    def call(self, vectors: Any, training: bool | None = None) -> QuantizerOutput:
        """Quantizes vectors, float `[B, D]`.

        Args:
            vectors: What to quantize.
            training: Whether the codes count as use of the codebook.

        Returns:
            `QuantizerOutput`.
        """
        codebooks = ops.convert_to_tensor(self.codebooks)
        residual, total = vectors, ops.zeros_like(vectors)
        codes, inputs, chosen, norms = [], [], [], [ops.norm(ops.stop_gradient(vectors), axis=-1)]
        for level in range(self.levels):
            costs = self._costs(ops.stop_gradient(residual), ops.stop_gradient(codebooks[level]))
            code = ops.argmin(costs, axis=-1)
            vector = ops.take(codebooks[level], code, axis=0)
            codes.append(ops.cast(code, "int32"))
            inputs.append(residual)
            chosen.append(vector)
            # A later level sees the earlier ones as given; their codebooks learn from their own
            # loss term alone (RQ-VAE).
            total = total + ops.stop_gradient(vector)
            residual = vectors - total
            norms.append(ops.norm(ops.stop_gradient(residual), axis=-1))
        stacked = ops.stack(codes, axis=1)
        if training:
            self.observe(stacked)
        return QuantizerOutput(
            codes=stacked,
            quantized=self._estimate(vectors, total),
            inputs=ops.stack(inputs, axis=1),
            vectors=ops.stack(chosen, axis=1),
            residual_norms=ops.stack(norms, axis=1),
        )

    def ranked_codes(self, vectors: Any, count: int) -> Any:
        """Returns the best code tuples of each vector by a beam search over the levels.

        Args:
            vectors: float `[B, D]`.
            count: Tuples per vector, at most K ** L.

        Returns:
            int32 `[B, count, L]`, all different: first the codes that `call` assigns, then by
            rising distance between the vector and what the codes stand for. The beam is `count`
            wide, so a tuple whose prefix is far worse than its end may be passed over.

        Raises:
            ValueError: There are not `count` tuples.
        """
        if not 1 <= count <= self.codebook_size**self.levels:
            raise ValueError(
                f"count must be in [1, {self.codebook_size}^{self.levels}], got {count}."
            )
        residuals = vectors[:, None]
        codes = ops.zeros((ops.shape(vectors)[0], 1, 0), dtype="int32")
        beams = 1
        for level in range(self.levels):
            width = self.codebook_size
            costs = self._costs(residuals, self.codebooks[level])
            # Beam 0 holds the greedy prefix; its cheapest child stays in front.
            greedy = ops.one_hot(ops.argmin(costs[:, 0], axis=-1), width, dtype="bool")
            costs = ops.concatenate(
                [ops.where(greedy, -1.0, costs[:, 0])[:, None], costs[:, 1:]], axis=1
            )
            kept = min(count, beams * width)
            _, best = ops.top_k(-ops.reshape(costs, (-1, beams * width)), kept)
            parents, code = best // width, best % width
            codes = ops.concatenate(
                [
                    ops.take_along_axis(codes, parents[..., None], axis=1),
                    ops.cast(code, "int32")[..., None],
                ],
                axis=-1,
            )
            residuals = ops.take_along_axis(residuals, parents[..., None], axis=1) - ops.take(
                self.codebooks[level], code, axis=0
            )
            beams = kept
        return codes

    def decode(self, codes: Any) -> Any:
        """Returns the sum of the code vectors, float `[B, D]`, for codes int `[B, L]`."""
        return sum(
            ops.take(self.codebooks[level], codes[:, level], axis=0) for level in range(self.levels)
        )

    def initialize(self, vectors: np.ndarray, seed: int = 0) -> None:
        """Sets the codebooks by k-means on the residuals, level after level.

        Args:
            vectors: float `[N, D]`; a few thousand are enough.
            seed: Seed of k-means.

        Raises:
            ValueError: No vectors, a wrong size, or values that are not finite.
        """
        residual = np.asarray(vectors, "float32")
        if residual.ndim != 2 or residual.shape[1] != self.dim or not len(residual):
            raise ValueError(f"vectors must be [N > 0, {self.dim}], got {residual.shape}.")
        if not np.isfinite(residual).all():
            raise ValueError("vectors hold NaN or infinity; check the features that made them.")
        books = []
        for level in range(self.levels):
            centers = kmeans_centers(residual, self.codebook_size, seed + level)
            books.append(centers)
            distances = ops.convert_to_numpy(self._costs(residual, centers))
            residual = residual - centers[np.argmin(distances, axis=-1)]
        self.codebooks.assign(np.stack(books))
        self.usage.assign(np.ones(self.usage.shape, "float32"))
        self.initialized.assign(1.0)

    def revive(self, threshold: float = 0.05, seed: int = 0) -> int:
        """Splits the most used codes onto dead ones.

        A dead code becomes a copy of a busy one, moved by a small step, and takes half of its use
        (LBG splitting). It needs no data, so it works between any two steps of training.

        Args:
            threshold: A code below this share of even use is dead.
            seed: Seed of the step.

        Returns:
            Number of codes moved, all levels together.
        """
        usage = ops.convert_to_numpy(self.usage).copy()
        books = ops.convert_to_numpy(self.codebooks).copy()
        rng = np.random.default_rng(seed)
        moved = 0
        for use, book in zip(usage, books, strict=True):
            dead = np.flatnonzero(use < threshold)
            # Dead codes may lie anywhere; the live ones say how wide the data is.
            spread = 0.1 * book[use >= min(threshold, use.max())].std(axis=0) + 1e-4
            for code in dead:
                source = int(np.argmax(use))
                book[code] = book[source] + rng.normal(size=self.dim) * spread
                use[code] = use[source] = use[source] / 2
            moved += len(dead)
        if moved:
            self.codebooks.assign(books)
            self.usage.assign(usage)
        return moved

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "assignment": self.assignment,
            "gradient": self.gradient,
        }
