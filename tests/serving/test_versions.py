"""Versions on disk: picked up, swapped, refused, rolled back; no request is lost to any of it."""

from __future__ import annotations

import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_log_pb2
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from serving.client import RecommenderClient
from serving.errors import ServingError
from serving.listed_files import MANIFEST, Damaged, check_listed
from serving.servable import Servable
from serving.server import ModelServer
from serving.version_dirs import list_versions
from serving.versions import ModelVersions
from serving.warmup import WARMUP_FILE
from sid_tfx.export.saving import saved_files
from tests.serving.stubs import Stubs
from tests.serving.waiting import run

pytestmark = pytest.mark.unit

Publish = Callable[..., Path]
Request = Callable[..., predict_pb2.PredictRequest]
State = ModelVersionStatus


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ModelServer]:
    """A server on an empty base path that looks every 20 ms."""
    with ModelServer(
        "sid_tfx", tmp_path / "models", poll_seconds=0.02, settle_seconds=0.05
    ) as running:
        yield running


def versions_of(server: ModelServer) -> ModelVersions:
    model = server.models.get("sid_tfx")
    assert model is not None
    return model


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def state_of(server: ModelServer, version: int) -> int | None:
    states = {status.version: status.state for status in versions_of(server).statuses()}
    return states.get(version)


def wait_until_serving(server: ModelServer, version: int) -> None:
    wait_for(lambda: versions_of(server).available == version)


def wait_until_ended(server: ModelServer, version: int) -> None:
    wait_for(lambda: state_of(server, version) == State.END)


def error_of(server: ModelServer, version: int) -> ServingError:
    [error] = [s.error for s in versions_of(server).statuses() if s.version == version]
    assert error is not None
    return error


def write_warmup(version_dir: Path, *logs: prediction_log_pb2.PredictionLog) -> None:
    path = version_dir / WARMUP_FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for log in logs:
            writer.write(log.SerializeToString())


def test_only_numeric_directories_are_versions(tmp_path: Path) -> None:
    largest = 2**63 - 1
    beyond = (str(largest + 1), "9" * 20, "9" * 200)
    for name in ("1", "12", "0003", "2.tmp", ".4", "-5", "x", "٣", str(largest), *beyond):
        (tmp_path / name).mkdir()
    (tmp_path / "7").write_text("a file")
    assert sorted(list_versions(tmp_path)) == [1, 3, 12, largest]
    assert list_versions(tmp_path / "absent") == {}


def test_nothing_to_serve_then_a_first_version(server: ModelServer, publish: Publish) -> None:
    stubs = Stubs(server.port)
    health = health_pb2_grpc.HealthStub(stubs.channel)
    with stubs.channel, RecommenderClient(f"127.0.0.1:{server.port}") as client:
        check = health_pb2.HealthCheckRequest()
        assert health.Check(check).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(TimeoutError, match="no version of sid_tfx"):
            server.wait_until_available(0.1)
        publish(1)
        assert client.wait_until_available(20) == 1
        assert server.wait_until_available(1) == 1
        wait_for(lambda: health.Check(check).status == health_pb2.HealthCheckResponse.SERVING)
        assert client.recommend(["ad01"]).scores[0] == pytest.approx(101.0, abs=1)


def test_swaps_under_load_fail_no_request(server: ModelServer, publish: Publish) -> None:
    publish(1)
    server.wait_until_available(30)
    ending, wrong, failures, answered = threading.Event(), [], [], [0] * 6

    def load(index: int) -> None:
        with RecommenderClient(f"127.0.0.1:{server.port}") as client:
            while not ending.is_set():
                try:
                    answer = client.recommend(["ad01", "ad02"])
                except Exception as error:
                    failures.append(error)
                    return
                source = (answer.model_version - 1) % 3 + 1
                if not (100 * source - 2 < answer.scores[0] < 100 * source + 2):
                    wrong.append(answer)
                answered[index] += 1

    threads = [threading.Thread(target=load, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for version in range(2, 9):
        publish(version, source=(version - 1) % 3 + 1)
        wait_until_serving(server, version)
    ending.set()
    for thread in threads:
        thread.join()
    assert failures == []
    assert wrong == []
    assert min(answered) > 10
    wait_for(lambda: all(state_of(server, version) == State.END for version in range(1, 8)))


def corrupt_graph(path: Path) -> None:
    (path / "saved_model.pb").write_bytes(b"\x00not a graph")


def truncate_graph(path: Path) -> None:
    graph = path / "saved_model.pb"
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])


def truncate_variables(path: Path) -> None:
    [data] = (path / "variables").glob("variables.data*")
    data.write_bytes(data.read_bytes()[:100])


def flip_variables(path: Path) -> None:
    [data] = (path / "variables").glob("variables.data*")
    content = bytearray(data.read_bytes())
    content[10] ^= 0xFF
    data.write_bytes(bytes(content))


def truncate_asset(path: Path) -> None:
    (path / "assets" / "ads.txt").write_text("ad00\nad01\n")


def shorten_vocabulary(path: Path) -> None:
    """Still as many lines, so that the table is filled without complaint."""
    ads = path / "assets" / "ads.txt"
    ads.write_bytes(ads.read_bytes()[:-2])


def flip(file: Path, text: bytes) -> None:
    content = file.read_bytes()
    assert text in content
    file.write_bytes(content.replace(text, bytes([text[0] ^ 1]) + text[1:]))


def flip_asset(path: Path) -> None:
    flip(path / "assets" / "ads.txt", b"ad01\n")


def flip_constant(path: Path) -> None:
    flip(path / "saved_model.pb", b"hybrid")


def flip_list(path: Path) -> None:
    flip(path / MANIFEST, b'"files"')


def drop_graph(path: Path) -> None:
    (path / "saved_model.pb").unlink()


def drop_variables(path: Path) -> None:
    shutil.rmtree(path / "variables")


DAMAGES = [
    corrupt_graph,
    truncate_graph,
    truncate_variables,
    flip_variables,
    truncate_asset,
    drop_graph,
    drop_variables,
]
# TensorFlow takes these for a model: the list of the export finds them out.
SILENT_DAMAGES = {
    shorten_vocabulary: r"/2/assets/ads\.txt has 98 bytes of 100",
    flip_asset: r"/2/assets/ads\.txt is damaged",
    flip_constant: r"/2/saved_model\.pb is damaged",
    flip_list: r"/2/assets\.extra/sid_tfx\.json cannot be read",
}


def write_list(path: Path) -> None:
    """As an export does."""
    (path / MANIFEST).parent.mkdir(exist_ok=True)
    (path / MANIFEST).write_text(json.dumps({"files": saved_files(str(path))}))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [*((damage, ".") for damage in DAMAGES), *SILENT_DAMAGES.items()],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_damaged_version_is_refused_and_the_old_one_serves_on(
    toys: dict[int, Path], tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    base = tmp_path / "models"
    shutil.copytree(toys[1], base / "1")
    with ModelServer("sid_tfx", base, poll_seconds=0.02, settle_seconds=0) as server:
        assert server.wait_until_available(30) == 1
        staged = shutil.copytree(toys[2], tmp_path / "staged")
        if damage in SILENT_DAMAGES:
            write_list(staged)
        damage(staged)
        staged.rename(base / "2")
        wait_until_ended(server, 2)
        assert re.search(reason, error_of(server, 2).message)
        with RecommenderClient(f"127.0.0.1:{server.port}") as client:
            assert client.recommend(["ad01"]).model_version == 1
            states = {state.version: state for state in client.status()}
            assert (states[1].state, states[1].error) == ("AVAILABLE", "")
            assert states[2].state == "END"
            assert re.search(reason, states[2].error)
        # A restart falls back the same way.
        with ModelServer("sid_tfx", base, settle_seconds=0) as restarted:
            assert restarted.wait_until_available(30) == 1


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_the_list_finds_out_all_damages(
    toys: dict[int, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    version = shutil.copytree(toys[1], tmp_path / "1")
    write_list(version)
    check_listed(version)
    damage(version)
    with pytest.raises(Damaged, match=str(tmp_path)):
        check_listed(version)


@pytest.mark.parametrize(
    "damage", [shorten_vocabulary, flip_asset, flip_constant], ids=lambda damage: damage.__name__
)
def test_a_version_without_a_list_is_served_as_it_is(
    toys: dict[int, Path], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """A model of another origin, or one that an earlier export wrote."""
    version = shutil.copytree(toys[1], tmp_path / "1")
    damage(version)
    Servable(version, "sid_tfx", 1).close()
    (version / MANIFEST).parent.mkdir()
    (version / MANIFEST).write_text('{"format_version": 1}')
    Servable(version, "sid_tfx", 1).close()


def test_only_damaged_versions_fail_at_once_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    corrupt_graph(tmp_path / "3")
    with ModelServer("sid_tfx", tmp_path, settle_seconds=0) as server:
        begun = time.monotonic()
        with pytest.raises(RuntimeError, match=r"no version of sid_tfx loads; version 3: .+"):
            server.wait_until_available(30)
        assert time.monotonic() - begun < 10


def test_who_waits_for_a_version_waits_for_a_push_that_is_under_way(
    server: ModelServer, publish: Publish, tmp_path: Path
) -> None:
    elsewhere = publish(1).rename(tmp_path / "pushed")
    unfinished = tmp_path / "models" / "1"
    shutil.copytree(elsewhere, unfinished, ignore=shutil.ignore_patterns("saved_model.pb"))
    wait_for(lambda: state_of(server, 1) == State.END and error_of(server, 1) is not None)
    with pytest.raises(RuntimeError, match=r"version 1: Could not find SavedModel .+"):
        server.wait_until_available(0.2)
    finish = threading.Timer(0.5, shutil.copy, (elsewhere / "saved_model.pb", unfinished))
    finish.start()
    assert server.wait_until_available(20) == 1
    finish.join()


def test_a_push_caught_half_way_is_tried_again_when_its_files_change(
    server: ModelServer, publish: Publish, tmp_path: Path
) -> None:
    publish(1)
    server.wait_until_available(30)
    graph = publish(2) / "saved_model.pb"
    wait_until_serving(server, 2)
    unfinished = tmp_path / "models" / "3"
    shutil.copytree(graph.parent, unfinished, ignore=shutil.ignore_patterns("saved_model.pb"))
    wait_until_ended(server, 3)
    assert error_of(server, 3).code == grpc.StatusCode.NOT_FOUND
    assert versions_of(server).available == 2
    shutil.copy(graph, unfinished / "saved_model.pb")
    wait_until_serving(server, 3)


def test_deleting_the_newest_version_rolls_back(server: ModelServer, publish: Publish) -> None:
    publish(1)
    newest = publish(2)
    wait_until_serving(server, 2)
    shutil.rmtree(newest)
    wait_until_serving(server, 1)
    wait_until_ended(server, 2)
    assert state_of(server, 1) == State.AVAILABLE


def test_the_last_version_stays_when_the_disk_goes_away(
    server: ModelServer, publish: Publish, tmp_path: Path
) -> None:
    publish(1)
    server.wait_until_available(30)
    (tmp_path / "models").rename(tmp_path / "away")
    time.sleep(0.2)
    assert versions_of(server).available == 1


def test_a_request_in_flight_finishes_on_its_version(toys: dict[int, Path], tmp_path: Path) -> None:
    base = tmp_path / "models"
    shutil.copytree(toys[1], base / "1")
    model = ModelVersions("sid_tfx", base, Servable, poll_seconds=0.05, settle_seconds=0)
    model.poll()
    history = {"history": np.array([[b"ad01"] * 5], dtype=object)}
    with model.use() as old:
        shutil.copytree(toys[2], base / "2")
        model.poll()
        assert model.available == 2
        states = {status.version: status.state for status in model.statuses()}
        assert states == {1: State.UNLOADING, 2: State.AVAILABLE}
        [scores] = run(old, "recommend", history, ["scores"])
        assert scores[0, 0] == pytest.approx(100, abs=2)
        with model.use() as new:
            assert new.version == 2
        with pytest.raises(ServingError, match=r"Specific\(sid_tfx, 1\)"), model.use(1):
            pass
    model.poll()
    assert {s.version: s.state for s in model.statuses()} == {1: State.END, 2: State.AVAILABLE}
    with pytest.raises(tf.errors.CancelledError, match="closed"):
        run(old, "recommend", history, ["scores"])
    model.stop()


def test_warmup_requests_run_before_a_version_serves(
    server: ModelServer, publish: Publish, request_for: Request, history: np.ndarray
) -> None:
    log = prediction_log_pb2.PredictionLog()
    # TF Serving warms up whatever model name the recorder saw.
    log.predict_log.request.CopyFrom(request_for("recommend", "recorded_as", history=history))
    target = publish(1)
    write_warmup(target, log, log)
    assert server.wait_until_available(30) == 1


def warmup_logs(request_for: Request, history: np.ndarray) -> dict[str, list]:
    good, bad_signature, bad_input, other = (prediction_log_pb2.PredictionLog() for _ in range(4))
    good.predict_log.request.CopyFrom(request_for("recommend", history=history))
    bad_signature.predict_log.request.CopyFrom(request_for("nope", history=history))
    bad_input.predict_log.request.CopyFrom(request_for("recommend", history=history[:, :3]))
    other.classify_log.request.model_spec.name = "sid_tfx"
    return {
        'record 2 .* key "nope" not found': [good, bad_signature],
        "record 1 .* shape": [bad_input],
        "Unsupported log_type for warmup: classify_log": [other],
        "exceeds the maximum": [good] * 1001,
    }


def test_a_failing_warmup_record_fails_the_load(
    toys: dict[int, Path], tmp_path: Path, request_for: Request, history: np.ndarray
) -> None:
    base = tmp_path / "models"
    shutil.copytree(toys[1], base / "1")
    with ModelServer("sid_tfx", base, poll_seconds=0.02, settle_seconds=0) as server:
        assert server.wait_until_available(30) == 1
        cases = warmup_logs(request_for, history)
        for version, (pattern, logs) in enumerate(cases.items(), start=2):
            staged = shutil.copytree(toys[2], tmp_path / "staged")
            write_warmup(staged, *logs)
            staged.rename(base / str(version))
            wait_until_ended(server, version)
            with pytest.raises(AssertionError, match=pattern):
                raise AssertionError(error_of(server, version).message)
        staged = shutil.copytree(toys[2], tmp_path / "staged")
        (staged / WARMUP_FILE).parent.mkdir()
        (staged / WARMUP_FILE).write_bytes(b"not a TFRecord file")
        staged.rename(base / "9")
        wait_until_ended(server, 9)
        assert error_of(server, 9).code == grpc.StatusCode.DATA_LOSS
        assert versions_of(server).available == 1
