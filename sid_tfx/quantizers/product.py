"""Product quantization: each level quantizes a part of the vector of its own."""

from typing import Any

import keras

from sid_tfx.quantizers.slices import even_slices
from sid_tfx.quantizers.vector import VectorQuantizer


@keras.saving.register_keras_serializable(package="sid_tfx")
class ProductQuantizer(VectorQuantizer):
    """Codebooks of disjoint slices; with `rotation=True`, optimized product quantization.

    Args:
        levels: L, codes per vector, one for each slice; at most `dim`.
        codebook_size: K, values of a code.
        dim: D, size of a vector. Slices differ by 1 where `levels` does not divide it.
        **options: Those of `VectorQuantizer`.

    Raises:
        ValueError: An argument is out of its range or contradicts another.

    Example:

    >>> quantizer = ProductQuantizer(levels=4, codebook_size=16, dim=32, rotation=True)
    >>> quantizer.initialize(np.random.default_rng(0).normal(size=(500, 32)))
    >>> quantizer(np.zeros((2, 32), "float32")).codes.shape
    (2, 4)

    Reference:
        [Jégou et al., 2011, Product Quantization for Nearest Neighbor Search](
        https://ieeexplore.ieee.org/document/5432202); rotated: [Ge et al., 2013, Optimized
        Product Quantization](https://ieeexplore.ieee.org/document/6678503)
    """

    def __init__(self, levels: int, codebook_size: int, dim: int, **options: Any) -> None:
        slices = even_slices("levels", levels, dim)
        super().__init__(levels, codebook_size, dim, slices, **options)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        config = super().get_config()
        del config["slices"]  # made of the others
        return config
