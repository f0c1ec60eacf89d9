"""Ranking metrics for the TFMA Evaluator, computed from the servable's `evaluate` signature.

The signature returns the 1-based rank of the held-out ad among the results (0: not returned), at
item and at semantic-ID level, plain and filtered (`RANKS`), `popularity_rank`, the same for the
popularity baseline, and what slices need. All gains come from `sid_tfx.metrics.ranking`, all
slices from `sid_tfx.metrics.slices` and all intervals from `sid_tfx.evaluation.bootstrap`, so TFMA
and `pipeline.py evaluate` cannot drift apart. What lists look like is in `pipeline.list_metrics`.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types

from sid_tfx.evaluation.bootstrap import bootstrap_mean
from sid_tfx.metrics import ranking
from sid_tfx.metrics.slices import slice_masks

MODULE = __name__
RANKS = ("rank", "sid_rank", "filtered_rank", "filtered_sid_rank")
"""What a metric can be of: outputs of the signature."""


def output(prediction: dict[str, np.ndarray], name: str) -> np.ndarray:
    """One output of the signature for one example, flat.

    Raises:
        ValueError: The signature has no such output.
    """
    if name not in prediction:
        raise ValueError(
            f"The servable's signature `evaluate` has no {name!r}, only {sorted(prediction)}. "
            "Older code built it: run with `--set run.cache=false`."
        )
    return np.asarray(prediction[name]).reshape(-1)


def _gains(gain: str, ranks: np.ndarray, k: int) -> np.ndarray:
    return getattr(ranking, gain)(ranks, *([k] if k else []))


@dataclasses.dataclass
class _Mean:
    count: float = 0.0
    total: float = 0.0
    baseline: float = 0.0


class _GainCombiner(beam.CombineFn):
    """Sums the gain of each example's rank, for a ratio the baseline's too, in one slice."""

    def __init__(
        self, key: metric_types.MetricKey, gain: str, k: int, ratio: bool, rank: str, users: str
    ):
        super().__init__()
        self._key = key
        self._gain = gain
        self._k = k
        self._ratio = ratio
        self._rank = rank
        self._users = users

    def create_accumulator(self) -> _Mean:
        return _Mean()

    def add_input(self, accumulator: _Mean, element: metric_types.StandardMetricInputs) -> _Mean:
        prediction = element.prediction
        if self._users and not self._inside(prediction):
            return accumulator
        accumulator.count += 1
        accumulator.total += self._of(output(prediction, self._rank))
        if self._ratio:
            accumulator.baseline += self._of(output(prediction, "popularity_rank"))
        return accumulator

    def _of(self, ranks: np.ndarray) -> float:
        return float(_gains(self._gain, ranks, self._k)[0])

    def _inside(self, prediction: dict[str, np.ndarray]) -> bool:
        length, events = (
            output(prediction, name) for name in ("history_length", "target_popularity")
        )
        return bool(slice_masks(length, events)[self._users][0])

    def merge_accumulators(self, accumulators: Iterable[_Mean]) -> _Mean:
        merged = _Mean()
        for part in accumulators:
            merged.count += part.count
            merged.total += part.total
            merged.baseline += part.baseline
        return merged

    def extract_output(self, accumulator: _Mean) -> dict[metric_types.MetricKey, float]:
        if not accumulator.count:
            # A slice without users is left out; no users at all is a gate that nothing can pass.
            return {} if self._users else {self._key: float("nan")}
        if not self._ratio:
            return {self._key: accumulator.total / accumulator.count}
        # A baseline without a single hit cannot be divided by; one hit stands in for it.
        least = 1.0
        return {self._key: accumulator.total / max(accumulator.baseline, least)}


class _IntervalCombiner(beam.CombineFn):
    """Counts ranks: all that a bootstrap over users needs to know of them."""

    def __init__(self, keys: Sequence[metric_types.MetricKey], gain: str, k: int, rank: str):
        super().__init__()
        self._keys = keys
        self._gain = gain
        self._k = k
        self._rank = rank

    def create_accumulator(self) -> Counter[int]:
        return Counter()

    def add_input(
        self, accumulator: Counter[int], element: metric_types.StandardMetricInputs
    ) -> Counter[int]:
        accumulator[int(output(element.prediction, self._rank)[0])] += 1
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[Counter[int]]) -> Counter[int]:
        merged: Counter[int] = Counter()
        for part in accumulators:
            merged.update(part)
        return merged

    def extract_output(self, accumulator: Counter[int]) -> dict[metric_types.MetricKey, float]:
        if not accumulator:
            return {}
        ranks, users = (np.array(part) for part in zip(*sorted(accumulator.items()), strict=True))
        interval = bootstrap_mean(np.repeat(_gains(self._gain, ranks, self._k), users))
        return dict(zip(self._keys, (interval["low"], interval["high"]), strict=True))


class _RankMetric(metric_types.Metric):
    """A mean of gains.

    Args of all metrics here:
        k: Results that count.
        name: Of the metric.
        rank: Which of `RANKS` it is of.
        users: A slice of `sid_tfx.metrics.slices.SLICES`; empty takes all users. A slice without
            users has no value.
    """

    def __init__(self, gain: str, ratio: bool, k: int, name: str, rank: str, users: str):
        if rank not in RANKS:
            raise ValueError(f"rank must be one of {RANKS}, got {rank!r}.")

        def computations(
            name: str = name,
            eval_config: Any = None,
            model_name: str = "",
            output_name: str = "",
            **_: Any,
        ) -> metric_types.MetricComputations:
            key = metric_types.MetricKey(name=name, model_name=model_name, output_name=output_name)
            return [
                metric_types.MetricComputation(
                    keys=[key],
                    preprocessors=None,
                    combiner=_GainCombiner(key, gain, k, ratio, rank, users),
                )
            ]

        super().__init__(computations, name=name, k=k, rank=rank, users=users)


class RecallAtK(_RankMetric):
    """Share of users whose held-out ad is among the first `k` results."""

    def __init__(
        self, k: int = 10, name: str = "recall@10", rank: str = "rank", users: str = ""
    ) -> None:
        super().__init__("recall_at", False, k, name, rank, users)


class NdcgAtK(_RankMetric):
    """Mean of 1 / log2(1 + rank) over users, 0 past rank `k`."""

    def __init__(
        self, k: int = 10, name: str = "ndcg@10", rank: str = "rank", users: str = ""
    ) -> None:
        super().__init__("ndcg_at", False, k, name, rank, users)


class ReciprocalRank(_RankMetric):
    """Mean of 1 / rank over users, 0 where the held-out ad was not returned."""

    def __init__(self, k: int = 0, name: str = "mrr", rank: str = "rank", users: str = "") -> None:
        # The lists are as long as the servable's K; there is no other cut.
        super().__init__("reciprocal_rank", False, k, name, rank, users)


class RecallOverPopularity(_RankMetric):
    """Recall@k of the servable over recall@k of the popularity baseline, plain at item level."""

    def __init__(
        self,
        k: int = 10,
        name: str = "recall@10_over_popularity",
        rank: str = "rank",
        users: str = "",
    ) -> None:
        super().__init__("recall_at", True, k, name, rank, users)


class _RankInterval(metric_types.Metric):
    """95% bootstrap interval over users of a mean gain, `NAME_low` and `NAME_high`.

    Args of both metrics here:
        k: Results that count.
        name: Of the metric that the interval is of.
        rank: Which of `RANKS` it is of.
    """

    def __init__(self, gain: str, k: int, name: str, rank: str):
        def computations(
            name: str = name, model_name: str = "", output_name: str = "", **_: Any
        ) -> metric_types.MetricComputations:
            keys = [
                metric_types.MetricKey(
                    name=f"{name}_{end}", model_name=model_name, output_name=output_name
                )
                for end in ("low", "high")
            ]
            combiner = _IntervalCombiner(keys, gain, k, rank)
            return [
                metric_types.MetricComputation(keys=keys, preprocessors=None, combiner=combiner)
            ]

        super().__init__(computations, name=name, k=k, rank=rank)


class RecallInterval(_RankInterval):
    """Where recall@k of other such users would lie."""

    def __init__(self, k: int = 10, name: str = "recall@10", rank: str = "rank") -> None:
        super().__init__("recall_at", k, name, rank)


class NdcgInterval(_RankInterval):
    """Where NDCG@k of other such users would lie."""

    def __init__(self, k: int = 10, name: str = "ndcg@10", rank: str = "rank") -> None:
        super().__init__("ndcg_at", k, name, rank)


for _metric in (
    RecallAtK, NdcgAtK, ReciprocalRank, RecallOverPopularity, RecallInterval, NdcgInterval
):  # fmt: skip
    metric_types.register_metric(_metric)
