"""Coverage and popularity bias for the TFMA Evaluator, by `sid_tfx.metrics.lists`."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import apache_beam as beam
from tensorflow_model_analysis.metrics import metric_types

from pipeline.ranking_metrics import output
from sid_tfx.metrics.lists import list_figures

MODULE = __name__


@dataclasses.dataclass
class _Lists:
    rows: set[int] = dataclasses.field(default_factory=set)
    catalogue: int = 0
    shown: int = 0
    shown_events: float = 0.0
    targets: int = 0
    target_events: float = 0.0


class _ListCombiner(beam.CombineFn):
    """Adds up what was shown to anyone, and how popular it and the targets are."""

    def __init__(self, model_name: str, output_name: str):
        super().__init__()
        self._names = {"model_name": model_name, "output_name": output_name}

    def create_accumulator(self) -> _Lists:
        return _Lists()

    def add_input(self, accumulator: _Lists, element: metric_types.StandardMetricInputs) -> _Lists:
        rows, events, catalogue, target = (
            output(element.prediction, name)
            for name in ("shown_rows", "shown_popularity", "catalogue_size", "target_popularity")
        )
        shown = rows[rows >= 0]
        accumulator.rows.update(shown.astype(int).tolist())
        accumulator.catalogue = int(catalogue[0])
        accumulator.shown += len(shown)
        accumulator.shown_events += float(events[rows >= 0].sum())
        accumulator.targets += 1
        accumulator.target_events += float(target[0])
        return accumulator

    def merge_accumulators(self, accumulators: Iterable[_Lists]) -> _Lists:
        merged = _Lists()
        for part in accumulators:
            merged.rows |= part.rows
            merged.catalogue = max(merged.catalogue, part.catalogue)
            merged.shown += part.shown
            merged.shown_events += part.shown_events
            merged.targets += part.targets
            merged.target_events += part.target_events
        return merged

    def extract_output(self, accumulator: _Lists) -> dict[metric_types.MetricKey, float]:
        if not accumulator.catalogue:
            return {}
        figures = list_figures(
            len(accumulator.rows),
            accumulator.catalogue,
            accumulator.shown,
            accumulator.shown_events,
            accumulator.targets,
            accumulator.target_events,
        )
        return {
            metric_types.MetricKey(name=name, **self._names): value
            for name, value in figures.items()
        }


class ListFigures(metric_types.Metric):
    """`coverage@10`, `mean_popularity@10` and `popularity_bias@10` of the plain lists."""

    def __init__(self, name: str = "list_figures") -> None:
        def computations(
            model_name: str = "", output_name: str = "", **_: Any
        ) -> metric_types.MetricComputations:
            keys = [
                metric_types.MetricKey(name=figure, model_name=model_name, output_name=output_name)
                for figure in list_figures(0, 1, 0, 0.0, 0, 0.0)
            ]
            combiner = _ListCombiner(model_name, output_name)
            return [
                metric_types.MetricComputation(keys=keys, preprocessors=None, combiner=combiner)
            ]

        super().__init__(computations, name=name)


metric_types.register_metric(ListFigures)
