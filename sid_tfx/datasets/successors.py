"""Which ads followed which in the training histories, and how often."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import sparse

from sid_tfx.datasets.sequences import Sequences

WINDOW = 3
"""Positions after an ad at which another counts as its successor."""


def co_occurrence(train: Sequences, num_ads: int, window: int = WINDOW) -> sparse.csr_matrix:
    """Counts `(N, N)` of ad b (column) within `window` positions after ad a (row).

    Ads that the catalogue lacks, row -1, take their place in a history and count for nothing.
    """
    owner = np.repeat(np.arange(len(train)), train.lengths)
    total = sparse.csr_matrix((num_ads, num_ads), dtype=np.float64)
    for distance in range(1, window + 1):
        same = owner[distance:] == owner[:-distance]
        before, after = train.rows[:-distance][same], train.rows[distance:][same]
        known = (before >= 0) & (after >= 0)
        before, after = before[known], after[known]
        ones = np.ones(len(before))
        total = total + sparse.csr_matrix((ones, (before, after)), shape=(num_ads, num_ads))
    return total


@dataclasses.dataclass(frozen=True, eq=False)
class SuccessorTable:
    """The most frequent successors of every ad, as a CSR matrix.

    Args:
        offsets: int32 `(N + 1,)`: ad `a` has the entries from `offsets[a]` to `offsets[a + 1]`.
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
        cls, train: Sequences, num_ads: int, most: int = 32, window: int = WINDOW
    ) -> SuccessorTable:
        """Counts them in training histories.

        Args:
            train: Never validation or test events.
            num_ads: Ads in the catalogue.
            most: Successors kept per ad, those of highest count; of equal ones the smaller rows.
                With 0 the table has no entries.
            window: Positions after an ad that count.

        Raises:
            ValueError: `most` is negative or `window` below 1.
        """
        if most < 0 or window < 1:
            raise ValueError(
                f"most must be >= 0 and window >= 1, got most={most}, window={window}."
            )
        found = co_occurrence(train, num_ads, window).tocoo()
        order = np.lexsort((found.col, -found.data, found.row))
        return cls._of(found.row[order], found.col[order], found.data[order], num_ads, most)

    @property
    def most(self) -> int:
        """Successors of the ad that has the most of them."""
        return int(np.diff(self.offsets).max(initial=0))

    def __len__(self) -> int:
        return len(self.rows)

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
        return self._of(before[kept], after[kept], self.counts[kept], num_ads, len(self))

    @classmethod
    def _of(
        cls, before: np.ndarray, after: np.ndarray, counts: np.ndarray, num_ads: int, most: int
    ) -> SuccessorTable:
        """Of pairs in the order of `before`, the best of an ad first."""
        place = np.arange(len(before)) - np.searchsorted(before, before)
        kept = place < most
        lengths = np.bincount(before[kept], minlength=num_ads)
        return cls(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
            after[kept].astype(np.int32),
            counts[kept].astype(np.float32),
        )
