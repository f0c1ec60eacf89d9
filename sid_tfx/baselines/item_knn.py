"""Item kNN on directed co-occurrence: trivial, and better than many published models."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from sid_tfx.baselines.popularity import popularity_order
from sid_tfx.datasets.sequences import Sequences
from sid_tfx.datasets.successors import DECAY, NEWEST, WINDOW, SuccessorTable


class ItemKnn:
    """Ads that followed the newest ads of the history in training.

    `count(a -> b)` is how often ad `b` came within `window` positions after ad `a` in a training
    history. With `a_j` the ads of the history, newest first,

        score(b) = sum over j < newest of decay^j * count(a_j -> b)

    and ties go to the ad with more training events, then to the smaller ad id.

    Args:
        train: Training histories.
        num_ads: Ads in the catalogue.
        window: Positions after an ad that count.
        newest: Ads of the history that are used.
        decay: Weight of an ad relative to the next newer one.

    Example:

    >>> events = np.array(["u"] * 3 + ["v"] * 2), np.array([0, 1, 2, 0, 2]), np.arange(5)
    >>> knn = ItemKnn(leave_one_out(*events, min_events=4).train, num_ads=3)
    >>> knn.recommend(np.array([[1, 0]]), k=2)
    array([[2, 1]], dtype=int32)
    """

    def __init__(
        self,
        train: Sequences,
        num_ads: int,
        window: int = WINDOW,
        newest: int = NEWEST,
        decay: float = DECAY,
    ) -> None:
        if window < 1 or newest < 1 or not 0 < decay <= 1:
            raise ValueError(
                "window and newest must be >= 1 and decay in (0, 1], got "
                f"window={window}, newest={newest}, decay={decay}."
            )
        self.num_ads = num_ads
        self.newest = newest
        self.decay = decay
        self.counts = SuccessorTable.count(train, num_ads, None, window).matrix()
        self.order = popularity_order(train.popularity(num_ads))
        self.rank = np.empty(num_ads, np.int64)
        self.rank[self.order] = np.arange(num_ads)

    def recommend(
        self, histories: np.ndarray, k: int, filter_seen: bool = False, chunk: int = 4096
    ) -> np.ndarray:
        """Catalogue rows `(U, k)` int32, -1 past the last; see `evaluation.Recommender`.

        Args:
            histories: int32 `(U, T)` of row + 1, oldest first, zeros on the right.
            k: Results per user.
            filter_seen: Whether to leave out the ads of the history.
            chunk: Users scored at once; bounds the memory.
        """
        histories = np.asarray(histories)
        parts = [
            self._recommend(histories[i : i + chunk], k, filter_seen)
            for i in range(0, len(histories), chunk)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, k), np.int32)

    def _recommend(self, histories: np.ndarray, k: int, filter_seen: bool) -> np.ndarray:
        users = len(histories)
        scores = (self._weights(histories) @ self.counts).tocoo()
        # Every ad is a candidate. Those that score nothing rank by popularity, so of them the
        # k most popular (and one more per ad that the filter may take away) are enough.
        fill = self.order[: k + histories.shape[1]]
        user = np.concatenate([scores.row, np.repeat(np.arange(users), len(fill))])
        ad = np.concatenate([scores.col, np.tile(fill, users)]).astype(np.int64)
        score = np.concatenate([scores.data, np.zeros(users * len(fill))])
        if filter_seen:
            seen_user, position = np.nonzero(histories)
            seen = seen_user * self.num_ads + histories[seen_user, position] - 1
            kept = ~np.isin(user * self.num_ads + ad, seen)
            user, ad, score = user[kept], ad[kept], score[kept]
        order = np.lexsort((self.rank[ad], -score, user))
        user, ad = user[order], ad[order]
        # A popular ad with a score is listed twice; its second place is dropped.
        _, first = np.unique(user * self.num_ads + ad, return_index=True)
        first.sort()
        user, ad = user[first], ad[first]
        place = np.arange(len(user)) - np.searchsorted(user, np.arange(users))[user]
        result = np.full((users, k), -1, np.int32)
        kept = place < k
        result[user[kept], place[kept]] = ad[kept]
        return result

    def _weights(self, histories: np.ndarray) -> sparse.csr_matrix:
        """`(U, N)`: decay^j at the j-th newest ad of each history."""
        user, position = np.nonzero(histories)
        length = (histories > 0).sum(axis=1)
        # Padding is anywhere, so the age counts ads, not columns.
        age = length[user] - np.cumsum(histories > 0, axis=1)[user, position]
        used = age < self.newest
        user, position, age = user[used], position[used], age[used]
        ads = histories[user, position] - 1
        shape = (len(histories), self.num_ads)
        return sparse.csr_matrix((self.decay**age, (user, ads)), shape=shape)
