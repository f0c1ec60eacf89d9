"""The arrays behind a catalogue: checks of what comes in, id order, hashes, Arrow columns."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc


def checked_ads(
    ad_ids: Sequence[str] | np.ndarray,
    codes: np.ndarray | Sequence[Sequence[int]],
    embeddings: np.ndarray,
    codebook_size: int,
    max_dedup: int,
    alternatives: np.ndarray | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Checks the arguments of `SidCatalog.build` and casts them, in the order given.

    Returns:
        ids `(N,)` object, codes `(N, L)` int32, embeddings `(N, D)` float32, alternatives
        `(N, n, L)` int32 or None.

    Raises:
        ValueError: Names the argument, the value and the cure.
    """
    if codebook_size < 1:
        raise ValueError(f"codebook_size must be >= 1, got {codebook_size}.")
    if max_dedup < 1:
        raise ValueError(f"max_dedup must be >= 1, got {max_dedup}.")
    ids = np.asarray(ad_ids, dtype=object)
    if ids.ndim != 1 or not len(ids):
        raise ValueError(f"ad_ids must be a non-empty list of strings, got shape {ids.shape}.")
    inferred = pd.api.types.infer_dtype(ids, skipna=False)
    if inferred != "string":
        raise ValueError(
            f"ad_ids must all be str, found values of kind {inferred!r}. Decode bytes and cast "
            "numbers before building the catalogue."
        )
    if (ids == "").any():
        raise ValueError(f"{int((ids == '').sum())} ad_ids are empty strings; '' means padding.")
    repeated = pd.Series(ids).duplicated().to_numpy()
    if repeated.any():
        raise ValueError(
            f"{int(repeated.sum())} duplicate ad_ids, e.g. {ids[repeated][0]!r}. Keep one row per "
            "ad."
        )
    code_array = _checked_codes("codes", np.asarray(codes), 2, len(ids), codebook_size)
    vectors = np.asarray(embeddings, dtype=np.float32)
    if vectors.ndim != 2 or len(vectors) != len(ids):
        raise ValueError(
            f"embeddings must be ({len(ids)}, D), one row per ad, got {vectors.shape}."
        )
    if not np.isfinite(vectors).all():
        bad = ids[~np.isfinite(vectors).all(axis=1)]
        raise ValueError(f"embeddings of {len(bad)} ads are not finite, e.g. of ad {bad[0]!r}.")
    if alternatives is None:
        return ids, code_array, vectors, None
    other = _checked_codes("alternatives", np.asarray(alternatives), 3, len(ids), codebook_size)
    if other.shape[2] != code_array.shape[1]:
        raise ValueError(
            f"alternatives must be (N, n, {code_array.shape[1]}) like the codes, got {other.shape}."
        )
    return ids, code_array, vectors, other


def _checked_codes(
    name: str, codes: np.ndarray, ndim: int, length: int, codebook_size: int
) -> np.ndarray:
    if codes.ndim != ndim or len(codes) != length or codes.shape[-1] < 1:
        raise ValueError(
            f"{name} must have {ndim} axes, {length} rows and at least one level, got shape "
            f"{codes.shape}."
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{name} must be integers, got {codes.dtype}.")
    if codes.size and (codes.min() < 0 or codes.max() >= codebook_size):
        raise ValueError(
            f"{name} must lie in [0, codebook_size={codebook_size}), got values from "
            f"{codes.min()} to {codes.max()}."
        )
    return codes.astype(np.int32)


def id_order(ids: np.ndarray) -> np.ndarray:
    """`(N,)` int64 positions that sort `ids` as Python sorts `str`."""
    # Arrow sorts by UTF-8 bytes, which is code point order, the order of Python's str.
    return pc.sort_indices(pa.array(ids, pa.string())).to_numpy().astype(np.int64)


def content_hash(*parts: np.ndarray) -> str:
    """Sixteen hex digits that name the content of `parts`, ids (object dtype) or numbers."""
    digest = hashlib.sha256()
    for part in parts:
        if part.dtype == object:
            digest.update("\n".join(part.tolist()).encode())
        else:
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()[:16]


def to_lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """Arrow fixed-size lists of the rows of `values` `(N, n)`."""
    flat = pa.array(np.ascontiguousarray(values).ravel(), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def from_lists(column: pa.ChunkedArray, size: int, dtype: type) -> np.ndarray:
    """`(N, size)` array of a list column; the inverse of `to_lists`."""
    parts = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(parts).astype(dtype).reshape(-1, size)
