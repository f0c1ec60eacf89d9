"""One build of an approximate index: what each effort of its search finds."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable

from sid_tfx.retrieval.measurement import Queries, Recall, recall
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.topk import TopK

_CURVE_POINTS = 5

Setting = tuple[TopK, Recall]
"""An index as it is searched, and its recall."""


class Efforts:
    """Recall by effort, each effort searched at most once.

    Args:
        at: The index, searched with an effort.
        least: The least effort that there is.
        most: The greatest one.
        queries: Of the kind that will be asked.
    """

    def __init__(self, at: Callable[[int], TopK], least: int, most: int, queries: Queries) -> None:
        self._at, self._queries = at, queries
        # Bisection of these probes the cheap efforts first: a wide search takes long.
        self._steps = _geometric(least, most, 1.1)
        self._known: dict[int, Setting] = {}

    def __call__(self, effort: int) -> Setting:
        """The index at an effort, and its recall."""
        if effort not in self._known:
            index = self._at(effort)
            self._known[effort] = index, self._measure(index, effort)
        return self._known[effort]

    def _measure(self, index: TopK, effort: int) -> Recall:
        return recall(index, self._queries)

    def effort(self, target: float) -> int:
        """The least effort that surely meets the target, else the greatest."""
        # More effort never finds less, so bisection finds where False turns to True.
        place = bisect.bisect_left(self._steps, True, key=lambda n: self(n)[1].surely(target))
        return self._steps[min(place, len(self._steps) - 1)]

    def cheapest(self, target: float) -> Setting:
        """The index at that effort, and its recall."""
        return self(self.effort(target))

    def around(self, target: float) -> list[Setting]:
        """Some efforts below and above the cheapest."""
        chosen = self.effort(target)
        steps = _geometric(self._steps[0], self._steps[-1], 1.4)
        place = bisect.bisect_left(steps, chosen)
        first = max(0, min(place - _CURVE_POINTS // 2 + 1, len(steps) - _CURVE_POINTS))
        return [self(step) for step in steps[first : first + _CURVE_POINTS] if step != chosen]


class PartitionEfforts(Efforts):
    """Recall of the partitioned index by effort, without a search.

    It returns the true neighbours whose partition it reads, and no others.

    Args:
        index: The index; the effort is the partitions read.
        queries: Of the kind that will be asked.
    """

    def __init__(self, index: Partitioned, queries: Queries) -> None:
        super().__init__(index.retuned, index.least_read, index.partitions, queries)
        self._ranks = index.ranks(queries.vectors, queries.neighbours)

    def _measure(self, index: TopK, effort: int) -> Recall:
        return Recall.of(self._ranks < effort)


def _geometric(least: int, most: int, ratio: float) -> list[int]:
    """Whole numbers from `least` to `most`, each about `ratio` times the one before."""
    powers = math.ceil(math.log(most) / math.log(ratio)) if most > 1 else 0
    steps = {round(ratio**power) for power in range(powers)}
    return sorted({least, most, *(step for step in steps if least < step < most)})
