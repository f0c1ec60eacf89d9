"""Codebook initialization from data."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

_CHUNK = 8192


def kmeans_centers(
    vectors: np.ndarray,
    clusters: int,
    seed: int,
    iterations: int = 20,
    start: np.ndarray | None = None,
) -> np.ndarray:
    """Returns k-means centers, also where there are fewer different vectors than clusters.

    Args:
        vectors: float `[N, D]`, N >= 1.
        clusters: K.
        seed: Seed of the starting centers.
        iterations: Lloyd steps at most.
        start: Starting centers, float `[K, D]`; None for k-means++.

    Returns:
        float32 `[K, D]`, no two rows equal.
    """
    rng = np.random.default_rng(seed)
    short = clusters - len(vectors)
    if short > 0:
        vectors = np.concatenate([vectors, vectors[rng.integers(len(vectors), size=short)]])
    with warnings.catch_warnings():
        # Fewer distinct vectors than clusters is a small catalogue, not a fault; the jitter below
        # parts the equal centers.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = KMeans(
            clusters,
            init="k-means++" if start is None else start,
            n_init=1,
            max_iter=iterations,
            random_state=seed,
        ).fit(vectors)
    centers = model.cluster_centers_
    jitter = 1e-4 * (vectors.std() + 1e-3)
    return (centers + jitter * rng.normal(size=centers.shape)).astype("float32")


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Returns rows of length 1, float `[N, D]`; a zero row stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)


def assign(
    vectors: np.ndarray, centers: np.ndarray, offsets: np.ndarray | None = None
) -> np.ndarray:
    """Returns the cluster of each vector, int `[N]`: least squared distance plus offset.

    Args:
        vectors: float `[N, D]`.
        centers: float `[K, D]`.
        offsets: float `[K]`; None for none.
    """
    halves = (np.square(centers).sum(-1) + (0.0 if offsets is None else offsets)) / 2
    parts = [
        (vectors[start : start + _CHUNK] @ centers.T - halves).argmax(-1)
        for start in range(0, len(vectors), _CHUNK)
    ]
    return np.concatenate(parts)


def kmeans(
    vectors: np.ndarray, clusters: int, seed: int, spherical: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns k-means centers float32 `[K, D]` and offsets of zero `[K]`.

    Args:
        vectors: float `[N, D]`.
        clusters: K.
        seed: Seed of the starting centers.
        spherical: Whether vectors, and so centers, have length 1.
    """
    centers = kmeans_centers(vectors, clusters, seed)
    return unit_rows(centers) if spherical else centers, np.zeros(clusters, "float32")


def balanced_kmeans(
    vectors: np.ndarray, clusters: int, seed: int, spherical: bool = False, rounds: int = 6
) -> tuple[np.ndarray, np.ndarray]:
    """Returns centers and offsets whose clusters hold nearly N / K vectors each.

    An auction: a crowded cluster's offset rises, an empty one's falls, until the least squared
    distance plus offset shares the vectors out evenly (a power diagram); the centers move to the
    means of their clusters, and the auction goes on. So a vector's cluster is a function of that
    vector alone, for vectors never seen too.

    Args:
        vectors: float `[N, D]`. An `[N, K]` float32 array of costs is held.
        clusters: K.
        seed: Seed of the starting centers.
        spherical: Whether vectors, and so centers, have length 1.
        rounds: Moves of the centers.

    Returns:
        Centers float32 `[K, D]` and offsets float32 `[K]`. Equal vectors are never parted, so a
        set with many copies is only as even as they let it be.

    Example:

    >>> centers, offsets = balanced_kmeans(vectors, clusters=256, seed=0)
    >>> np.bincount(assign(vectors, centers, offsets)).max() <= 1.1 * len(vectors) / 256
    True
    """
    centers, offsets = kmeans(vectors, clusters, seed, spherical)
    for turn in range(rounds):
        # At first offsets may have to carry vectors from one far crowd to another.
        offsets, codes = _auction(vectors, centers, offsets, steps=60, far=turn == 0)
        members = np.bincount(codes, minlength=clusters)
        order = np.argsort(codes, kind="stable")
        filled = np.flatnonzero(members)
        starts = np.cumsum(members)[filled] - members[filled]
        sums = np.add.reduceat(vectors[order], starts, axis=0)
        centers[filled] = sums / members[filled, None]
        if spherical:
            centers = unit_rows(centers)
    return centers, _auction(vectors, centers, offsets, steps=250)[0]


def _auction(
    vectors: np.ndarray, centers: np.ndarray, offsets: np.ndarray, steps: int, far: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the offsets with the most even clusters met on the way, and those clusters.

    The step starts at the scale of the clusters, or, if `far`, of the gaps between them.
    """
    even = len(vectors) / len(centers)
    costs = vectors @ (-2 * centers.T)
    costs += np.square(centers).sum(-1)
    least_costs = costs.min(-1)
    scale = (costs.mean(-1) - least_costs) if far else least_costs + np.square(vectors).sum(-1)
    sizes = np.geomspace(0.3, 3e-4, steps) * max(float(scale.mean()), 1e-6)
    unevenness, best_offsets, best_codes = np.inf, offsets, np.zeros(len(vectors), int)
    for size in sizes:
        codes = np.concatenate(
            [
                (costs[start : start + _CHUNK] + offsets).argmin(-1)
                for start in range(0, len(costs), _CHUNK)
            ]
        )
        excess = np.bincount(codes, minlength=len(centers)) / even - 1
        if (total := float(np.square(excess).sum())) < unevenness:
            unevenness, best_offsets, best_codes = total, offsets, codes
        offsets = (offsets + size * np.clip(excess, -0.5, 0.5)).astype("float32")
    return best_offsets, best_codes


Initialization = Callable[..., tuple[np.ndarray, np.ndarray]]
INITIALIZATIONS: dict[str, Initialization | None] = {
    "kmeans": kmeans,
    "balanced_kmeans": balanced_kmeans,
    # The codebooks stay as the constructor drew them.
    "random": None,
}
