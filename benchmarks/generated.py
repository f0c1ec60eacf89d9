"""Data that the benchmarks make up, from a seed: vectors, semantic IDs, histories."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.successors import SuccessorTable

_LATENT = 16
DEDUP_SIZE = 128


def clustered_vectors(rows: int, dimensions: int = 64, seed: int = 0) -> np.ndarray:
    """Unit vectors float32 [rows, dimensions] that lie as embeddings of a catalogue do.

    Clusters of Zipf sizes around normal centres, on a surface of 16 dimensions with some noise off
    it: embeddings vary along far fewer directions than they have dimensions.
    """
    rng = np.random.default_rng(seed)
    clusters = max(1, math.isqrt(rows))
    sizes = 1.0 / np.arange(1, clusters + 1) ** 0.7
    cluster = rng.choice(clusters, size=rows, p=sizes / sizes.sum())
    centres = rng.normal(size=(clusters, _LATENT)).astype(np.float32)
    latent = centres[cluster] + 0.5 * rng.normal(size=(rows, _LATENT)).astype(np.float32)
    lift = rng.normal(size=(_LATENT, dimensions)).astype(np.float32) / math.sqrt(_LATENT)
    vectors = latent @ lift + 0.1 * rng.normal(size=(rows, dimensions)).astype(np.float32)
    return unit(vectors)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(norms, 1e-12)).astype(np.float32)


def catalog(
    ads: int,
    levels: int = 3,
    codebook_size: int = 256,
    content_size: int = 16,
    seed: int = 0,
    embeddings: np.ndarray | None = None,
) -> SidCatalog:
    """A catalogue whose codes are used unevenly, the commonest a few times the mean.

    Its embeddings are noise of `content_size`, unless others are given.
    """
    rng = np.random.default_rng(seed)
    codes = _codes(rng, ads, levels, codebook_size)
    if embeddings is None:
        embeddings = rng.normal(size=(ads, content_size)).astype(np.float32)
    return SidCatalog.build(
        np.char.add("ad", np.char.zfill(np.arange(ads).astype(str), 8)),
        codes,
        embeddings,
        codebook_size=codebook_size,
    )


def _codes(rng: np.random.Generator, ads: int, levels: int, codebook_size: int) -> np.ndarray:
    shares = 1.0 / (np.arange(codebook_size) + 20.0) ** 0.7
    draws = rng.choice(codebook_size, size=(ads, levels), p=shares / shares.sum())
    return draws.astype(np.int32)


@dataclasses.dataclass(frozen=True)
class Sids:
    """Semantic IDs without the ids and vectors of a catalogue, for sizes that those would fill.

    Attributes:
        codes: int32 [N, levels + 1], de-dup token last; no two rows are equal.
        sizes: codes of each level.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]


def sids(ads: int, levels: int = 3, codebook_size: int = 256, seed: int = 0) -> Sids:
    """Semantic IDs as `catalog` draws them; ads that share one get de-dup tokens by row.

    Raises:
        ValueError: More ads share one than there are de-dup tokens, `DEDUP_SIZE`.
    """
    codes = _codes(np.random.default_rng(seed), ads, levels, codebook_size)
    key = np.ravel_multi_index(tuple(codes.T), (codebook_size,) * levels)
    order = np.argsort(key, kind="stable")
    opens = np.r_[True, np.diff(key[order]) != 0]
    group_start = np.flatnonzero(opens)[np.cumsum(opens) - 1]
    dedup = np.empty(ads, np.int32)
    dedup[order] = np.arange(ads) - group_start
    if dedup.max() >= DEDUP_SIZE:
        raise ValueError(
            f"{dedup.max() + 1} of {ads} generated ads share a semantic ID, {DEDUP_SIZE} may; draw "
            "more levels or codes."
        )
    return Sids(np.c_[codes, dedup], (*[codebook_size] * levels, DEDUP_SIZE))


def successors(ads: int, most: int, seed: int = 0) -> SuccessorTable:
    """`most` random ads after each, as many as a long log leaves."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, ads, size=ads * most, dtype=np.int32)
    counts = np.sort(rng.zipf(2.0, size=(ads, most)).astype(np.float32), axis=1)[:, ::-1]
    return SuccessorTable(np.arange(ads + 1) * most, rows, counts.ravel())


def histories(ads: int, rows: int, length: int, seed: int = 0) -> np.ndarray:
    """Full histories, int32 [rows, length] of catalogue row + 1."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, ads + 1, size=(rows, length), dtype=np.int32)
