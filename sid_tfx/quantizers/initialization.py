"""Codebook initialization from data."""

import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning


def kmeans_centers(
    vectors: np.ndarray, clusters: int, seed: int, iterations: int = 20
) -> np.ndarray:
    """Returns k-means centers, also where there are fewer different vectors than clusters.

    Args:
        vectors: float `[N, D]`, N >= 1.
        clusters: K.
        seed: Seed of the starting centers.
        iterations: Lloyd steps at most.

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
        model = KMeans(clusters, n_init=1, max_iter=iterations, random_state=seed).fit(vectors)
    centers = model.cluster_centers_
    jitter = 1e-4 * (vectors.std() + 1e-3)
    return (centers + jitter * rng.normal(size=centers.shape)).astype("float32")
