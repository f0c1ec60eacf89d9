"""TFMA's ranking metrics are those of the library, whatever way Beam merges."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types
from tfx.types import standard_artifacts

from pipeline.config import ModelGateConfig
from pipeline.list_metrics import ListFigures
from pipeline.local_runner import Stage
from pipeline.model_gate import eval_config
from pipeline.ranking_metrics import (
    RANKS,
    NdcgAtK,
    NdcgInterval,
    RecallAtK,
    RecallInterval,
    RecallOverPopularity,
    ReciprocalRank,
)
from pipeline.stage_lines import line, overall_metrics
from sid_tfx.evaluation.bootstrap import bootstrap_mean
from sid_tfx.metrics.ranking import ndcg_at, ranking_metrics, recall_at, reciprocal_rank
from sid_tfx.metrics.slices import SLICES, slice_masks

pytestmark = pytest.mark.unit

# What the signature answers for seven users.
ANSWER = {
    name: np.array(values, np.float32)
    for name, values in {
        "rank": [1, 0, 11, 10, 3, 0, 2],
        "sid_rank": [1, 4, 9, 7, 3, 0, 2],
        "filtered_rank": [1, 0, 8, 6, 2, 20, 0],
        "filtered_sid_rank": [1, 3, 6, 4, 2, 12, 5],
        "popularity_rank": [0, 2, 0, 0, 30, 0, 1],
        "history_length": [1, 4, 5, 9, 10, 30, 2],
        "target_popularity": [0, 1, 9, 10, 30, 50, 3],
    }.items()
}
LENGTHS, EVENTS = ANSWER["history_length"], ANSWER["target_popularity"]
# The lists of these users, of a catalogue of nine ads: two places each, the last user's half full.
POPULARITY = np.array([50, 30, 10, 9, 3, 1, 0, 0, 0], np.float32)
SHOWN = np.array([[0, 1], [1, 0], [0, 2], [4, 8], [0, 1], [2, 0], [1, -1]])
LISTS = {
    "shown_rows": SHOWN.astype(np.float32),
    "shown_popularity": np.where(SHOWN >= 0, POPULARITY[SHOWN], 0),
    "catalogue_size": np.full(7, len(POPULARITY), np.float32),
}
ANSWER |= LISTS
# Ways in which Beam may share out the users and merge.
SPLITS = [[range(7)], [range(3), range(3, 7)], [[6, 0], [], [5, 4, 1, 2, 3]]]


def _want_of_lists(rows):
    shown = SHOWN[rows][SHOWN[rows] >= 0]
    mean = POPULARITY[shown].mean()
    return {
        "coverage@10": len(set(shown.tolist())) / len(POPULARITY),
        "mean_popularity@10": mean,
        "popularity_bias@10": mean / EVENTS[rows].mean(),
    }


def _value(metric, split, answer=ANSWER):
    return next(iter(_values(metric, split, answer).values()), None)


def _values(metric, split, answer=ANSWER):
    [computation] = metric.computations(eval_config=tfma.EvalConfig())
    combiner = computation.combiner
    parts = []
    for rows in split:
        accumulator = combiner.create_accumulator()
        for row in rows:
            predictions = {name: values[row : row + 1] for name, values in answer.items()}
            inputs = metric_types.StandardMetricInputs(predictions=predictions)
            accumulator = combiner.add_input(accumulator, inputs)
        parts.append(accumulator)
    found = combiner.extract_output(combiner.merge_accumulators(parts))
    assert set(found) <= set(computation.keys)
    return {key.name: value for key, value in found.items()}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("split", SPLITS)
def test_metrics_equal_the_library(split, rank):
    ranks = ANSWER[rank]
    assert _value(RecallAtK(k=10, rank=rank), split) == pytest.approx(recall_at(ranks, 10).mean())
    assert _value(NdcgAtK(k=5, rank=rank), split) == pytest.approx(ndcg_at(ranks, 5).mean())
    mrr = reciprocal_rank(ranks).mean()
    assert _value(ReciprocalRank(rank=rank), split) == pytest.approx(mrr)


def test_recall_stands_over_that_of_popularity():
    # Four hits against popularity's two.
    assert _value(RecallOverPopularity(k=10), [range(4), range(4, 7)]) == pytest.approx(2.0)


def test_a_rank_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="rank must be one of"):
        RecallAtK(rank="popularity_rank")
    older = {name: values for name, values in ANSWER.items() if name != "sid_rank"}
    assert _value(RecallAtK(), [range(7)], older) > 0
    with pytest.raises(ValueError, match=r"has no 'sid_rank'.*run\.cache=false"):
        _value(RecallAtK(rank="sid_rank"), [range(7)], older)


@pytest.mark.parametrize("name", SLICES)
def test_slices_equal_the_library(name):
    mask = slice_masks(LENGTHS, EVENTS)[name]
    outside = [row for row in range(7) if not mask[row]]
    for metric, gain in ((NdcgAtK, ndcg_at), (RecallAtK, recall_at)):
        inside = metric(k=10, users=name, rank="filtered_rank")
        want = gain(ANSWER["filtered_rank"][mask], 10).mean()
        assert _value(inside, [range(3), range(3, 7)]) == pytest.approx(want)
        assert _value(inside, [outside]) is None


@pytest.mark.parametrize("split", SPLITS)
def test_intervals_are_those_of_the_library(split):
    for metric, gain in ((RecallInterval, recall_at), (NdcgInterval, ndcg_at)):
        want = bootstrap_mean(gain(ANSWER["sid_rank"], 10))
        found = _values(metric(name="sid_x", rank="sid_rank"), split)
        assert found == pytest.approx({f"sid_x_{end}": want[end] for end in ("low", "high")})
        assert want["low"] < want["difference"] < want["high"]
    assert _values(RecallInterval(), [[]]) == {}


@pytest.mark.parametrize("split", SPLITS)
def test_coverage_and_popularity_bias_whatever_way_beam_merges(split):
    assert _values(ListFigures(), split) == pytest.approx(_want_of_lists(np.arange(7)))


def test_lists_without_users_have_no_figures():
    assert _values(ListFigures(), [[], []]) == {}
    older = {name: values for name, values in ANSWER.items() if name != "shown_rows"}
    with pytest.raises(ValueError, match=r"has no 'shown_rows'.*run\.cache=false"):
        _values(ListFigures(), [range(7)], older)


def test_metrics_come_back_from_their_config():
    sliced = NdcgAtK(k=5, users="target:cold", rank="filtered_sid_rank")
    plain = (RecallAtK(), ReciprocalRank(), RecallOverPopularity(), RecallInterval(), ListFigures())
    for metric in (sliced, *plain, NdcgInterval(name="sid_ndcg@10", rank="sid_rank")):
        again = type(metric).from_config(metric.get_config())
        assert again.get_config() == metric.get_config()


def test_gate_thresholds_come_from_the_configuration():
    gate = ModelGateConfig(min_recall_at_10=0.03, min_recall_over_popularity=1.5)
    config = eval_config(gate)
    bounds = {
        json.loads(metric.config)["name"]: metric.threshold.value_threshold.lower_bound.value
        for metric in config.metrics_specs[0].metrics
        if metric.HasField("threshold")
    }
    # Item level, plain: a limit on another figure would be another limit.
    assert bounds == {"recall@10": 0.03, "recall@10_over_popularity": 1.5}
    assert [spec.signature_name for spec in config.model_specs] == ["evaluate"]


class Signature(tf.Module):
    """Answers `evaluate` with what the examples hold."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def evaluate(self, examples):
        spec = {
            name: tf.io.FixedLenFeature(values.shape[1:], tf.float32)
            for name, values in ANSWER.items()
        }
        return tf.io.parse_example(examples, spec)


@pytest.mark.slow
def test_the_evaluator_gives_the_figures_of_the_library(tmp_path):
    module = Signature()
    signatures = {"evaluate": module.evaluate, "serving_default": module.evaluate}
    tf.saved_model.save(module, str(tmp_path / "model"), signatures)
    # No history is in the middle: a slice without users.
    kept = (LENGTHS < 5) | (LENGTHS > 9)
    answer = {name: values[kept] for name, values in ANSWER.items()}
    with tf.io.TFRecordWriter(str(tmp_path / "examples")) as writer:
        for row in range(kept.sum()):
            example = tf.train.Example()
            for name, values in answer.items():
                example.features.feature[name].float_list.value.extend(np.atleast_1d(values[row]))
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
    want = {"example_count": kept.sum(), "recall@10_over_popularity": 1.5}
    for prefix in ("", "sid_", "filtered_", "filtered_sid_"):
        figures = ranking_metrics(answer[f"{prefix}rank"])
        want |= {f"{prefix}{name}": value for name, value in figures.items()}
        for name, gain in (("recall@10", recall_at), ("ndcg@10", ndcg_at)):
            interval = bootstrap_mean(gain(answer[f"{prefix}rank"], 10))
            want |= {f"{prefix}{name}_{end}": interval[end] for end in ("low", "high")}
    for name, mask in slice_masks(answer["history_length"], answer["target_popularity"]).items():
        if mask.any():
            want[f"ndcg@10 {name}"] = ndcg_at(answer["rank"][mask], 10).mean()
    want["recall@10 target:cold"] = 1.0
    want |= _want_of_lists(np.flatnonzero(kept))
    found = overall_metrics(artifact)
    assert found == pytest.approx(want)
    stage = Stage("Evaluator", 0.0, False, "", {"evaluation": [artifact]})
    assert line(stage) == (
        "ndcg@10 0.4262, ndcg@5 0.4262, recall@10 0.6, recall@10_over_popularity 1.5, recall@5 0.6"
    )
