"""Hamming-guided margin repulsion with conflict-aware valid pair masking (QuaSID)."""

from typing import Any

import keras
from keras import ops


def conflict_mask(ad_row: Any) -> Any:
    """Returns CVPM: which ordered pairs of rows are genuine conflicts when their codes collide.

    Left out are the pair that the batch was built of, (i, i + B) both ways, and rows of the same
    ad, itself included (QuaSID, arXiv 2603.00632, CVPM).

    Args:
        ad_row: int `[2B]`, which ad a row is; row i pairs with row i + B.

    Returns:
        bool `[2B, 2B]`.
    """
    rows = ops.shape(ad_row)[0]
    position = ops.arange(rows)
    constructed = ops.equal(ops.abs(position[:, None] - position[None]), rows // 2)
    same_ad = ops.equal(ad_row[:, None], ad_row[None])
    return ops.logical_not(ops.logical_or(constructed, same_ad))


@keras.saving.register_keras_serializable(package="sid_tfx")
class HammingMarginRepulsion(keras.layers.Layer):
    """HaMR: ads whose codes collide are pushed apart before quantization.

    H = number of differing code positions, D = 1 - cosine of the continuous vectors. Pairs with
    H = 0 pay max(0, full_margin - D), pairs with 0 < H <= radius pay max(0, partial_margin - D);
    each group is averaged. Codes are only indicators: the gradient reaches the vectors alone.

    One matrix product gives every D and the codes are compared as integers, so the cost is that of
    one more contrastive term.

    Args:
        full_margin: Wanted distance of ads with equal codes.
        partial_margin: Wanted distance of ads whose codes are within `radius`.
        radius: R, the largest H of the second group.
        full_weight: Weight of the first group.
        partial_weight: Weight of the second group.

    Raises:
        ValueError: An argument is out of its range.

    Reference:
        QuaSID, arXiv 2603.00632, HaMR and CVPM.
    """

    def __init__(
        self,
        full_margin: float = 0.8,
        partial_margin: float = 0.5,
        radius: int = 1,
        full_weight: float = 0.2,
        partial_weight: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, margin in {"full_margin": full_margin, "partial_margin": partial_margin}.items():
            if not 0.0 <= margin <= 2.0:
                raise ValueError(f"{name} is a cosine distance in [0, 2], got {margin}.")
        for name, value in {"full_weight": full_weight, "partial_weight": partial_weight}.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}.")
        if radius < 0:
            raise ValueError(f"radius must not be negative, got {radius}.")
        self.full_margin = full_margin
        self.partial_margin = partial_margin
        self.radius = radius
        self.full_weight = full_weight
        self.partial_weight = partial_weight

    def call(self, vectors: Any, codes: Any, ad_row: Any) -> Any:
        """Returns a scalar.

        Args:
            vectors: float `[2B, D]`, before quantization.
            codes: int `[2B, L]`.
            ad_row: int `[2B]`, which ad a row is; row i pairs with row i + B.
        """
        unit = ops.normalize(vectors, axis=-1)
        distance = 1.0 - ops.matmul(unit, ops.transpose(unit))
        differing = ops.zeros(ops.shape(distance), "int32")
        for level in range(codes.shape[1]):
            code = codes[:, level]
            differing += ops.cast(ops.not_equal(code[:, None], code[None]), "int32")
        valid = conflict_mask(ad_row)
        full = ops.logical_and(valid, ops.equal(differing, 0))
        near = ops.logical_and(ops.greater(differing, 0), ops.less_equal(differing, self.radius))
        partial = ops.logical_and(valid, near)
        return self.full_weight * _hinge(distance, full, self.full_margin) + (
            self.partial_weight * _hinge(distance, partial, self.partial_margin)
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "full_margin": self.full_margin,
            "partial_margin": self.partial_margin,
            "radius": self.radius,
            "full_weight": self.full_weight,
            "partial_weight": self.partial_weight,
        }


def _hinge(distance: Any, group: Any, margin: float) -> Any:
    """Returns the mean of max(0, margin - distance) over the group, 0 when it is empty."""
    members = ops.cast(group, distance.dtype)
    return ops.sum(members * ops.relu(margin - distance)) / (ops.sum(members) + 1e-8)
