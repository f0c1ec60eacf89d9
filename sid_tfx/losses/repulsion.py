"""Hamming-guided margin repulsion with conflict-aware valid pair masking (QuaSID)."""

import itertools
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.directions import to_unit

# Odd numbers near 2^31: a product that wraps around spreads small codes over all of int32.
_HASH = np.array([0x9E3779B1, 0x85EBCA6B, 0xC2B2AE35, 0x27D4EB2F], np.uint32).astype(np.int32)


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
    return _conflicts(ad_row, ops.arange(rows), rows)


def _conflicts(ad_row: Any, position: Any, rows: Any) -> Any:
    """Returns `conflict_mask` of a part of a batch of `rows` rows, bool `[R, R]`."""
    constructed = ops.equal(ops.abs(position[:, None] - position[None]), rows // 2)
    same_ad = ops.equal(ad_row[:, None], ad_row[None])
    return ops.logical_not(ops.logical_or(constructed, same_ad))


@keras.saving.register_keras_serializable(package="sid_tfx")
class HammingMarginRepulsion(keras.layers.Layer):
    """HaMR: ads whose codes collide are pushed apart before quantization.

    H = number of differing code positions, D = 1 - cosine of the continuous vectors. Pairs with
    H = 0 pay max(0, full_margin - D), pairs with 0 < H <= radius pay max(0, partial_margin - D);
    each group is averaged. Codes are only indicators: the gradient reaches the vectors alone.

    Few rows have a partner whose codes are that close, and sorting finds them: two rows within R
    agree on some L - R positions, so each choice of positions makes one integer key per row, and
    rows without a twin under any key are left out. Pairs are formed among the rest alone. The
    result is exact: a hash that two keys share only adds a row.

    Args:
        full_margin: Wanted distance of ads with equal codes.
        partial_margin: Wanted distance of ads whose codes are within `radius`.
        radius: R, the largest H of the second group.
        full_weight: Weight of the first group.
        partial_weight: Weight of the second group.
        mask_conflicts: Whether pairs that CVPM finds no conflict are left out; False leaves out a
            row's pair with itself alone, as the paper's ablation without CVPM.

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
        mask_conflicts: bool = True,
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
        self.mask_conflicts = mask_conflicts

    def call(self, vectors: Any, codes: Any, ad_row: Any) -> Any:
        """Returns a scalar.

        Args:
            vectors: float `[2B, D]`, before quantization.
            codes: int `[2B, L]`.
            ad_row: int `[2B]`, which ad a row is; row i pairs with row i + B.
        """
        unit = to_unit(vectors)
        fixed = ops.stop_gradient(unit)
        codes = ops.cast(codes, "int32")
        rows = ops.shape(ad_row)[0]
        order, count = _candidates(codes, self.radius)

        def among(kept: Any) -> Any:
            return self._among(fixed, codes, ad_row, kept)

        # Shapes must not follow the data on every backend, so there are three sizes to choose from.
        value, slopes = ops.cond(
            count <= rows // 4,
            lambda: among(order[: rows // 4]),
            lambda: ops.cond(
                count <= rows // 2, lambda: among(order[: rows // 2]), lambda: among(order)
            ),
        )
        # A hinge is linear where it is not 0, so its slopes are at hand without a backward pass
        # over pairs. The product is 0 and carries them.
        slopes, value = ops.stop_gradient(slopes), ops.stop_gradient(value)
        return value + ops.sum((unit - fixed) * slopes)

    def _among(self, unit: Any, codes: Any, ad_row: Any, kept: Any) -> tuple[Any, Any]:
        """Returns the loss of the pairs among the kept rows and its slopes by all of `unit`."""
        rows, dim = ops.shape(unit)
        unit, codes, ad_row = (ops.take(part, kept, axis=0) for part in (unit, codes, ad_row))
        cosine = ops.matmul(unit, ops.transpose(unit))
        differing = sum(
            ops.cast(ops.not_equal(code[:, None], code[None]), "int8")
            for code in ops.unstack(codes, axis=1)
        )
        if self.mask_conflicts:
            valid = _conflicts(ad_row, kept, rows)
        else:
            valid = ops.not_equal(kept[:, None], kept[None])
        near = ops.logical_and(ops.greater(differing, 0), ops.less_equal(differing, self.radius))
        groups = (
            (ops.equal(differing, 0), self.full_margin, self.full_weight),
            (near, self.partial_margin, self.partial_weight),
        )
        # max(0, margin - D) = active (margin - 1 + cosine), for both orders of a pair.
        pull, value = ops.zeros_like(cosine), 0.0
        for group, margin, weight in groups:
            members = ops.cast(ops.logical_and(valid, group), cosine.dtype)
            active = members * ops.cast(ops.greater(cosine, 1.0 - margin), cosine.dtype)
            slope = weight / (ops.sum(members) + 1e-8)
            pull += slope * active
            value += slope * (margin - 1.0) * ops.sum(active)
        pulled = ops.matmul(pull, unit)
        value += ops.sum(unit * pulled)
        return value, ops.scatter(kept[:, None], 2.0 * pulled, (rows, dim))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "full_margin": self.full_margin,
            "partial_margin": self.partial_margin,
            "radius": self.radius,
            "full_weight": self.full_weight,
            "partial_weight": self.partial_weight,
            "mask_conflicts": self.mask_conflicts,
        }


def _candidates(codes: Any, radius: int) -> tuple[Any, Any]:
    """Returns the rows of codes int32 `[B, L]`, those with a near row first, and their number.

    Every row that has another within `radius` is among them; so are a few that have none.
    """
    rows, levels = ops.shape(codes)[0], codes.shape[1]
    if radius >= levels:
        return ops.arange(rows), rows
    factors = np.resize(_HASH, levels) * np.arange(1, 2 * levels, 2, dtype="int32")
    terms = ops.unstack(codes * factors, axis=1)
    chosen = itertools.combinations(terms, levels - radius)
    keys = ops.stack([sum(parts[1:], parts[0]) for parts in chosen])
    order = ops.argsort(keys, axis=-1)
    ordered = ops.take_along_axis(keys, order, axis=-1)
    twin = ops.equal(ordered[:, 1:], ordered[:, :-1])
    edge = ops.zeros_like(keys[:, :1], dtype="bool")
    twins = ops.logical_or(
        ops.concatenate([edge, twin], axis=1), ops.concatenate([twin, edge], axis=1)
    )
    back = ops.argsort(order, axis=-1)
    found = ops.cast(ops.any(ops.take_along_axis(twins, back, axis=-1), axis=0), "int32")
    return ops.argsort(-found), ops.sum(found)
