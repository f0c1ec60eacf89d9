"""Which ads followed which in the training histories, and how often."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from sid_tfx.datasets.sequences import Sequences

WINDOW = 3
"""Positions after an ad at which another counts as its successor."""

NEWEST = 5
"""Ads of a history whose successors are asked for."""

DECAY = 0.5
"""Weight of an ad's successors relative to those of the next newer one."""


@dataclasses.dataclass(frozen=True, eq=False)
class SuccessorTable:
    """The most frequent successors of every ad, as a CSR matrix.

    Args:
        offsets: int `(N + 1,)`: ad `a` has the entries from `offsets[a]` to `offsets[a + 1]`.
        rows: int32 `(P,)`: the successors' catalogue rows, the most frequent of an ad first.
        counts: float32 `(P,)`: how often each followed.

    Example:

    >>> log = Sequences(np.array([0, 3, 5]), np.array([0, 1, 2, 0, 2], np.int32), np.arange(5.0))
    >>> table = SuccessorTable.count(log, num_ads=3)
    >>> table.rows[table.offsets[0] : table.offsets[1]].tolist()
    [2, 1]
    """

    offsets: np.ndarray
    rows: np.ndarray
    counts: np.ndarray

    @classmethod
    def count(
        cls, train: Sequences, num_ads: int, most: int | None = 32, window: int = WINDOW
    ) -> SuccessorTable:
        """Counts them in training histories.

        Args:
            train: Never validation or test events. Ads that the catalogue lacks, row -1, take
                their place in a history and count for nothing.
            num_ads: Ads in the catalogue.
            most: Successors kept per ad, those of highest count; of equal ones the smaller rows.
                None keeps all, 0 none.
            window: Positions after an ad that count.

        Raises:
            ValueError: `most` is negative or `window` below 1.
        """
        if (most is not None and most < 0) or window < 1:
            raise ValueError(
                f"most must be >= 0 and window >= 1, got most={most}, window={window}."
            )
        owner = np.repeat(np.arange(len(train)), train.lengths)
        pairs = [np.zeros(0, np.int64)]
        for distance in range(1, window + 1):
            before, after = train.rows[:-distance], train.rows[distance:]
            counts = (owner[:-distance] == owner[distance:]) & (before >= 0) & (after >= 0)
            pairs.append(before[counts].astype(np.int64) * num_ads + after[counts])
        pair, times = np.unique(np.concatenate(pairs), return_counts=True)
        before, after = np.divmod(pair, max(num_ads, 1))
        order = np.lexsort((-times, before))
        return cls._of(before, after[order], times[order], num_ads, most)

    @property
    def most(self) -> int:
        """Successors of the ad that has the most of them."""
        return int(np.diff(self.offsets).max(initial=0))

    @property
    def sizes(self) -> tuple[int, int] | None:
        """`SidRecommender`'s `successor_sizes`: entries and `most`; None without any."""
        return (len(self), self.most) if len(self) else None

    def __len__(self) -> int:
        """Entries."""
        return len(self.rows)

    def matrix(self) -> sparse.csr_matrix:
        """The counts `(N, N)`."""
        ads = len(self.offsets) - 1
        return sparse.csr_matrix((self.counts, self.rows, self.offsets), shape=(ads, ads))

    def moved(self, rows: np.ndarray, num_ads: int) -> SuccessorTable:
        """The table on another catalogue.

        Args:
            rows: int `(N,)`: the row there of each ad here, -1 where it has none.
            num_ads: Ads there.
        """
        before = rows[np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))]
        after = rows[self.rows]
        kept = np.flatnonzero((before >= 0) & (after >= 0))
        kept = kept[np.argsort(before[kept], kind="stable")]
        return self._of(before[kept], after[kept], self.counts[kept], num_ads, None)

    @classmethod
    def _of(
        cls,
        before: np.ndarray,
        after: np.ndarray,
        counts: np.ndarray,
        num_ads: int,
        most: int | None,
    ) -> SuccessorTable:
        """Of pairs in the order of `before`, the best of an ad first."""
        lengths = np.bincount(before, minlength=num_ads)
        if most is not None:
            first = np.cumsum(lengths) - lengths
            kept = np.arange(len(before)) - first[before] < most
            after, counts, lengths = after[kept], counts[kept], np.minimum(lengths, most)
        return cls(
            np.concatenate([[0], np.cumsum(lengths)]),
            after.astype(np.int32),
            counts.astype(np.float32),
        )
