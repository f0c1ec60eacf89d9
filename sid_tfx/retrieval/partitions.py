"""Vectors cut into partitions of nearly equal size: k-means, the large ones split."""

import math
from typing import NamedTuple

import numpy as np

from sid_tfx.quantizers.initialization import assign, kmeans_centers

_SAMPLE_PER_PARTITION = 64


class Partitions(NamedTuple):
    """Rows by partition.

    Attributes:
        centers: float32 [P, D], the mean of each partition.
        rows: int32 [P, M], the rows in each, then -1.
    """

    centers: np.ndarray
    rows: np.ndarray


def partition(vectors: np.ndarray, count: int, iterations: int = 10, seed: int = 0) -> Partitions:
    """Cuts vectors into about `count` partitions, none much larger than the mean.

    Partitions are read whole and padded to one size, so a large one would cost every search.

    Args:
        vectors: float32 [N, D].
        count: Partitions of the k-means; splitting adds to them.
        iterations: Its steps.
        seed: Draws its sample and its first centers.

    Returns:
        Every row in exactly one partition, no partition empty.
    """
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(vectors))
    sample = vectors[np.sort(order[: _SAMPLE_PER_PARTITION * count])]
    start = vectors[order[:count]]
    centers = kmeans_centers(sample, count, seed, iterations, start)
    nearest = assign(vectors, centers)
    members = np.split(
        np.argsort(nearest, kind="stable"),
        np.cumsum(np.bincount(nearest, minlength=count))[:-1],
    )
    capacity = math.ceil(1.25 * len(vectors) / count)
    parts = [part for rows in members if len(rows) for part in _split(vectors, rows, capacity)]
    table = np.full([len(parts), max(map(len, parts))], -1, np.int32)
    for row, part in zip(table, parts, strict=True):
        row[: len(part)] = part
    means = np.stack([vectors[part].mean(axis=0) for part in parts])
    return Partitions(means.astype(np.float32), table)


def _split(vectors: np.ndarray, rows: np.ndarray, capacity: int) -> list[np.ndarray]:
    """Cuts rows into equal parts of at most `capacity`, across their widest direction."""
    parts = math.ceil(len(rows) / capacity)
    if parts == 1:
        return [rows]
    centered = vectors[rows] - vectors[rows].mean(axis=0)
    _, directions = np.linalg.eigh(centered.T @ centered)
    order = np.argsort(centered @ directions[:, -1], kind="stable")
    return [np.sort(part) for part in np.array_split(rows[order], parts)]
