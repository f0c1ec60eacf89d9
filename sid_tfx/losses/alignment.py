"""Collaborative alignment: what codes stand for agrees with who engages with the ad (LETTER)."""

from typing import Any

import keras
from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.losses.contrastive import MASKED, check_temperature
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class CollaborativeAlignment(keras.layers.Layer):
    """L_CF of LETTER: a quantized vector finds its ad's collaborative vector in the batch.

    -1/B sum_i log(exp(S_ii) / sum_j exp(S_ij)), S_ij = cosine(W q_i, h_j) / tau, with q the
    quantized and h the collaborative vectors. Rows without a collaborative vector, all zero, are
    no rows and no candidates; another row of the same ad is no negative.

    LETTER takes the inner product; here both sides have length 1, because the collaborative vectors
    are given and their length says how popular an ad is.

    Args:
        dim: D, size of a quantized vector.
        collaborative_dim: C, size of a collaborative vector.
        temperature: tau.
        seed: Seed of the projection W from D to C.

    Raises:
        ValueError: A size is below 1, or `temperature` is not above 0.

    Example:

    >>> alignment = CollaborativeAlignment(dim=4, collaborative_dim=2)
    >>> float(alignment(np.ones((3, 4)), np.zeros((3, 2)), np.arange(3)))
    0.0

    Reference:
        LETTER, arXiv 2405.07314, collaborative regularization.
    """

    built: bool

    def __init__(
        self,
        dim: int,
        collaborative_dim: int,
        temperature: float = 0.07,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, size in {"dim": dim, "collaborative_dim": collaborative_dim}.items():
            if size < 1:
                raise ValueError(f"{name} must be at least 1, got {size}.")
        self.dim = dim
        self.collaborative_dim = collaborative_dim
        self.temperature = check_temperature(temperature)
        self.seed = seed
        self.projection = SeededLayers(seed).dense(collaborative_dim, name="projection")
        self.projection.build((None, dim))
        self.built = True

    def call(self, quantized: Any, collaborative: Any, ad_row: Any) -> Any:
        """Returns a scalar, 0 when no row has a collaborative vector.

        Args:
            quantized: float `[B, D]`, with the quantizer's gradient estimator applied.
            collaborative: float `[B, C]`, all zero for an ad without training events.
            ad_row: int `[B]`, which ad a row is.
        """
        known = ops.any(ops.not_equal(collaborative, 0), axis=-1)
        ours = to_unit(self.projection(quantized))
        theirs = to_unit(ops.cast(collaborative, ours.dtype))
        logits = ops.matmul(ours, ops.transpose(theirs)) / self.temperature
        same_ad = ops.equal(ad_row[:, None], ad_row[None])
        other_row = ops.logical_not(ops.eye(ops.shape(ad_row)[0], dtype="bool"))
        left_out = ops.logical_or(
            ops.logical_and(same_ad, other_row), ops.logical_not(known)[None, :]
        )
        normalizer = ops.logsumexp(ops.where(left_out, MASKED, logits), axis=-1)
        counts = ops.cast(known, logits.dtype)
        losses = counts * (normalizer - ops.diagonal(logits))
        return ops.sum(losses) / ops.maximum(ops.sum(counts), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "dim": self.dim,
            "collaborative_dim": self.collaborative_dim,
            "temperature": self.temperature,
            "seed": self.seed,
        }
