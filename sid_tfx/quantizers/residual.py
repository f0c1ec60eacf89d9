"""Residual quantization: each level quantizes what the levels before left over."""

from typing import Any

import keras

from sid_tfx.quantizers.vector import VectorQuantizer


@keras.saving.register_keras_serializable(package="sid_tfx")
class ResidualQuantizer(VectorQuantizer):
    """Residual codebooks, as RQ-VAE and QuaSID use them.

    Level l picks the code vector nearest to what levels 1 to l - 1 left over of the vector; the
    vector is approximated by the sum of the L code vectors.

    Args:
        levels: L, codes per vector.
        codebook_size: K, values of a code.
        dim: D, size of a vector.
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

    def __init__(self, levels: int, codebook_size: int, dim: int, **options: Any) -> None:
        if options.get("rotation"):
            raise ValueError(
                "rotation=True changes nothing in a residual quantizer: each level sees the whole "
                "vector, and distances don't turn. Use ProductQuantizer or "
                "ResidualProductQuantizer, or leave it out."
            )
        super().__init__(levels, codebook_size, dim, [(0, dim)] * levels, **options)
