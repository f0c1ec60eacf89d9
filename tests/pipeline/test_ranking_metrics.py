"""TFMA's ranking metrics are those of the library, whatever way Beam merges."""

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from pipeline.config import ModelGateConfig
from pipeline.model_gate import eval_config
from pipeline.ranking_metrics import NdcgAtK, RecallAtK, RecallOverPopularity
from sid_tfx.metrics.ranking import ndcg_at, recall_at

pytestmark = pytest.mark.unit

RANKS = np.array([1, 0, 11, 10, 3, 0, 2], np.float32)
POPULAR = np.array([0, 2, 0, 0, 30, 0, 1], np.float32)


def _value(metric, split):
    [computation] = metric.computations(eval_config=tfma.EvalConfig())
    combiner = computation.combiner
    parts = []
    for rows in split:
        accumulator = combiner.create_accumulator()
        for row in rows:
            inputs = metric_types.StandardMetricInputs(
                predictions={
                    "rank": RANKS[row : row + 1],
                    "popularity_rank": POPULAR[row : row + 1],
                }
            )
            accumulator = combiner.add_input(accumulator, inputs)
        parts.append(accumulator)
    [value] = combiner.extract_output(combiner.merge_accumulators(parts)).values()
    return value


@pytest.mark.parametrize(
    "split", [[range(7)], [range(3), range(3, 7)], [[6, 0], [], [5, 4, 1, 2, 3]]]
)
def test_metrics_equal_the_library(split):
    assert _value(RecallAtK(k=10), split) == pytest.approx(recall_at(RANKS, 10).mean())
    assert _value(NdcgAtK(k=5), split) == pytest.approx(ndcg_at(RANKS, 5).mean())
    # Four hits against popularity's two.
    assert _value(RecallOverPopularity(k=10), split) == pytest.approx(2.0)


def test_gate_thresholds_come_from_the_configuration():
    gate = ModelGateConfig(min_recall_at_10=0.03, min_recall_over_popularity=1.5)
    config = eval_config(gate)
    bounds = {
        metric.config: metric.threshold.value_threshold.lower_bound.value
        for metric in config.metrics_specs[0].metrics
        if metric.HasField("threshold")
    }
    assert sorted(bounds.values()) == [0.03, 1.5]
    assert [spec.signature_name for spec in config.model_specs] == ["evaluate"]
