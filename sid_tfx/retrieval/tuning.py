"""Searches the parameters of an approximate index for the fastest that finds enough."""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from sid_tfx.retrieval.measurement import Queries, Recall, milliseconds, recall
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.topk import TopK

# Every build costs minutes at a million candidates, hardly anything at a thousand.
_SMALL, _LARGE = 5_000, 200_000
_CURVE_POINTS = 5
_REORDERED = (5, 20, 60)
"""Candidates to score exactly, for each neighbour wanted."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting of an index, measured.

    Attributes:
        index: The index in this setting.
        recall: What it finds of the true neighbours.
        milliseconds: Time of a single query.
    """

    index: TopK
    recall: Recall
    milliseconds: float

    def record(self, k: int) -> dict[str, Any]:
        """The trial as JSON-able values."""
        return {
            "kind": self.index.kind,
            f"recall@{k}": round(self.recall.mean, 4),
            "milliseconds": round(self.milliseconds, 4),
            "queries_per_second": round(1e3 / self.milliseconds, 1),
            "parameters": self.index.get_config(),
        }


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of a search over parameters.

    Attributes:
        best: The fastest setting that surely meets the target, else the one that finds most.
        met: Whether it does.
        trials: Everything that was measured, `best` among it.
    """

    best: Trial
    met: bool
    trials: tuple[Trial, ...]


def tune_scann(
    candidates: np.ndarray, queries: Queries, max_k: int, target: float, similarity: str
) -> Tuned:
    """Searches ScaNN's partitions, partitions read, quantization and reordering.

    Args:
        candidates: float32 [N, D], N >= `ScaNN.MIN_CANDIDATES`.
        queries: Of the kind that will be asked.
        max_k: Most candidates that any search will ask for.
        target: Recall to reach.
        similarity: `"dot_product"` or `"cosine"`.
    """
    rows = len(candidates)
    settings: list[tuple[TopK, Recall]] = []
    sweeps: dict[int, Callable[[], Iterable[tuple[TopK, Recall]]]] = {}
    for leaves, block, threshold in _scann_builds(*candidates.shape):
        index = ScaNN(
            queries.k,
            similarity,
            max_k,
            num_leaves=leaves,
            dimensions_per_block=block,
            anisotropic_threshold=threshold,
        )
        index.index(candidates)
        efforts = _geometric(leaves)
        for reordered in sorted({max(max_k, min(rows, n * queries.k)) for n in _REORDERED}):

            def at(effort: int, index: ScaNN = index, reordered: int = reordered) -> ScaNN:
                return index.retuned(effort, reordered)

            measured = _Measured(at, queries)
            found = measured.cheapest(efforts, target)
            settings.append(found)
            sweeps[id(found[0])] = lambda m=measured, e=efforts: m.around(e)  # type: ignore[misc]
    return _fastest(settings, sweeps, queries, target)


def tune_partitioned(
    candidates: np.ndarray, queries: Queries, max_k: int, target: float, similarity: str
) -> Tuned:
    """Searches the portable index's partitions and partitions read.

    Args:
        candidates: float32 [N, D], N >= `Partitioned.MIN_CANDIDATES`.
        queries: Of the kind that will be asked.
        max_k: Most candidates that any search will ask for.
        target: Recall to reach.
        similarity: `"dot_product"` or `"cosine"`.
    """
    settings: list[tuple[TopK, Recall]] = []
    sweeps: dict[int, Callable[[], Iterable[tuple[TopK, Recall]]]] = {}
    for count in _partition_counts(len(candidates)):
        index = Partitioned(queries.k, similarity, max_k, num_partitions=count)
        index.index(candidates)
        measured = _Ranked(index, queries)
        efforts = [n for n in _geometric(index.partitions) if n >= index.least_read]
        found = measured.cheapest(range(index.least_read, index.partitions + 1), target)
        settings.append(found)
        sweeps[id(found[0])] = lambda m=measured, e=efforts: m.around(e)  # type: ignore[misc]
    return _fastest(settings, sweeps, queries, target)


class _Measured:
    """Recall by effort, each effort searched at most once."""

    def __init__(self, at: Callable[[int], TopK], queries: Queries) -> None:
        self._at = at
        self._queries = queries
        self._known: dict[int, tuple[TopK, Recall]] = {}

    def __call__(self, effort: int) -> tuple[TopK, Recall]:
        """The index at an effort, and its recall."""
        if effort not in self._known:
            index = self._at(effort)
            self._known[effort] = index, self.measure(index, effort)
        return self._known[effort]

    def measure(self, index: TopK, effort: int) -> Recall:
        return recall(index, self._queries)

    def cheapest(self, efforts: Sequence[int], target: float) -> tuple[TopK, Recall]:
        """The least effort that surely meets the target, else the last."""
        # More effort never finds less, so bisection finds where False turns to True.
        place = bisect.bisect_left(efforts, True, key=lambda n: self(n)[1].surely(target))
        self._chosen = efforts[min(place, len(efforts) - 1)]
        return self(self._chosen)

    def around(self, efforts: Sequence[int]) -> list[tuple[TopK, Recall]]:
        """Some efforts below and above the chosen one."""
        place = bisect.bisect_left(efforts, self._chosen)
        first = max(0, min(place - _CURVE_POINTS // 2 + 1, len(efforts) - _CURVE_POINTS))
        near = efforts[first : first + _CURVE_POINTS]
        return [self(effort) for effort in near if effort != self._chosen]


class _Ranked(_Measured):
    """Recall of the partitioned index by effort, without a search.

    It returns the true neighbours whose partition it reads, and no others.
    """

    def __init__(self, index: Partitioned, queries: Queries) -> None:
        super().__init__(index.retuned, queries)
        self._ranks = index.ranks(queries.vectors, queries.neighbours)

    def measure(self, index: TopK, effort: int) -> Recall:
        return Recall.of(self._ranks < effort)


def _fastest(
    settings: list[tuple[TopK, Recall]],
    sweeps: dict[int, Callable[[], Iterable[tuple[TopK, Recall]]]],
    queries: Queries,
    target: float,
) -> Tuned:
    """Times the settings that meet the target, and a curve around the fastest of them."""
    met = [setting for setting in settings if setting[1].surely(target)]
    kept = met or [max(settings, key=lambda setting: setting[1].mean)]
    trials = _timed(kept, queries)
    best = min(trials, key=lambda trial: trial.milliseconds)
    curve = _timed(sweeps[id(best.index)](), queries)
    return Tuned(best, bool(met), (*trials, *curve))


def _timed(settings: Iterable[tuple[TopK, Recall]], queries: Queries) -> list[Trial]:
    settings = list(settings)
    times = milliseconds([index for index, _ in settings], queries, queries.k)
    return [Trial(*setting, ms) for setting, ms in zip(settings, times, strict=True)]


def _scann_builds(rows: int, dimensions: int) -> list[tuple[int, int, float | None]]:
    """Partitions, dimensions hashed together and anisotropic threshold of each build to try."""
    root = math.isqrt(rows)
    # ScaNN wants more than a handful of rows in a partition.
    leaves = sorted({max(2, min(rows // 16, factor * root)) for factor in (1, 3)})
    hashes: list[tuple[int, float | None]] = [(2, None), (2, 0.2), (4, 0.2)]
    if rows < _SMALL:
        leaves, hashes = leaves[:1], hashes[:2]
    if rows > _LARGE:
        leaves, hashes = [2 * root], hashes[:2]
    return [
        (count, min(block, dimensions), threshold)
        for count in leaves
        for block, threshold in hashes
    ]


def _partition_counts(rows: int) -> list[int]:
    root = math.isqrt(rows)
    factors = (1, 2) if rows < _LARGE else (2, 4)
    return sorted({max(2, min(rows // 16, factor * root)) for factor in factors})


def _geometric(most: int) -> list[int]:
    """1, 2, 3, 4, 5, 8, ... up to `most`: each about 1.4 times the one before."""
    steps = {round(1.4**power) for power in range(60)}
    return [*sorted(step for step in steps if step < most), most]
