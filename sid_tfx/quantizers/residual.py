"""Residual quantization: each level quantizes what the levels before left over."""

from typing import Any

import keras

from sid_tfx.quantizers.vector import VectorQuantizer


@keras.saving.register_keras_serializable(package="sid_tfx")
class ResidualQuantizer(VectorQuantizer):
    """Residual codebooks, as RQ-VAE and QuaSID use them.

    Level l picks the code vector nearest to what levels 1 to l - 1 left over of the vector; the
    vector is approximated by the sum of the L code vectors.

    With `coarse_dim`, all levels but the last see only the leading dimensions of the vector. What
    the others say tells vectors apart that share a prefix, and the prefix doesn't follow it.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
        coarse_dim: Leading dimensions that all levels but the last quantize, fewer than `dim`;
            None for all of them.
        **options: Those of `VectorQuantizer`, without `rotation`.

    Raises:
        ValueError: An argument is out of its range or contradicts another.

    Example:

    >>> quantizer = ResidualQuantizer(levels=3, codebook_size=16, dim=8, gradient="rotation")
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
        coarse_dim: int | None = None,
        **options: Any,
    ) -> None:
        if options.get("rotation"):
            raise ValueError(
                "rotation=True changes nothing in a residual quantizer: each level sees the whole "
                "vector, and distances don't turn. Use ProductQuantizer or "
                "ResidualProductQuantizer, or leave it out."
            )
        if coarse_dim is not None and levels < 2:
            raise ValueError(
                f"coarse_dim={coarse_dim} is for the levels before the last, and with "
                f"levels={levels} there is none; leave it out."
            )
        if coarse_dim is not None and not 1 <= coarse_dim < dim:
            raise ValueError(f"coarse_dim must be in [1, dim={dim} - 1], got {coarse_dim}.")
        slices = [(0, coarse_dim or dim)] * (levels - 1) + [(0, dim)]
        super().__init__(levels, codebook_size, dim, slices, **options)
        self.coarse_dim = coarse_dim

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = {**super().get_config(), "coarse_dim": self.coarse_dim}
        del config["slices"]  # made of the others
        return config
