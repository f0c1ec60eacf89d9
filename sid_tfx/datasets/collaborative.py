"""Collaborative vectors: ads whose users overlap lie near each other."""

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import eigsh

# An eigenvalue below this share of the largest is rounding, and its vector arbitrary.
_RANK = 1e-6
# A vector shorter than this share of the longest is rounding, too.
_REACHED = 1e-9


def collaborative_vectors(
    pairs: np.ndarray, weights: np.ndarray, rows: int, dim: int = 64, seed: int = 0
) -> np.ndarray:
    """Makes a vector of every ad from the graph of co-engaged pairs: PPMI, then its spectrum's top.

    The weighted graph is made symmetric, each weight w_ij is replaced by max(0, log(w_ij W /
    (w_i w_j))), with w_i the ad's and W the graph's total, and the eigenvectors of the `dim`
    largest eigenvalues are scaled by the root of their values. That is the truncated SVD without
    the directions of negative eigenvalue, along which co-engaged ads point away from each other.
    Mine the pairs from *training* events only, or evaluation sees its own answers.

    Args:
        pairs: int `[P, 2]`, rows of trigger and target, such as Swing pairs; pairs of an ad with
            itself are ignored.
        weights: float `[P]` above 0, such as Swing scores.
        rows: N, ads in the catalogue.
        dim: Size of a vector. A graph of fewer independent directions fills the first ones; the
            rest are 0.
        seed: Seed of the solver's start.

    Returns:
        float32 `[N, dim]` of length 1; all 0 for an ad without pairs or, in a small
        `dim`, off all of its directions.

    Raises:
        ValueError: Wrong shapes, a pair that names no row, or a weight that is not above 0.

    Example:

    >>> vectors = collaborative_vectors(np.array([[0, 1], [2, 3]]), np.ones(2), rows=5, dim=4)
    >>> float(vectors[0] @ vectors[1]) > 0.99, float(abs(vectors[0] @ vectors[2])) < 1e-6
    (True, True)

    Reference:
        [Levy and Goldberg, 2014, Neural Word Embedding as Implicit Matrix Factorization](
        https://proceedings.neurips.cc/paper/2014/hash/feab05aa91085b7a8012516bc3533958-Abstract.html)
    """
    pairs, weights = np.asarray(pairs), np.asarray(weights, np.float64)
    for name, value in {"rows": rows, "dim": dim}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}.")
    if pairs.ndim != 2 or pairs.shape[1] != 2 or weights.shape != (len(pairs),):
        raise ValueError(
            f"pairs must be [P, 2] with one weight each, got {pairs.shape} and {weights.shape}."
        )
    if len(pairs) and (pairs.min() < 0 or pairs.max() >= rows):
        raise ValueError(f"pairs name rows {pairs.min()} to {pairs.max()}; there are {rows} ads.")
    if not (np.isfinite(weights) & (weights > 0)).all():
        raise ValueError("weights must be finite and above 0.")
    vectors = np.zeros((rows, dim), np.float32)
    active, ppmi = _ppmi(pairs[pairs[:, 0] != pairs[:, 1]], weights[pairs[:, 0] != pairs[:, 1]])
    if not ppmi.nnz:
        return vectors
    directions, values = _directions(ppmi, dim, seed)
    scaled = directions * np.sqrt(values)
    length = np.linalg.norm(scaled, axis=1, keepdims=True)
    reached = length > _REACHED * length.max()
    vectors[active, : scaled.shape[1]] = np.where(reached, scaled, 0.0) / np.maximum(length, 1e-30)
    return vectors


def _ppmi(pairs: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, sparse.csr_matrix]:
    """Returns the ads that have pairs, and the positive pointwise mutual information among them."""
    active, place = np.unique(pairs, return_inverse=True)
    place = place.reshape(-1, 2)
    size = len(active)
    graph = sparse.coo_matrix((weights, (place[:, 0], place[:, 1])), (size, size)).tocsr()
    graph = (graph + graph.T).tocoo()
    totals = np.bincount(graph.row, graph.data, minlength=size)
    pmi = np.log(graph.data * totals.sum() / (totals[graph.row] * totals[graph.col]))
    kept = pmi > 0
    cells = (graph.row[kept], graph.col[kept])
    return active, sparse.csr_matrix((pmi[kept], cells), (size, size))


def _directions(matrix: sparse.csr_matrix, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns at most `dim` eigenvectors of positive value, largest first, and their values."""
    size = matrix.shape[0]
    if size <= dim + 1:
        values, vectors = np.linalg.eigh(matrix.toarray())
    else:
        start = np.random.default_rng(seed).normal(size=size)
        values, vectors = eigsh(matrix, k=dim, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[:dim]
    order = order[values[order] > _RANK * values.max()]
    values, vectors = values[order], vectors[:, order]
    # A solver is free in the sign.
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.sign(vectors[largest, np.arange(len(order))]), values
