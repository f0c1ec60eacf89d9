"""Every step of the compiled Kubeflow pipeline, run as its container would run it.

No cluster: see `kubeflow_local`. The answers of what it pushes must be those of the local run.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from serving.servable import Servable
from sid_tfx.datasets.records import read_sequences
from tests.e2e.conftest import pipeline
from tests.e2e.kubeflow_local import CompiledPipeline, StepRunner

pytestmark = pytest.mark.slow

HISTORIES = 20


class KubeflowRun(NamedTuple):
    """What running every step left behind."""

    pipeline: CompiledPipeline
    runner: StepRunner
    push_directory: Path


@pytest.fixture(scope="module")
def compiled(small_run, tmp_path_factory) -> tuple[CompiledPipeline, Path]:
    """The compiled pipeline and the folder it pushes to."""
    root = tmp_path_factory.mktemp("compiled")
    push, document = root / "push", root / "pipeline.yaml"
    pipeline(
        "compile",
        *small_run.options,
        *("--set", f"run.push_directory={push}"),
        *("--output", str(document)),
    )
    return CompiledPipeline.load(document), push


@pytest.fixture(scope="module")
def steps(compiled, tmp_path_factory) -> KubeflowRun:
    document, push = compiled
    runner = StepRunner(document, tmp_path_factory.mktemp("artifacts"))
    for name in document.order():
        runner.run(name)
    return KubeflowRun(document, runner, push)


def _version(steps: KubeflowRun, flavour: str) -> Path:
    [version] = (steps.push_directory / flavour / "sid_tfx").iterdir()
    return version


def _ask(path: Path, histories: list[np.ndarray]) -> list[np.ndarray]:
    servable = Servable(path, "sid_tfx", int(path.name))
    shape = servable.signatures["recommend"].inputs["history"].shape
    assert shape is not None
    [length] = shape[1:]
    padded = np.full((len(histories), length), b"", object)
    for row, history in enumerate(histories):
        newest = history[-length:]
        padded[row, : len(newest)] = [ad.encode() for ad in newest]
    try:
        return servable.run("recommend", {"history": padded}, ["ad_ids", "scores", "sids", "count"])
    finally:
        servable.close()


def test_every_stage_that_made_something_locally_is_a_step(compiled, small_run):
    # First in the file: the local run is no part of the time that the steps may take.
    document, _ = compiled
    made = {output.partition(".")[0] for output in small_run.summary["artifacts"]}
    assert "Composer" in made
    assert made <= set(document.order())


def test_both_flavours_are_pushed_with_a_warmup_file(steps):
    for flavour in ("portable", "scann"):
        version = _version(steps, flavour)
        assert (version / "saved_model.pb").is_file()
        assert (version / "assets.extra" / "tf_serving_warmup_requests").stat().st_size > 0


def test_metadata_travels_between_steps(steps):
    def metadata(task: str, key: str) -> dict:
        return dict(steps.runner.artifacts[task, key].metadata.items())

    assert metadata("AdsGen", "examples")["split_names"] == '["all"]'
    assert metadata("AdsGen", "examples")["rows"] == 300
    assert metadata("SidAssigner", "catalog")["ads"] == 300
    assert metadata("SidEvaluator", "blessing")["blessed"] == 1
    assert metadata("ServingValidator", "portable_blessing")["has_model"] == 1
    assert metadata("PortablePusher", "pushed_model")["pushed"] == 1
    assert "300 ads" in metadata("Composer", "portable")["summary"]


def test_recommendations_are_those_of_the_local_run(steps, small_run):
    sequences = f"{small_run.summary['artifacts']['InteractionBuilder.sequences']}/Split-test/*"
    histories = read_sequences(sequences).histories[:HISTORIES]
    assert len(histories) == HISTORIES
    local = _ask(Path(small_run.summary["servables"]["portable"]), histories)
    kubeflow = _ask(_version(steps, "portable"), histories)
    ad_ids, scores, sids, count = zip(local, kubeflow, strict=True)
    np.testing.assert_array_equal(*ad_ids)
    np.testing.assert_array_equal(*sids)
    np.testing.assert_array_equal(*count)
    np.testing.assert_allclose(*scores, rtol=1e-5)


def test_every_part_is_of_the_same_generation_as_the_local_runs(steps, small_run):
    def fingerprints(path: Path) -> dict:
        return json.loads((path / "assets.extra" / "sid_tfx.json").read_text())["fingerprints"]

    local = fingerprints(Path(small_run.summary["servables"]["portable"]))
    kubeflow = fingerprints(_version(steps, "portable"))
    # The index names the kind that was measured faster, which two runs need not agree on.
    for part in ("tokenizer", "catalog", "recommender"):
        assert kubeflow[part] == local[part]


def test_ingestion_needs_no_driver_hook(steps, tmp_path):
    """Open-source Kubeflow runs none."""
    without = StepRunner(steps.pipeline, tmp_path, hooks=False)
    without.run("AdsGen")

    def ads(runner: StepRunner) -> dict[bytes, tf.train.Example]:
        files = sorted(Path(runner.artifacts["AdsGen", "examples"].uri).glob("Split-all/*"))
        dataset = tf.data.TFRecordDataset([str(f) for f in files], compression_type="GZIP")
        # Parsed, because a serialized map has no fixed order.
        examples = [tf.train.Example.FromString(record) for record in dataset.as_numpy_iterator()]
        return {ad.features.feature["ad_id"].bytes_list.value[0]: ad for ad in examples}

    assert len(ads(without)) == 300
    assert ads(without) == ads(steps.runner)
