"""Several models and versions at once: policies, labels, the config file, reloads, metrics."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest, ModelVersionStatus
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

from serving.config_watcher import ConfigWatcher
from serving.errors import ServingError
from serving.model_config import ModelConfig, model_configs, read_model_configs
from serving.policies import All, Latest, Specific
from serving.server import ModelServer, Server
from serving.settings import ServerSettings
from tests.serving.http_calls import call, call_json
from tests.serving.stubs import Stubs, refused

pytestmark = pytest.mark.unit

CONFIG = """
model_config_list {{
  config {{ name: "both" base_path: "{base}" model_platform: "tensorflow"
            model_version_policy {{ latest {{ num_versions: 2 }} }}
            {labels} }}
  config {{ name: "first" base_path: "{base}"
            model_version_policy {{ specific {{ versions: 1 }} }} }}
  config {{ name: "every" base_path: "{base}" model_version_policy {{ all {{}} }} }}
}}
"""
LABELS = (
    'version_labels {{ key: "stable" value: {0} }} version_labels {{ key: "canary" value: {1} }}'
)


def config_text(base: Path, stable: int = 0, canary: int = 0) -> str:
    return CONFIG.format(base=base, labels=LABELS.format(stable, canary) if stable else "")


def parsed(text: str) -> ModelServerConfig:
    return text_format.Parse(text, ModelServerConfig())


@pytest.fixture(scope="module")
def base(toys: dict[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for version, toy in toys.items():
        shutil.copytree(toy, folder / str(version))
    return folder


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[Server]:
    configs = model_configs(parsed(config_text(base)))
    with Server(configs, ServerSettings(rest_port=0, poll_seconds=0.05, settle_seconds=0)) as made:
        made.wait_until_available(60)
        deadline = time.monotonic() + 30
        while available(made) != {"both": [3, 2], "first": [1], "every": [3, 2, 1]}:
            assert time.monotonic() < deadline, available(made)
            time.sleep(0.02)
        yield made


def available(server: Server) -> dict[str, list[int]]:
    return {model.name: model.all_available for model in server.models}


@pytest.fixture
def made(server: Server) -> Iterator[Stubs]:
    stubs = Stubs(server.port)
    with stubs.channel:
        yield stubs


def ask(
    request_for: Callable[..., predict_pb2.PredictRequest],
    name: str,
    version: int = 0,
    label: str = "",
) -> predict_pb2.PredictRequest:
    request = request_for("", name, history=np.array([[b"ad01"] * 5], dtype=object))
    if version:
        request.model_spec.version.value = version
    if label:
        request.model_spec.version_label = label
    return request


def answered_by(response: predict_pb2.PredictResponse) -> int:
    """The version whose weights answered, whatever the response says of itself."""
    return round(response.outputs["scores"].float_val[0] / 100)


def test_policies_decide_what_serves(made: Stubs, request_for: Callable) -> None:
    predict = made.prediction.Predict
    for name, versions in {"both": [3, 2], "first": [1], "every": [3, 2, 1]}.items():
        response = predict(ask(request_for, name))
        assert response.model_spec.version.value == answered_by(response) == versions[0]
        for version in (1, 2, 3):
            request = ask(request_for, name, version)
            if version in versions:
                assert answered_by(predict(request)) == version
            else:
                assert refused(predict, request) == (
                    grpc.StatusCode.NOT_FOUND,
                    f"Servable not found for request: Specific({name}, {version})",
                )


@settings(max_examples=50, deadline=None)
@given(on_disk=st.sets(st.integers(0, 9)), named=st.frozensets(st.integers(0, 9), min_size=1))
def test_candidates(on_disk: set[int], named: frozenset[int]) -> None:
    newest_first = sorted(on_disk, reverse=True)
    assert All().candidates(on_disk) == Latest(2).candidates(on_disk) == newest_first
    assert (All().limit, Latest(2).limit, Specific(named).limit) == (None, 2, None)
    assert set(Specific(named).candidates(on_disk)) == named & on_disk


def test_labels_are_given_to_versions_that_serve_and_move_without_a_gap(
    made: Stubs, server: Server, base: Path, request_for: Callable
) -> None:
    predict, reload = made.prediction.Predict, made.model.HandleReloadConfigRequest

    def assign(stable: int, canary: int) -> ReloadConfigRequest:
        return ReloadConfigRequest(config=parsed(config_text(base, stable, canary)))

    reload(assign(2, 3))
    stable = predict(ask(request_for, "both", label="stable"))
    assert stable.model_spec.version.value == answered_by(stable) == 2
    assert stable.model_spec.WhichOneof("version_choice") == "version"
    assert answered_by(predict(ask(request_for, "both", label="canary"))) == 3
    port, path = server.rest_port or 0, "/v1/models/both/labels/stable"
    row = {"instances": [["ad01"] * 5]}
    status, answer = call_json(port, "POST", f"{path}:predict", row)
    assert (status, round(answer["predictions"][0]["scores"][0] / 100)) == (200, 2)
    assert call_json(port, "GET", path)[1]["model_version_status"][0]["version"] == "2"
    request = GetModelStatusRequest()
    request.model_spec.name, request.model_spec.version_label = "both", "canary"
    [only] = made.model.GetModelStatus(request).model_version_status
    assert (only.version, only.state) == (3, ModelVersionStatus.AVAILABLE)
    request.model_spec.version_label = "unknown"
    assert refused(made.model.GetModelStatus, request) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: unknown",
    )
    assert refused(reload, assign(2, 1)) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 1 of model both, which is not currently available "
        "for inference",
    )
    # The refused reload has changed nothing.
    assert answered_by(predict(ask(request_for, "both", label="canary"))) == 3
    reload(assign(3, 3))
    assert answered_by(predict(ask(request_for, "both", label="stable"))) == 3
    reload(ReloadConfigRequest(config=parsed(config_text(base))))
    code, message = refused(predict, ask(request_for, "both", label="stable"))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert message == "Unrecognized servable version label: stable"


def test_labels_at_the_start_need_the_flag(base: Path) -> None:
    configs = [ModelConfig("sid_tfx", base, labels={"stable": 3})]
    with pytest.raises(ServingError, match="not currently available for inference"):
        Server(configs, ServerSettings()).start()
    with Server(configs, ServerSettings(labels_for_unavailable=True, settle_seconds=0)) as server:
        assert server.wait_until_available(30) == 3


def test_a_reload_to_a_folder_without_a_version_leaves_the_old_one(
    toys: dict[int, Path], tmp_path: Path, request_for: Callable
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(toys[1], old / "1")
    (new / "2").mkdir(parents=True)
    with Server(
        [ModelConfig("sid_tfx", old)], ServerSettings(poll_seconds=0.05, settle_seconds=0)
    ) as server:
        server.wait_until_available(30)
        stubs = Stubs(server.port)
        with stubs.channel:
            with pytest.raises(ServingError, match="did not become available"):
                server.reload([ModelConfig("sid_tfx", new)], timeout=10)
            assert answered_by(stubs.prediction.Predict(ask(request_for, "sid_tfx"))) == 1
            shutil.copytree(toys[2], new / "3")
            server.reload([ModelConfig("sid_tfx", new)], timeout=30)
            assert answered_by(stubs.prediction.Predict(ask(request_for, "sid_tfx"))) == 2
            server.reload([ModelConfig("sid_tfx", new, Specific(frozenset([9])))], timeout=30)
            # No version of the new policy serves yet: the one that does goes on.
            assert answered_by(stubs.prediction.Predict(ask(request_for, "sid_tfx"))) == 2


BAD_CONFIGS = {
    "Illegal to list model a multiple times": 'config { name: "a" base_path: "/x" } ' * 2,
    "no name specified": 'config { base_path: "/x" }',
    "base_path of a is empty": 'config { name: "a" }',
    "model_platform of a is 'torch'": (
        'config { name: "a" base_path: "/x" model_platform: "torch" }'
    ),
    "specific.versions is empty": (
        'config { name: "a" base_path: "/x" model_version_policy { specific {} } }'
    ),
}


@pytest.mark.parametrize("message", BAD_CONFIGS)
def test_a_bad_config_names_the_field(message: str) -> None:
    with pytest.raises(ServingError, match=message) as caught:
        model_configs(parsed(f"model_config_list {{ {BAD_CONFIGS[message]} }}"))
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


def test_the_config_file_is_read_and_watched(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "models.config"
    path.write_text("models {")
    with pytest.raises(ValueError, match=r"models.config is no readable ModelServerConfig.*models"):
        read_model_configs(path)
    path.write_text(config_text(base))
    both, first, every = read_model_configs(path)
    assert (both.policy, first.policy, every.policy) == (
        Latest(2),
        Specific(frozenset([1])),
        All(),
    )
    seen: list[list[str]] = []
    watcher = ConfigWatcher(path, lambda found: seen.append([c.name for c in found]), 0.02)
    watcher.start()
    for text in ("broken {", "", "# None."):
        path.write_text(text)
        time.sleep(0.1)
    staged = tmp_path / "staged"
    staged.write_text('model_config_list { config { name: "new" base_path: "/x" } }')
    os.replace(staged, path)
    deadline = time.monotonic() + 20
    while not seen:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watcher.stop()
    assert seen == [["new"]]


def test_a_server_that_starts_with_no_list_serves_what_a_reload_brings(
    base: Path, tmp_path: Path, request_for: Callable
) -> None:
    path = tmp_path / "models.config"
    for text in ("", "# To come.\n", "model_config_list {}"):
        path.write_text(text)
        assert read_model_configs(path, first=True) == []
    assert read_model_configs(path) == []
    path.write_text("")
    with pytest.raises(ValueError, match=r"models.config is empty; `model_config_list \{\}`"):
        read_model_configs(path)
    with Server([], ServerSettings(settle_seconds=0)) as server:
        stubs, asked = Stubs(server.port), GetModelStatusRequest()
        asked.model_spec.name = "first"
        with stubs.channel:
            assert refused(stubs.model.GetModelStatus, asked) == (
                grpc.StatusCode.NOT_FOUND,
                "Could not find any versions of model first",
            )
            config = parsed(config_text(base))
            stubs.model.HandleReloadConfigRequest(ReloadConfigRequest(config=config))
            assert answered_by(stubs.prediction.Predict(ask(request_for, "first"))) == 1


def test_metrics_count_by_model_and_status(
    made: Stubs, server: Server, request_for: Callable
) -> None:
    port = server.rest_port or 0

    def page() -> dict[str, float]:
        status, content, headers = call(port, "GET", "/monitoring/prometheus/metrics")
        assert status == 200
        assert headers["Content-Type"].startswith("text/plain")
        lines = [line for line in content.decode().splitlines() if not line.startswith("#")]
        return {key: float(value) for key, value in (line.rsplit(" ", 1) for line in lines)}

    def count(model: str, status: str) -> str:
        return f':tensorflow:serving:request_count{{model_name="{model}",status="{status}"}}'

    def latency(api: str, entrypoint: str) -> str:
        return (
            f':tensorflow:serving:request_latency_count{{API="{api}",entrypoint="{entrypoint}",'
            'model_name="first"}'
        )

    before = page()
    for _ in range(3):
        made.prediction.Predict(ask(request_for, "first"))
    refused(made.prediction.Predict, ask(request_for, "first", 9))
    for name in ("x", "y", "z"):
        refused(made.prediction.Predict, ask(request_for, name))
    call_json(port, "POST", "/v1/models/first:predict", {"instances": [["ad01"] * 5]})
    after = page()

    def gained(key: str) -> float:
        return after[key] - before.get(key, 0)

    assert gained(count("first", "OK")) == 4
    assert gained(count("first", "NOT_FOUND")) == 1
    # Made-up names must not make series of their own.
    assert gained(count("_not_served_", "NOT_FOUND")) == 3
    assert gained(latency("Predict", "GRPC")) == 3
    assert gained(latency("predict", "REST")) == 1
    assert after[':tensorflow:serving:load_latency_count{model_name="every",status="OK"}'] == 3
    kinds = call(port, "GET", "/monitoring/prometheus/metrics")[1].decode()
    assert "# TYPE :tensorflow:serving:request_count counter" in kinds
    assert "_created" not in kinds


def test_a_queue_that_is_full_answers_at_once(toys: dict[int, Path], request_for: Callable) -> None:
    with ModelServer(
        "sid_tfx", toys[1].parent, max_workers=1, max_queue=1, max_rows=60_000, settle_seconds=0
    ) as server:
        server.wait_until_available(30)
        stubs = Stubs(server.port)
        with stubs.channel:
            slow = request_for("similar_to_embedding", embedding=np.ones([60_000, 8], np.float32))
            slow.output_filter.append("count")
            stubs.prediction.Predict(slow)
            calls = [stubs.prediction.Predict.future(slow) for _ in range(6)]
            codes = [done.code() for done in calls]
            assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) >= 3
            assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
            late = stubs.prediction.Predict.future(slow)
            with pytest.raises(grpc.RpcError) as caught:
                stubs.prediction.Predict(ask(request_for, "sid_tfx"), timeout=0.02)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            assert late.code() == grpc.StatusCode.OK
            stubs.prediction.Predict(ask(request_for, "sid_tfx"))
