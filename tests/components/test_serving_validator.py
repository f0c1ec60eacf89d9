"""ServingValidator asks every signature and says which one failed."""

import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2
from tfx.dsl.components.base.base_executor import BaseExecutor
from tfx.types import standard_artifacts

from components.serving_validator import executor
from components.serving_validator.executor import Executor, _serve
from components.serving_validator.requests import RequestMaker, read_signatures
from components.verdict import read_verdict
from tests.serving.toy_servable import AD_IDS, HISTORY, save_toy

pytestmark = pytest.mark.unit

LIMITS = {"load_seconds": 30, "requests": 8, "max_p95_ms": 1000.0}


@pytest.fixture(scope="module")
def servable(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    return save_toy(root / "model", root / "scratch", offset=0.0)


@pytest.fixture(scope="module")
def maker(servable):
    histories = [AD_IDS[i : i + 7] for i in range(5)]
    ad = tf.train.Example(
        features=tf.train.Features(
            feature={"ad_id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"x"]))}
        )
    )
    return RequestMaker(read_signatures(str(servable)), histories, [ad.SerializeToString()])


def test_inputs_have_the_wire_shapes_and_the_newest_ads(maker):
    inputs = maker.inputs("recommend_filtered", first=0, batch=3)
    assert inputs["history"].shape == (3, HISTORY)
    assert [ad.decode() for ad in inputs["history"][0]] == AD_IDS[7 - HISTORY : 7]
    assert inputs["mode"].tolist() == [b"generative", b"hybrid", b"generative"]
    assert inputs["filter_seen"].dtype == bool


def test_warmup_file_holds_every_signature_at_every_batch_size(maker, tmp_path):
    count = maker.write_warmup(str(tmp_path / "warmup"), "sid_tfx")
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(str(tmp_path / "warmup"))
    ]
    assert len(logs) == count == 2 * len(maker.signatures)
    asked = {log.predict_log.request.model_spec.signature_name for log in logs}
    assert asked == set(maker.signatures)


def test_a_context_is_asked_with_what_is_known_of_it():
    shapes = {
        "history": (-1, 3),
        "history_timestamps": (-1, 3),
        "history_events": (-1, 3),
        "history_weights": (-1, 3),
    }
    maker = RequestMaker(
        {"recommend_in_context": shapes},
        [AD_IDS[:5], AD_IDS[:2]],
        [b""],
        context={
            "history_timestamps": [[1, 2, 3, 4, 5], [6, 7]],
            "history_events": [["a"] * 5, []],
        },
    )
    inputs = maker.inputs("recommend_in_context", first=0, batch=2)
    assert inputs["history_timestamps"].tolist() == [[3, 4, 5], [6, 7, 0]]
    assert inputs["history_events"].tolist() == [[b"a"] * 3, [b""] * 3]
    assert inputs["history_weights"].tolist() == [[0.0] * 3] * 2
    assert inputs["history_weights"].dtype == np.float32


def test_an_input_outside_the_contract_is_named(maker):
    odd = RequestMaker({"recommend": {"temperature": (-1,)}}, [AD_IDS[:3]], [b""])
    with pytest.raises(ValueError, match="temperature"):
        odd.inputs("recommend", 0, 1)


def test_a_good_servable_passes(servable, maker, tmp_path):
    checks, p95 = _serve(str(servable), maker, LIMITS, str(tmp_path), "portable")
    assert [check.sentence for check in checks if not check.ok] == []
    assert np.isfinite(p95)


def test_a_slow_limit_is_refused_with_its_number(servable, maker, tmp_path):
    checks, _ = _serve(str(servable), maker, {**LIMITS, "max_p95_ms": 1e-6}, str(tmp_path), "scann")
    [failed] = [check for check in checks if not check.ok]
    assert failed.name == "scann_p95_ms"
    assert "limit is at most 1e-06" in failed.sentence


def test_a_servable_whose_recommend_fails_gets_a_verdict(servable, tmp_path):
    histories = [AD_IDS[:HISTORY], AD_IDS[2:]]
    wide = RequestMaker({"recommend": {"history": (-1, HISTORY + 2)}}, histories, [b""])
    checks, p95 = _serve(str(servable), wide, LIMITS, str(tmp_path), "portable")
    failed = {check.name: check for check in checks if not check.ok}
    assert set(failed) == {
        "portable_failed_signatures",
        "portable_answered_share",
        "portable_p95_ms",
    }
    assert "recommend: INVALID_ARGUMENT" in failed["portable_failed_signatures"].sentence
    assert p95 == np.inf


def test_a_servable_without_its_variables_does_not_pass(servable, maker, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(servable, broken)
    shutil.rmtree(broken / "variables")
    checks, _ = _serve(str(broken), maker, LIMITS, str(tmp_path / "scratch"), "portable")
    [failed] = [check for check in checks if not check.ok]
    assert failed.name == "portable_load_seconds"
    assert "did not load" in failed.sentence


def test_one_bad_flavour_withholds_both_blessings(servable, tmp_path, monkeypatch):
    def artifact(kind, name):
        made = kind()
        made.uri = str(tmp_path / name)
        return made

    def serve(stamped, maker, limits, scratch, flavour):
        limits = {**limits, "max_p95_ms": 1e-6 if flavour == "scann" else limits["max_p95_ms"]}
        return _serve(stamped, maker, limits, scratch, flavour)

    lists = [np.array(AD_IDS[:5]), np.array(AD_IDS[2:6])]
    users = types.SimpleNamespace(histories=lists, timestamps=[], events=[], weights=[])
    monkeypatch.setattr(executor, "_earlier_gates", lambda inputs: [])
    monkeypatch.setattr(executor, "_users", lambda artifact: users)
    monkeypatch.setattr(executor, "_records", lambda artifact, split: [b""])
    monkeypatch.setattr(executor, "_serve", serve)
    inputs = {name: [artifact(standard_artifacts.Examples, name)] for name in ("sequences", "ads")}
    outputs = {}
    for flavour in ("portable", "scann"):
        inputs[flavour] = [artifact(standard_artifacts.Model, flavour)]
        shutil.copytree(servable, tmp_path / flavour / "Format-Serving")
        blessing = artifact(standard_artifacts.InfraBlessing, f"{flavour}-blessing")
        outputs[f"{flavour}_blessing"] = [blessing]
    context = BaseExecutor.Context(tmp_dir=str(tmp_path / "scratch"), unique_id="1")
    Executor(context).Do(inputs, outputs, LIMITS)
    for flavour in ("portable", "scann"):
        assert (tmp_path / f"{flavour}-blessing" / "INFRA_NOT_BLESSED").exists()
        verdict = read_verdict(str(tmp_path / f"{flavour}-blessing"))
        assert [check.name for check in verdict.checks if not check.ok] == ["scann_p95_ms"]
