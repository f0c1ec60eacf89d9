"""Codebooks: where the code vectors of all levels are kept."""

import abc
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.quantizers.slices import Slices


def random_codes(slices: Slices, widths: list[int], size: int, seed: int) -> np.ndarray:
    """Returns random code vectors to start from, float32 `[L, K, W]`, zero past a level's width.

    They are half as long at each further level that quantizes dimensions of a level before it.

    Args:
        slices: First dimension and end of what each level quantizes.
        widths: Size of a code vector at each level.
        size: K.
        seed: Seed of the draw.
    """
    width = max(widths)
    codes = np.random.default_rng(seed).normal(size=(len(slices), size, width))
    seen = [
        sum(first < stop and start < last for first, last in slices[:level])
        for level, (start, stop) in enumerate(slices)
    ]
    scale = 0.5 ** np.array(seen) / np.sqrt(widths)
    inside = np.arange(width) < np.array(widths)[:, None]
    return (codes * (inside * scale[:, None])[:, None]).astype("float32")


class Codebook(keras.layers.Layer, abc.ABC):
    """Code vectors `[L, K, W]`; level l uses the first `widths[l]` of the W values.

    Args:
        start: First code vectors, float `[L, K, W]`, zero past each level's width.
        widths: Size of a code vector at each level.
        trainable: Whether gradients move them.

    Attributes:
        vectors: The code vectors, float `[L, K, W]`; gradients reach the weights.
    """

    vectors: Any

    def __init__(
        self, start: np.ndarray, widths: list[int], trainable: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(trainable=trainable, **kwargs)
        self.widths = widths
        self._create(start)
        self.built = True

    @abc.abstractmethod
    def _create(self, start: np.ndarray) -> None:
        """Creates the weights that hold `start`."""

    @abc.abstractmethod
    def assign(self, vectors: np.ndarray) -> None:
        """Sets all code vectors, float `[L, K, W]`."""

    @abc.abstractmethod
    def move(self, vectors: np.ndarray, moved: np.ndarray) -> None:
        """Sets the code vectors where `moved`, bool `[L, K]`; the others stay as they are."""


class TableCodebook(Codebook):
    """Free code vectors."""

    def _create(self, start: np.ndarray) -> None:
        """Creates the table."""
        self.vectors = self.add_weight(
            name="vectors", shape=start.shape, initializer="zeros", trainable=self.trainable
        )
        self.vectors.assign(start)

    def assign(self, vectors: np.ndarray) -> None:
        """Sets the table."""
        self.vectors.assign(vectors)

    def move(self, vectors: np.ndarray, moved: np.ndarray) -> None:
        """Sets the rows that moved."""
        self.vectors.assign(np.where(moved[..., None], vectors, self.vectors))


class LinearCodebook(Codebook):
    """A frozen basis times a learned matrix per level: the whole codebook moves together.

    Codes out of use move with the others, so that they stay near the data.

    Reference:
        [Zhu et al., 2024, Addressing Representation Collapse in Vector Quantized Models with One
        Linear Layer (SimVQ)](https://arxiv.org/abs/2411.02038)
    """

    def _create(self, start: np.ndarray) -> None:
        """Creates the basis and, as identities, the matrices."""
        levels, _, width = start.shape
        self.basis = self.add_weight(
            name="basis", shape=start.shape, initializer="zeros", trainable=False
        )
        self.matrix = self.add_weight(
            name="matrix", shape=(levels, width, width), initializer="zeros"
        )
        self.assign(start)

    @property
    def vectors(self) -> Any:
        """Basis @ matrix."""
        return ops.matmul(self.basis, self.matrix)

    def assign(self, vectors: np.ndarray) -> None:
        """Makes the vectors the basis and the matrices identities."""
        self.basis.assign(vectors)
        self.matrix.assign(np.broadcast_to(np.eye(vectors.shape[-1]), self.matrix.shape))

    def move(self, vectors: np.ndarray, moved: np.ndarray) -> None:
        """Moves rows of the basis to where the matrix makes the vectors of them.

        Raises:
            ValueError: A matrix can't be inverted.
        """
        basis = ops.convert_to_numpy(self.basis).copy()
        matrices = ops.convert_to_numpy(self.matrix).astype("float64")
        for level, width in enumerate(self.widths):
            matrix = matrices[level, :width, :width]
            if not np.linalg.cond(matrix) < 1e6:
                raise ValueError(
                    f"The matrix of level {level + 1} of codebook='linear' is singular: not every "
                    "vector is in its reach, so dead codes can't be revived. Lower the learning "
                    "rate, call initialize(), or use codebook='table'."
                )
            rows = moved[level]
            wanted = vectors[level, rows, :width]
            basis[level, rows, :width] = np.linalg.solve(matrix.T, wanted.T).T
        self.basis.assign(basis)


CODEBOOKS: dict[str, type[Codebook]] = {"table": TableCodebook, "linear": LinearCodebook}
