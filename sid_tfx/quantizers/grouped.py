"""Grouped residual quantization: residual codebooks within parts of the vector."""

from typing import Any

import keras

from sid_tfx.quantizers.slices import even_slices
from sid_tfx.quantizers.vector import VectorQuantizer


@keras.saving.register_keras_serializable(package="sid_tfx")
class GroupedResidualQuantizer(VectorQuantizer):
    """Groups of dimensions, each quantized by residual codebooks of its own (GRVQ).

    Level l, from 0, belongs to group l % groups and quantizes what that group's levels left.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector. Groups differ by 1 where `groups` does not divide it.
        groups: Parts of the vector; at most `levels`, so that none is left out.
        **options: Those of `VectorQuantizer`.

    Raises:
        ValueError: An argument is out of its range or contradicts another.

    Example:

    >>> quantizer = GroupedResidualQuantizer(levels=4, codebook_size=16, dim=8, groups=2)
    >>> quantizer.slices
    [(0, 4), (4, 8), (0, 4), (4, 8)]

    Reference:
        [Yang et al., 2023, HiFi-Codec: Group-residual Vector Quantization](
        https://arxiv.org/abs/2305.02765)
    """

    def __init__(
        self, levels: int, codebook_size: int, dim: int, groups: int = 2, **options: Any
    ) -> None:
        parts = even_slices("groups", groups, dim)
        if groups > levels:
            raise ValueError(
                f"groups must be at most levels={levels}, got {groups}: a group without a level "
                "would be left out of the codes."
            )
        if groups == 1 and options.get("rotation"):
            raise ValueError("rotation=True changes nothing with groups=1; use groups=2 or more.")
        slices = [parts[level % groups] for level in range(levels)]
        super().__init__(levels, codebook_size, dim, slices, **options)
        self.groups = groups

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "groups": self.groups}
        del config["slices"]  # made of the others
        return config
