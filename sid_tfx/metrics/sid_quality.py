"""Quality of semantic IDs, without any recommender: collisions, balance, meaning."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import v_measure_score


def _check(codes: np.ndarray, codebook_size: int) -> np.ndarray:
    codes = np.asarray(codes)
    if codes.ndim != 2 or not codes.size or not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"codes must be integers [N > 0, L > 0], got {codes.dtype} {codes.shape}.")
    if codes.min() < 0 or codes.max() >= codebook_size:
        raise ValueError(
            f"codes must be in [0, {codebook_size}), got {codes.min()} to {codes.max()}."
        )
    return codes


def group_sizes(codes: np.ndarray) -> np.ndarray:
    """Returns how many ads share each ad's codes, itself included, int `[N]`.

    Args:
        codes: int `[N, L]`.
    """
    _, inverse, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return counts[inverse.reshape(-1)]


def entropy_nats(counts: np.ndarray) -> float:
    """Returns the entropy of a distribution given by counts, in nats."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def gini(counts: np.ndarray) -> float:
    """Returns the Gini coefficient of counts: 0 is even use, near 1 is one code for all."""
    ordered = np.sort(counts).astype(float)
    size = len(ordered)
    position = np.arange(1, size + 1)
    return float(((2 * position - size - 1) * ordered).sum() / (size * ordered.sum()))


def sid_quality(
    codes: np.ndarray, codebook_size: int, categories: np.ndarray | Sequence[Any] | None = None
) -> dict[str, Any]:
    """Measures semantic IDs before de-duplication.

    Args:
        codes: int `[N, L]`, one row per ad, each in `[0, codebook_size)`.
        codebook_size: K.
        categories: The finest category of each ad, any comparable ids `[N]`, for V-measure.

    Returns:
        JSON-able: `ads`, `levels`, `codebook_size`; `collision_share`, share of ads whose codes
        another ad has too; `largest_group`, most ads on one SID; `distinct_sids`; `entropy_nats`
        of the SIDs and `entropy_share` of its maximum log N; per level, as lists, `coverage`
        (share of codes in use), `dead_codes`, `perplexity` (effective number of codes) and `gini`;
        with categories, `v_measure` per level.

    Raises:
        ValueError: Codes of a wrong shape, dtype or range, or categories of another length.

    Example:

    >>> quality = sid_quality(np.array([[0, 1], [0, 1], [1, 1], [1, 0]]), codebook_size=2)
    >>> quality["collision_share"], quality["distinct_sids"]
    (0.5, 3)
    """
    codes = _check(codes, codebook_size)
    ads, levels = codes.shape
    groups = np.unique(codes, axis=0, return_counts=True)[1]
    counts = [np.bincount(level, minlength=codebook_size) for level in codes.T]
    entropy = entropy_nats(groups)
    quality: dict[str, Any] = {
        "ads": ads,
        "levels": levels,
        "codebook_size": codebook_size,
        "collision_share": float(groups[groups > 1].sum() / ads),
        "largest_group": int(groups.max()),
        "distinct_sids": len(groups),
        "entropy_nats": entropy,
        "entropy_share": entropy / np.log(ads) if ads > 1 else 1.0,
        "coverage": [float((count > 0).mean()) for count in counts],
        "dead_codes": [int((count == 0).sum()) for count in counts],
        "perplexity": [float(np.exp(entropy_nats(count))) for count in counts],
        "gini": [gini(count) for count in counts],
    }
    if categories is not None:
        labels = np.unique(np.asarray(categories), return_inverse=True)[1]
        if len(labels) != ads:
            raise ValueError(f"categories must have {ads} values, one per ad, got {len(labels)}.")
        quality["v_measure"] = [float(v_measure_score(labels, level)) for level in codes.T]
    return quality


def prefix_purity(codes: np.ndarray, categories: np.ndarray) -> list[float]:
    """Returns, for prefixes of 1 to L codes, the share of ads in their prefix's main category.

    Args:
        codes: int `[N, L]`.
        categories: The category of each ad, any comparable ids `[N]`.
    """
    labels = np.unique(np.asarray(categories), return_inverse=True)[1]
    purity = []
    for length in range(1, codes.shape[1] + 1):
        prefix = np.unique(codes[:, :length], axis=0, return_inverse=True)[1].reshape(-1)
        cells, sizes = np.unique(np.stack([prefix, labels]), axis=1, return_counts=True)
        main = np.zeros(prefix.max() + 1, int)
        np.maximum.at(main, cells[0], sizes)
        purity.append(float(main.sum() / len(labels)))
    return purity


def category_v_measure(codes: np.ndarray, paths: np.ndarray) -> list[list[float]]:
    """Returns the V-measure of every level of codes against every depth of the category tree.

    Args:
        codes: int `[N, L]`.
        paths: int `[N, depth]`, ids of the prefixes of each ad's category path, 0 where the path is
            shorter; its last known prefix stands in there.

    Returns:
        A list of L lists, each with a value per depth, coarse to fine.
    """
    filled = np.array(paths)
    for depth in range(1, filled.shape[1]):
        filled[:, depth] = np.where(filled[:, depth] == 0, filled[:, depth - 1], filled[:, depth])
    return [[float(v_measure_score(depth, level)) for depth in filled.T] for level in codes.T]
