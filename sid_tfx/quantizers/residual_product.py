"""Residual, then product quantization of what is left (RQ-OPQ)."""

from typing import Any

import keras

from sid_tfx.quantizers.slices import even_slices
from sid_tfx.quantizers.vector import VectorQuantizer


@keras.saving.register_keras_serializable(package="sid_tfx")
class ResidualProductQuantizer(VectorQuantizer):
    """The first levels quantize the whole vector, the others share what is left in slices.

    The slices are cut in a learned, rotated space unless `rotation=False`.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        residual_levels: Levels that quantize the whole vector, fewer than `levels`.
        rotation: Whether a learned orthogonal matrix turns vectors before they are cut.
        **options: The others of `VectorQuantizer`.

    Raises:
        ValueError: An argument is out of its range or contradicts another.

    Example:

    >>> quantizer = ResidualProductQuantizer(levels=3, codebook_size=16, dim=8)
    >>> quantizer.slices
    [(0, 8), (0, 4), (4, 8)]

    Reference:
        [Chen et al., 2025, OneSearch: a Unified End-to-End Generative Framework for E-commerce
        Search](https://arxiv.org/abs/2509.03236), RQ-OPQ
    """

    def __init__(
        self,
        levels: int,
        codebook_size: int,
        dim: int,
        residual_levels: int = 1,
        rotation: bool = True,
        **options: Any,
    ) -> None:
        if not 1 <= residual_levels < levels:
            raise ValueError(
                f"residual_levels must be in [1, levels={levels} - 1], got {residual_levels}; for "
                "none use ProductQuantizer, for all ResidualQuantizer."
            )
        parts = even_slices("levels - residual_levels", levels - residual_levels, dim)
        if len(parts) == 1 and rotation:
            raise ValueError(
                "rotation=True changes nothing where one level is left for the product; use more "
                "levels or rotation=False."
            )
        slices = [(0, dim)] * residual_levels + parts
        super().__init__(levels, codebook_size, dim, slices, rotation=rotation, **options)
        self.residual_levels = residual_levels

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "residual_levels": self.residual_levels}
        del config["slices"]  # made of the others
        return config
