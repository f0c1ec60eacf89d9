"""Ranking metrics for the TFMA Evaluator, computed from the servable's `evaluate` signature.

The signature returns the 1-based rank of the held-out ad among the results (0: not returned), at
item and at semantic-ID level, plain and filtered (`RANKS`), `popularity_rank`, the same for the
popularity baseline, and what slices need. All gains come from `sid_tfx.metrics.ranking` and all
slices from `sid_tfx.metrics.slices`, so TFMA and `pipeline.py evaluate` cannot drift apart.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
from tensorflow_model_analysis.metrics import metric_types

from sid_tfx.metrics import ranking
from sid_tfx.metrics.slices import slice_masks

MODULE = __name__
RANKS = ("rank", "sid_rank", "filtered_rank", "filtered_sid_rank")
"""What a metric can be of: outputs of the signature."""


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
        if self._rank not in prediction:
            raise ValueError(
                f"The servable's signature `evaluate` has no {self._rank!r}, only "
                f"{sorted(prediction)}. Older code built it: run with `--set run.cache=false`."
            )
        accumulator.count += 1
        accumulator.total += self._of(prediction[self._rank])
        if self._ratio:
            accumulator.baseline += self._of(prediction["popularity_rank"])
        return accumulator

    def _of(self, rank: np.ndarray) -> float:
        ranks = np.asarray(rank).reshape(-1)
        return float(getattr(ranking, self._gain)(ranks, *([self._k] if self._k else []))[0])

    def _inside(self, prediction: dict[str, np.ndarray]) -> bool:
        length, events = (
            np.asarray(prediction[name]).reshape(-1)
            for name in ("history_length", "target_popularity")
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


for _metric in (RecallAtK, NdcgAtK, ReciprocalRank, RecallOverPopularity):
    metric_types.register_metric(_metric)
