"""A learned rotation, so that a product of small codebooks fits the data."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.quantizers.initialization import assign, kmeans_centers
from sid_tfx.quantizers.slices import Slices


class OrthogonalRotation(keras.layers.Layer):
    """An orthogonal matrix that gradient descent can't bend: start @ Cayley(skew).

    Args:
        dim: D.

    Reference:
        [Cayley transform](https://arxiv.org/abs/1707.09520): (I + A)^-1 (I - A) is orthogonal for
        skew-symmetric A.
    """

    def __init__(self, dim: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.start = self.add_weight(
            name="start", shape=(dim, dim), initializer="identity", trainable=False
        )
        self.skew = self.add_weight(name="skew", shape=(dim, dim), initializer="zeros")
        self.built = True

    def matrix(self) -> Any:
        """Returns the matrix, float `[D, D]`; rows of vectors are turned by `vectors @ matrix`."""
        skew = self.skew - ops.transpose(self.skew)
        identity = ops.eye(skew.shape[0], dtype=skew.dtype)
        return ops.matmul(self.start, ops.solve(identity + skew, identity - skew))

    def assign(self, matrix: np.ndarray) -> None:
        """Sets the matrix, float `[D, D]`, orthogonal."""
        self.start.assign(matrix)
        self.skew.assign(np.zeros(self.skew.shape, "float32"))


def optimized_rotation(
    vectors: np.ndarray,
    slices: Slices,
    clusters: int,
    seed: int,
    iterations: int = 10,
) -> np.ndarray:
    """Returns the rotation under which codebooks of slices lose least of the vectors.

    Alternates k-means in each slice with the rotation that brings the vectors nearest to what the
    codebooks make of them (orthogonal Procrustes).

    Args:
        vectors: float `[N, D]`.
        slices: First dimension and end of each slice; disjoint.
        clusters: K.
        seed: Seed of k-means.
        iterations: Alternations.

    Returns:
        float32 `[D, D]`, orthogonal: turn with `vectors @ rotation`.

    Reference:
        [Ge et al., 2013, Optimized Product Quantization](https://ieeexplore.ieee.org/document/6678503)
    """
    rotation = _allocated_directions(vectors, slices)
    books: list[np.ndarray | None] = [None] * len(slices)
    for turn in range(iterations):
        turned = vectors @ rotation
        quantized = turned.copy()
        for index, (start, stop) in enumerate(slices):
            part = turned[:, start:stop]
            centers = kmeans_centers(part, clusters, seed + turn, 3, books[index])
            quantized[:, start:stop] = centers[assign(part, centers)]
            books[index] = centers
        left, _, right = np.linalg.svd(vectors.T @ quantized)
        rotation = left @ right
    return np.asarray(rotation, "float32")


def _allocated_directions(vectors: np.ndarray, slices: Slices) -> np.ndarray:
    """Returns principal directions, shared out so that the slices carry alike much variance."""
    centered = vectors - vectors.mean(axis=0)
    values, directions = np.linalg.eigh(centered.T @ centered)
    floor = max(float(values[-1]) * 1e-9, 1e-30)
    logs = np.log(np.maximum(values, floor) / floor)
    free = {index: list(range(start, stop)) for index, (start, stop) in enumerate(slices)}
    # Dimensions outside of every slice take what is left.
    inside = {column for columns in free.values() for column in columns}
    rest = [column for column in range(vectors.shape[1]) if column not in inside]
    load = dict.fromkeys(free, 0.0)
    rotation = np.empty_like(directions)
    for log, direction in zip(logs[::-1], directions.T[::-1], strict=True):
        open_slices = [index for index, columns in free.items() if columns]
        if open_slices:
            # OPQ evens out the product of a slice's variances.
            index = min(open_slices, key=load.__getitem__)
            column = free[index].pop(0)
            load[index] += float(log)
        else:
            column = rest.pop(0)
        rotation[:, column] = direction
    return rotation
