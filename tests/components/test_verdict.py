"""Artifact types under both runners, and verdicts."""

import json

import pytest
from tfx.orchestration.kubeflow.v2 import compiler_utils
from tfx.orchestration.kubeflow.v2.container import kubeflow_v2_entrypoint_utils

from components import artifacts
from components.refusal import Refused
from components.verdict import Check, read_verdict, require_blessed, write_verdict

pytestmark = pytest.mark.unit

GOOD = Check("entropy_nats", 9.3, 9.0, True, "Entropy 9.3 nats, at least 9.0 needed.")
BAD = Check("collision_share", 0.4, 0.35, False, "40% of ads collide, at most 35% may.")


def test_a_verdict_is_read_as_it_was_written(tmp_path):
    written = write_verdict(str(tmp_path / "blessing"), "sid_quality", [GOOD, BAD])
    assert read_verdict(str(tmp_path / "blessing")) == written
    content = json.loads((tmp_path / "blessing" / "verdict.json").read_text())
    assert content["gate"] == "sid_quality"
    assert content["blessed"] is False
    assert content["checks"][0] == {
        "name": "entropy_nats",
        "value": 9.3,
        "limit": 9.0,
        "ok": True,
        "sentence": "Entropy 9.3 nats, at least 9.0 needed.",
    }


def test_only_a_blessed_verdict_lets_a_stage_go_on(tmp_path):
    write_verdict(str(tmp_path), "sid_quality", [GOOD])
    assert require_blessed(str(tmp_path)).blessed
    write_verdict(str(tmp_path), "sid_quality", [GOOD, BAD])
    with pytest.raises(Refused, match="'sid_quality' did not pass: 40% of ads collide"):
        require_blessed(str(tmp_path))


def test_a_verdict_needs_checks_and_must_not_contradict_them(tmp_path):
    with pytest.raises(ValueError, match="gate 'g' has no checks"):
        write_verdict(str(tmp_path), "g", [])
    write_verdict(str(tmp_path), "g", [BAD])
    path = tmp_path / "verdict.json"
    path.write_text(path.read_text().replace('"blessed": false', '"blessed": true'))
    with pytest.raises(ValueError, match="blessed=True against its own checks"):
        read_verdict(str(tmp_path))


@pytest.mark.parametrize(
    "artifact_class",
    [artifacts.SidCatalog, artifacts.SidIndex, artifacts.SidBlessing, artifacts.IndexBlessing],
)
def test_kubeflow_finds_each_artifact_class_again(artifact_class):
    schema = compiler_utils.get_artifact_schema(artifact_class)
    artifact = artifact_class()
    artifacts.set_summary(artifact, "12 ads")
    runtime = kubeflow_v2_entrypoint_utils.to_runtime_artifact(artifact, {})
    runtime.type.instance_schema = schema
    parsed = kubeflow_v2_entrypoint_utils.parse_raw_artifact_dict(
        {"a": type("List", (), {"artifacts": [runtime]})()}
    )["a"][0]
    assert type(parsed) is artifact_class
    assert artifacts.get_summary(parsed) == "12 ads"
