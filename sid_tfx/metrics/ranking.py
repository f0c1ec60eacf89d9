"""Ranking metrics from the rank of the one relevant ad."""

from __future__ import annotations

import numpy as np


def target_ranks(recommended: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Rank of each target in its list: 1 for the first place, 0 where it isn't there.

    Args:
        recommended: int `(U, K)`, best first; -1 past the last result.
        targets: int `(U,)`, not negative.

    Example:

    >>> target_ranks(np.array([[5, 7], [5, 7]]), np.array([7, 9])).tolist()
    [2, 0]
    """
    hits = recommended == np.asarray(targets)[:, None]
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def sid_ranks(recommended: np.ndarray, targets: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rank of the first ad with the target's codes: semantic-ID level, 0 where there is none.

    Ads that share their codes count as one place, so this is the rank among distinct semantic
    IDs. It can be far above the rank of the ad itself and must not be compared with it.

    Args:
        recommended: As `target_ranks`.
        targets: As `target_ranks`.
        codes: int `(N, L)` codes of the catalogue, without de-dup token.
    """
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = np.append(group, -1)
    sids = group[recommended]
    ranks = target_ranks(sids, group[targets])
    place = np.arange(sids.shape[1])
    earlier = (sids[:, :, None] == sids[:, None, :]) & (place[None, :] < place[:, None])
    repeats = np.cumsum(earlier.any(axis=2), axis=1)
    ahead = np.take_along_axis(repeats, np.maximum(ranks - 1, 0)[:, None], axis=1)[:, 0]
    return np.where(ranks > 0, ranks - ahead, 0)


def recall_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """1.0 where the target is among the first `k`, per user, float64 `(U,)`."""
    return ((ranks > 0) & (ranks <= k)).astype(np.float64)


def ndcg_at(ranks: np.ndarray, k: int) -> np.ndarray:
    """`1 / log2(rank + 1)` where the target is among the first `k`, else 0, float64 `(U,)`."""
    return recall_at(ranks, k) / np.log2(np.maximum(ranks, 1) + 1)


def reciprocal_rank(ranks: np.ndarray) -> np.ndarray:
    """`1 / rank`, 0 where the target isn't in the list, float64 `(U,)`."""
    return np.where(ranks > 0, 1 / np.maximum(ranks, 1), 0.0)


def ranking_metrics(ranks: np.ndarray) -> dict[str, float]:
    """Means over users under the names that records use; all 0.0 for no users.

    Example:

    >>> ranking_metrics(np.array([1, 0]))["recall@5"]
    0.5
    """
    per_user = per_user_metrics(ranks)
    return {name: float(values.mean()) if len(ranks) else 0.0 for name, values in per_user.items()}


def per_user_metrics(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """The metrics of a record, per user, each float64 `(U,)`."""
    return {
        "recall@5": recall_at(ranks, 5),
        "recall@10": recall_at(ranks, 10),
        "ndcg@5": ndcg_at(ranks, 5),
        "ndcg@10": ndcg_at(ranks, 10),
        "mrr": reciprocal_rank(ranks),
    }
