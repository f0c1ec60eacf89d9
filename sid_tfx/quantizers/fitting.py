"""Fits codebooks, projections and rotation of a vector quantizer to data."""

from typing import NamedTuple

import numpy as np

from sid_tfx.quantizers.initialization import INITIALIZATIONS, assign, kmeans_centers, unit_rows
from sid_tfx.quantizers.rotation import optimized_rotation
from sid_tfx.quantizers.slices import Slices

_ROTATION_ROWS = 4096


class Fit(NamedTuple):
    """What was fitted; arrays are zero past a level's width.

    Attributes:
        books: Code vectors, float32 `[L, K, W]`.
        offsets: Offsets on the costs of codes, float32 `[L, K]`.
        maps: Maps to the low-dimensional space, float32 `[L, w, F]`, and back, `[L, F, w]`; None
            without `factor_dim`.
    """

    books: np.ndarray
    offsets: np.ndarray
    maps: tuple[np.ndarray, np.ndarray] | None


def check_vectors(vectors: np.ndarray, dim: int) -> np.ndarray:
    """Returns vectors as float32 `[N, dim]`.

    Raises:
        ValueError: No vectors, a wrong size, or values that are not finite.
    """
    vectors = np.asarray(vectors, "float32")
    if vectors.ndim != 2 or vectors.shape[1] != dim or not len(vectors):
        raise ValueError(f"vectors must be [N > 0, {dim}], got {vectors.shape}.")
    if not np.isfinite(vectors).all():
        raise ValueError("vectors hold NaN or infinity; check the features that made them.")
    return vectors


def fit_codebooks(
    vectors: np.ndarray,
    slices: Slices,
    clusters: int,
    seed: int,
    initialization: str = "kmeans",
    spherical: bool = False,
    factor_dim: int | None = None,
    maps: tuple[np.ndarray, np.ndarray] | None = None,
) -> Fit:
    """Fits level after level to what the levels before left of the vectors.

    Args:
        vectors: float32 `[N, D]`.
        slices: First dimension and end of what each level quantizes.
        clusters: K.
        seed: Seed of k-means.
        initialization: A name of `INITIALIZATIONS` that reads data.
        spherical: Whether vectors and codes are compared at length 1.
        factor_dim: Size of the low-dimensional space; None for none.
        maps: Maps down and up to keep; None to fit them: principal directions down, least squares
            up, so that a level never adds to the mean squared residual.
    """
    method = INITIALIZATIONS[initialization]
    if method is None:
        raise ValueError(f"initialization={initialization!r} fits nothing to data.")
    widths = [stop - start for start, stop in slices]
    books = np.zeros((len(slices), clusters, factor_dim or max(widths)), "float32")
    offsets = np.zeros((len(slices), clusters), "float32")
    down = up = None
    if factor_dim:
        down = np.zeros((len(slices), max(widths), factor_dim), "float32")
        up = np.zeros((len(slices), factor_dim, max(widths)), "float32")
        if maps is not None:
            down[:], up[:] = maps
    residual = vectors.copy()
    for level, (start, stop) in enumerate(slices):
        width = stop - start
        part = query = residual[:, start:stop]
        if down is not None:
            if maps is None:
                down[level, :width] = _principal_directions(part, factor_dim or 0)
            query = part @ down[level, :width]
        matched = unit_rows(query) if spherical else query
        centers, offsets[level] = method(matched, clusters, seed + level, spherical)
        codes = assign(matched, centers, offsets[level])
        if down is None or up is None:
            if spherical:
                centers = centers * _lengths(query, centers, codes)[:, None]
            values = centers[codes]
        else:
            values = centers[codes]
            if maps is None:
                up[level, :, :width] = np.linalg.lstsq(values, part, rcond=None)[0]
            values = values @ up[level, :, :width]
        books[level, :, : centers.shape[1]] = centers
        residual[:, start:stop] = part - values
    return Fit(books, offsets, None if down is None or up is None else (down, up))


def fit_rotation(vectors: np.ndarray, slices: Slices, clusters: int, seed: int) -> np.ndarray:
    """Returns the rotation that suits the slices best, float32 `[D, D]` (OPQ).

    Levels that see the whole vector lose the same whatever the rotation, so it is fitted to what
    they leave.

    Args:
        vectors: float32 `[N, D]`.
        slices: First dimension and end of what each level quantizes.
        clusters: K.
        seed: Seed of k-means and of the sample that a large set is cut to.
    """
    if len(vectors) > _ROTATION_ROWS:
        rows = np.random.default_rng(seed).permutation(len(vectors))[:_ROTATION_ROWS]
        vectors = vectors[rows]
    whole = (0, vectors.shape[1])
    residual = vectors.copy()
    for level in range(slices.count(whole)):
        centers = kmeans_centers(residual, clusters, seed + level)
        residual -= centers[assign(residual, centers)]
    parts = sorted({part for part in slices if part != whole})
    return optimized_rotation(residual, parts, clusters, seed)


def _principal_directions(vectors: np.ndarray, count: int) -> np.ndarray:
    """Returns the `count` directions along which vectors `[N, w]` are longest, `[w, count]`."""
    return np.linalg.eigh(vectors.T @ vectors)[1][:, ::-1][:, :count]


def _lengths(vectors: np.ndarray, directions: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Returns the length `[K]` at which each direction is nearest to its vectors, on average."""
    along = np.einsum("nd,nd->n", vectors, directions[codes])
    members = np.bincount(codes, minlength=len(directions))
    sums = np.bincount(codes, weights=along, minlength=len(directions))
    return np.where(members > 0, sums / np.maximum(members, 1), along.mean())
