"""Projection to the low-dimensional space in which a level matches its codes."""

from typing import Any

import keras
import numpy as np
from keras import ops


class Projection(keras.layers.Layer):
    """One linear map down and one up again per level, without bias.

    Args:
        widths: Size of what each level quantizes.
        dim: Size of the space between.
        seed: Seed of the start: orthonormal directions.

    Reference:
        [Yu et al., 2022, Vector-quantized Image Modeling with Improved VQGAN](
        https://arxiv.org/abs/2110.04627); in residual form: [Kumar et al., 2023, Descript Audio
        Codec](https://arxiv.org/abs/2306.06546)
    """

    def __init__(self, widths: list[int], dim: int, seed: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.widths = widths
        self.dim = dim
        rng = np.random.default_rng(seed)
        down = np.zeros((len(widths), max(widths), dim), "float32")
        for level, width in enumerate(widths):
            down[level, :width] = np.linalg.qr(rng.normal(size=(width, dim)))[0]
        self.down_kernel = self.add_weight(name="down", shape=down.shape, initializer="zeros")
        self.up_kernel = self.add_weight(
            name="up", shape=(len(widths), dim, max(widths)), initializer="zeros"
        )
        self.assign(down, down.transpose(0, 2, 1))
        self.built = True

    def down(self, vectors: Any, level: int) -> Any:
        """Returns float `[B, dim]` for float `[B, widths[level]]`."""
        return ops.matmul(vectors, self.down_kernel[level][: self.widths[level]])

    def up(self, vectors: Any, level: int) -> Any:
        """Returns float `[..., widths[level]]` for float `[..., dim]`."""
        return ops.matmul(vectors, self.up_kernel[level][:, : self.widths[level]])

    def maps(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns both maps, as `assign` takes them."""
        return ops.convert_to_numpy(self.down_kernel), ops.convert_to_numpy(self.up_kernel)

    def assign(self, down: np.ndarray, up: np.ndarray) -> None:
        """Sets both maps, float `[L, W, dim]` and `[L, dim, W]`, zero past each level's width."""
        self.down_kernel.assign(down)
        self.up_kernel.assign(up)
