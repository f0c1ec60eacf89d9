"""TFMA's ranking metrics are those of the library, whatever way Beam merges."""

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types
from tfx.types import standard_artifacts

from pipeline.config import ModelGateConfig
from pipeline.model_gate import eval_config
from pipeline.ranking_metrics import NdcgAtK, RecallAtK, RecallOverPopularity, ReciprocalRank
from pipeline.stage_lines import overall_metrics
from sid_tfx.metrics.ranking import ndcg_at, recall_at, reciprocal_rank
from sid_tfx.metrics.slices import SLICES, slice_masks

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


class Signature(tf.Module):
    """Answers `evaluate` with what the examples hold."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def evaluate(self, examples):
        spec = {
            name: tf.io.FixedLenFeature([], tf.float32)
            for name in ("rank", "popularity_rank", "history_length", "target_popularity")
        }
        return tf.io.parse_example(examples, spec)


@pytest.mark.slow
def test_the_evaluator_gives_the_figures_of_the_library(tmp_path):
    module = Signature()
    signatures = {"evaluate": module.evaluate, "serving_default": module.evaluate}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures)
    # No target is cold: a slice without users.
    kept = EVENTS > 0
    columns = np.stack([RANKS, POPULAR, LENGTHS, EVENTS], axis=1)[kept]
    names = ("rank", "popularity_rank", "history_length", "target_popularity")
    with tf.io.TFRecordWriter(str(tmp_path / "examples")) as writer:
        for row in columns:
            example = tf.train.Example()
            for name, value in zip(names, row, strict=True):
                example.features.feature[name].float_list.value.append(value)
            writer.write(example.SerializeToString())
    config = eval_config(ModelGateConfig())
    tfma.run_model_analysis(
        eval_config=config,
        eval_shared_model=tfma.default_eval_shared_model(
            str(tmp_path / "model"), eval_config=config
        ),
        data_location=str(tmp_path / "examples"),
        output_path=str(tmp_path / "out"),
    )
    artifact = standard_artifacts.ModelEvaluation()
    artifact.uri = str(tmp_path / "out")
    found = overall_metrics(artifact)
    ranks = RANKS[kept]
    assert found["mrr"] == pytest.approx(reciprocal_rank(ranks).mean())
    assert found["ndcg_at_10"] == pytest.approx(ndcg_at(ranks, 10).mean())
    for name, mask in slice_masks(LENGTHS[kept], EVENTS[kept]).items():
        if mask.any():
            want = ndcg_at(ranks[mask], 10).mean()
            assert found[f"ndcg@10 {name}"] == pytest.approx(want), name
    assert "ndcg@10 target:cold" not in found
