"""The popularity baseline: the same ads for everybody."""

from __future__ import annotations

import numpy as np

from sid_tfx.datasets.sequences import Sequences


def popularity_order(counts: np.ndarray) -> np.ndarray:
    """Catalogue rows by falling `counts` `(N,)`; ties by row, which is ad-id order."""
    return np.argsort(-counts, kind="stable")


class Popularity:
    """Ranks ads by their number of training events.

    Args:
        train: Training histories.
        num_ads: Ads in the catalogue.

    Example:

    >>> train = leave_one_out(np.array(["u", "v", "v"]), np.array([2, 2, 0]), np.arange(3)).train
    >>> Popularity(train, num_ads=3).recommend(np.array([[3, 0]]), k=2, filter_seen=True)
    array([[0, 1]], dtype=int32)
    """

    def __init__(self, train: Sequences, num_ads: int) -> None:
        self.order = popularity_order(train.popularity(num_ads))

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """Catalogue rows `(U, k)` int32, -1 past the last; see `evaluation.Recommender`."""
        width = min(len(self.order), k + (histories.shape[1] if filter_seen else 0))
        rows = np.tile(self.order[:width], (len(histories), 1))
        if filter_seen:
            # Ads of the history go behind the others, whose order stays.
            seen = (rows[:, :, None] + 1 == histories[:, None, :]).any(axis=2)
            rows = np.where(seen, -1, rows)
            rows = np.take_along_axis(rows, np.argsort(seen, axis=1, kind="stable"), axis=1)
        rows = rows[:, :k]
        missing = k - rows.shape[1]
        return np.pad(rows, [(0, 0), (0, missing)], constant_values=-1).astype(np.int32)
