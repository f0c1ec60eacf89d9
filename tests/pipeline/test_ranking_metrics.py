"""TFMA's ranking metrics are those of the library, whatever way Beam merges."""

import numpy as np
import pytest
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from pipeline.config import ModelGateConfig
from pipeline.model_gate import eval_config
from pipeline.ranking_metrics import NdcgAtK, RecallAtK, RecallOverPopularity, ReciprocalRank
from sid_tfx.evaluation import SLICES, slice_masks
from sid_tfx.metrics.ranking import ndcg_at, recall_at, reciprocal_rank

pytestmark = pytest.mark.unit

RANKS = np.array([1, 0, 11, 10, 3, 0, 2], np.float32)
LENGTHS = np.array([1, 4, 5, 9, 10, 30, 2], np.float32)
EVENTS = np.array([0, 1, 9, 10, 30, 50, 3], np.float32)
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
                    "history_length": LENGTHS[row : row + 1],
                    "target_popularity": EVENTS[row : row + 1],
                }
            )
            accumulator = combiner.add_input(accumulator, inputs)
        parts.append(accumulator)
    found = combiner.extract_output(combiner.merge_accumulators(parts))
    return next(iter(found.values()), None)


@pytest.mark.parametrize(
    "split", [[range(7)], [range(3), range(3, 7)], [[6, 0], [], [5, 4, 1, 2, 3]]]
)
def test_metrics_equal_the_library(split):
    assert _value(RecallAtK(k=10), split) == pytest.approx(recall_at(RANKS, 10).mean())
    assert _value(NdcgAtK(k=5), split) == pytest.approx(ndcg_at(RANKS, 5).mean())
    assert _value(ReciprocalRank(), split) == pytest.approx(reciprocal_rank(RANKS).mean())
    # Four hits against popularity's two.
    assert _value(RecallOverPopularity(k=10), split) == pytest.approx(2.0)


@pytest.mark.parametrize("name", SLICES)
def test_slices_equal_the_library(name):
    mask = slice_masks(LENGTHS, EVENTS)[name]
    metric = NdcgAtK(k=10, users=name)
    assert _value(metric, [range(3), range(3, 7)]) == pytest.approx(ndcg_at(RANKS[mask], 10).mean())
    outside = [row for row in range(7) if not mask[row]]
    assert _value(metric, [outside]) is None


def test_metrics_come_back_from_their_config():
    for metric in (NdcgAtK(k=5, users="target:cold"), ReciprocalRank(), RecallOverPopularity()):
        again = type(metric).from_config(metric.get_config())
        assert again.get_config() == metric.get_config()


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
