"""Searches the parameters of an approximate index for the fastest that finds enough."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import numpy as np

from sid_tfx.retrieval.efforts import Efforts, PartitionEfforts, Setting
from sid_tfx.retrieval.measurement import Queries, Recall, milliseconds
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.topk import TopK

_REORDERED = (3, 5, 10, 30)
"""Candidates to score exactly, for each neighbour wanted."""

_HASHES: tuple[tuple[int, float | None], ...] = ((2, 0.2), (4, 0.2), (2, None))
"""Dimensions hashed together and anisotropic threshold; the first is the best guess."""

_SCANN_PARTITIONS = (0.5, 1, 2, 3)
_CORE_PARTITIONS = (1, 2, 4)
"""Partitions to try, for each unit of the square root of the catalogue's size."""

# Below, brute force wins anyway, and small partitions are soon too few.
_SMALL = 5_000


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


class Tuner(abc.ABC):
    """Builds an index in several ways and measures how each is searched best.

    A build that two targets want is made once.

    Args:
        candidates: float32 [N, D], N >= `MIN_CANDIDATES` of the index.
        queries: Of the kind that will be asked.
        max_k: Most candidates that any search will ask for.
        similarity: `"dot_product"` or `"cosine"`.
    """

    def __init__(
        self, candidates: np.ndarray, queries: Queries, max_k: int, similarity: str
    ) -> None:
        self._candidates, self._queries = candidates, queries
        self._max_k, self._similarity = max_k, similarity
        self._builds: dict[Hashable, list[Efforts]] = {}

    @abc.abstractmethod
    def tuned(self, target: float) -> Tuned:
        """Searches for the fastest setting of recall `target`."""

    def _timed(self, settings: Iterable[Setting]) -> list[Trial]:
        settings = list(settings)
        times = milliseconds([index for index, _ in settings], self._queries, self._queries.k)
        return [Trial(*setting, ms) for setting, ms in zip(settings, times, strict=True)]

    def _best(self, searches: Sequence[Efforts], target: float) -> tuple[Tuned, Efforts]:
        """The fastest of these searches, each at its cheapest effort, and whose it is."""
        found = {id(search.cheapest(target)[0]): search for search in searches}
        settings = [search.cheapest(target) for search in searches]
        met = [setting for setting in settings if setting[1].surely(target)]
        trials = self._timed(met or [max(settings, key=lambda setting: setting[1].mean)])
        best = min(trials, key=lambda trial: trial.milliseconds)
        return Tuned(best, bool(met), tuple(trials)), found[id(best.index)]

    def _with_curve(self, searches: Sequence[Efforts], target: float) -> Tuned:
        """The fastest, and efforts around it."""
        tuned, search = self._best(searches, target)
        curve = self._timed(search.around(target))
        return dataclasses.replace(tuned, trials=(*tuned.trials, *curve))

    def _partition_counts(self, factors: Sequence[float]) -> list[int]:
        rows = len(self._candidates)
        # An index wants more than a handful of rows in a partition.
        wanted = {max(2, min(rows // 16, round(factor * math.sqrt(rows)))) for factor in factors}
        return sorted(wanted)


class ScannTuner(Tuner):
    """Searches ScaNN's partitions, partitions read, quantization and reordering.

    Partitions first, under one way of hashing, then the other ways under the best number of them:
    every build costs seconds at a million candidates, and the grid of both finds no more.
    """

    def tuned(self, target: float) -> Tuned:
        """Builds six times at most, below 5,000 candidates twice."""
        small = len(self._candidates) < _SMALL
        counts = self._partition_counts((1,) if small else _SCANN_PARTITIONS)
        searches = [s for count in counts for s in self._worthy(target, count, *_HASHES[0])]
        best = self._best(searches, target)[0].best.index
        assert isinstance(best, ScaNN)
        for hashing in _HASHES[1:2] if small else _HASHES[1:]:
            searches += self._worthy(target, best.get_config()["num_leaves"], *hashing)
        return self._with_curve(searches, target)

    def _worthy(self, target: float, *build: Any) -> list[Efforts]:
        """A build's searches, less those that reorder more and read no less than another."""
        worthy, least = [], math.inf
        for search in self._built(*build):
            met = search.cheapest(target)[1].surely(target)
            if not met or search.effort(target) < least:
                worthy.append(search)
            if met:
                least = min(least, search.effort(target))
        return worthy

    def _built(self, leaves: int, block: int, threshold: float | None) -> list[Efforts]:
        key = (leaves, block, threshold)
        if key in self._builds:
            return self._builds[key]
        rows, dimensions = self._candidates.shape
        index = ScaNN(
            self._queries.k,
            self._similarity,
            self._max_k,
            num_leaves=leaves,
            dimensions_per_block=min(block, dimensions),
            anisotropic_threshold=threshold,
        )
        index.index(self._candidates)
        k = self._queries.k
        reordered = sorted({max(self._max_k, min(rows, n * k)) for n in _REORDERED})

        def at(effort: int, count: int) -> ScaNN:
            return index.retuned(effort, count)

        self._builds[key] = [
            Efforts(functools.partial(at, count=count), 1, leaves, self._queries)
            for count in reordered
        ]
        return self._builds[key]


class PartitionedTuner(Tuner):
    """Searches the portable index's partitions and partitions read."""

    def tuned(self, target: float) -> Tuned:
        """Builds three times; recall by effort is known without a search."""
        counts = self._partition_counts(_CORE_PARTITIONS)
        return self._with_curve([self._built(count) for count in counts], target)

    def _built(self, count: int) -> Efforts:
        if count not in self._builds:
            index = Partitioned(
                self._queries.k, self._similarity, self._max_k, num_partitions=count
            )
            index.index(self._candidates)
            self._builds[count] = [PartitionEfforts(index, self._queries)]
        return self._builds[count][0]


TUNERS: dict[str, type[Tuner]] = {"partitioned": PartitionedTuner, "scann": ScannTuner}
