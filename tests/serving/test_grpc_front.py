"""The gRPC front: what waits holds no thread, what nobody waits for is not run, all is counted."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest
from tensorflow_serving.apis.model_management_pb2 import ReloadConfigRequest

from serving import servable
from serving.model_config import ModelConfig
from serving.server import ModelServer, Server
from serving.settings import ServerSettings
from tests.serving.hostile_grpc import PREDICT
from tests.serving.http_calls import call, call_json
from tests.serving.stubs import Stubs, refused

pytestmark = pytest.mark.unit

HEALTHCHECK = Path(__file__).parents[2] / "serving" / "deploy" / "healthcheck.sh"
ROW = {"instances": [["ad01", "", "", "", ""]]}
Request = Callable[..., Any]


class Gate:
    """Holds every run of a servable until it is opened, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened, self.runs = threading.Event(), 0
        real = servable.Servable.run

        def run(*args: Any, **kwargs: Any) -> Any:
            self.runs += 1
            assert self.opened.wait(30)
            return real(*args, **kwargs)

        monkeypatch.setattr(servable.Servable, "run", run)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(monkeypatch)


@pytest.fixture
def server(toys: dict[int, Path]) -> Iterator[ModelServer]:
    with ModelServer(
        "sid_tfx", toys[1].parent, rest_port=0, max_workers=1, max_queue=2, settle_seconds=0
    ) as made:
        made.wait_until_available(30)
        yield made


@pytest.fixture
def made(server: ModelServer) -> Iterator[Stubs]:
    stubs = Stubs(server.port)
    with stubs.channel:
        yield stubs


def metric(server: ModelServer, series: str) -> float:
    page = call(server.rest_port or 0, "GET", server.settings.metrics_path)[1].decode()
    for line in page.splitlines():
        if line.startswith(f":tensorflow:serving:{series} "):
            return float(line.rsplit(" ", 1)[1])
    return 0.0


def count(status: str) -> str:
    return f'request_count{{model_name="sid_tfx",status="{status}"}}'


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def waiting(server: ModelServer) -> float:
    return metric(server, 'waiting_requests{entrypoint="GRPC"}')


def test_what_is_refused_is_counted_and_what_waits_is_shown(
    server: ModelServer, made: Stubs, gate: Gate, request_for: Request, history: np.ndarray
) -> None:
    request = request_for("recommend", history=history)
    calls = [made.prediction.Predict.future(request) for _ in range(5)]
    wait_for(lambda: metric(server, count("RESOURCE_EXHAUSTED")) == 2)
    assert waiting(server) == 2
    assert refused(made.prediction.Predict, request) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "Concurrent RPC limit exceeded!",
    )
    status = GetModelStatusRequest()
    status.model_spec.name = "sid_tfx"
    assert made.model.GetModelStatus(status, timeout=5), "asked of a server that is full"
    gate.opened.set()
    codes = [done.code() for done in calls]
    assert codes.count(grpc.StatusCode.OK) == 3
    assert metric(server, count("OK")) == 3
    assert waiting(server) == 0
    assert made.prediction.Predict(request)


def test_rest_counts_what_it_refuses(server: ModelServer, gate: Gate) -> None:
    port, path = server.rest_port or 0, "/v1/models/sid_tfx:predict"
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(call_json, port, "POST", path, ROW) for _ in range(6)]
        wait_for(lambda: sum(done.done() for done in calls) == 3)
        gate.opened.set()
        codes = [done.result()[0] for done in calls]
    assert sorted(codes) == [200] * 3 + [429] * 3
    assert metric(server, count("RESOURCE_EXHAUSTED")) == 3
    assert metric(server, 'waiting_requests{entrypoint="REST"}') == 0


def test_messages_in_hand_are_bounded_by_their_bytes(
    toys: dict[int, Path], gate: Gate, request_for: Request, history: np.ndarray
) -> None:
    small = request_for("recommend", history=history)
    large = request_for("recommend", history=np.repeat(history, 100, axis=0))
    with ModelServer(
        "sid_tfx", toys[1].parent, rest_port=0, max_inflight_bytes=1000, settle_seconds=0
    ) as server:
        server.wait_until_available(30)
        stubs, port, path = Stubs(server.port), server.rest_port or 0, "/v1/models/sid_tfx"
        with stubs.channel, ThreadPoolExecutor(1) as pool:
            # Larger than the bound, and taken: there is no other.
            over_grpc = stubs.prediction.Predict.future(large)
            rows = {"instances": ROW["instances"] * 100}
            over_rest = pool.submit(call_json, port, "POST", f"{path}:predict", rows)
            try:
                wait_for(lambda: gate.runs == 2)
                assert refused(stubs.prediction.Predict, small) == (
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"The requests in flight have {large.ByteSize()} bytes, the limit is 1000",
                )
                status, answer = call_json(port, "POST", f"{path}:predict", ROW)
                assert status == 429
                assert answer["error"].endswith("bytes, the limit is 1000")
                assert call_json(port, "GET", path)[0] == 200
                assert metric(server, count("RESOURCE_EXHAUSTED")) == 2
            finally:
                gate.opened.set()
            assert over_grpc.result(20)
            assert over_rest.result()[0] == 200
            assert stubs.prediction.Predict(small)
            assert call_json(port, "POST", f"{path}:predict", ROW)[0] == 200


def test_a_full_server_says_over_rest_how_it_is(server: ModelServer, gate: Gate) -> None:
    port, path = server.rest_port or 0, "/v1/models/sid_tfx"
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(call_json, port, "POST", f"{path}:predict", ROW) for _ in range(3)]
        try:
            # The page itself is asked of the server that is full.
            wait_for(lambda: metric(server, 'waiting_requests{entrypoint="REST"}') == 2)
            status, answer = call_json(port, "GET", path)
            assert (status, answer["model_version_status"][0]["state"]) == (200, "AVAILABLE")
            probe = ["bash", str(HEALTHCHECK), "sid_tfx", str(port)]
            assert subprocess.run(probe, timeout=20).returncode == 0
            assert call_json(port, "GET", f"{path}/metadata")[0] == 429
        finally:
            gate.opened.set()
        assert [done.result()[0] for done in calls] == [200] * 3


@pytest.mark.parametrize("timeout", [None, 0.2])
def test_a_call_nobody_waits_for_any_more_is_not_run(
    server: ModelServer,
    made: Stubs,
    gate: Gate,
    request_for: Request,
    history: np.ndarray,
    timeout: float | None,
) -> None:
    request = request_for("recommend", history=history)
    first = made.prediction.Predict.future(request)
    wait_for(lambda: gate.runs == 1)
    left = [made.prediction.Predict.future(request, timeout=timeout) for _ in range(2)]
    if timeout is None:
        wait_for(lambda: waiting(server) == 2)
        for one in left:
            one.cancel()
    status = "CANCELLED" if timeout is None else "DEADLINE_EXCEEDED"
    # Their places are free as soon as they have gone.
    wait_for(lambda: metric(server, count(status)) == 2 and waiting(server) == 0)
    last = made.prediction.Predict.future(request)
    gate.opened.set()
    assert first.result(20)
    assert last.result(20)
    assert gate.runs == 2


def test_a_reload_that_waits_keeps_no_request_from_being_answered(
    toys: dict[int, Path],
    tmp_path: Path,
    made: Stubs,
    request_for: Request,
    history: np.ndarray,
) -> None:
    reload = ReloadConfigRequest()
    for name, base in (("sid_tfx", toys[1].parent), ("never", tmp_path)):
        reload.config.model_config_list.config.add(
            name=name, base_path=str(base), model_platform="tensorflow"
        )
    reloads = [made.model.HandleReloadConfigRequest.future(reload) for _ in range(3)]
    time.sleep(0.2)
    for _ in range(5):
        assert made.prediction.Predict(request_for("recommend", history=history), timeout=10)
    assert not any(done.done() for done in reloads)


def test_calls_without_a_message_or_with_too_long_an_answer_have_their_codes(
    server: ModelServer, made: Stubs, toys: dict[int, Path], request_for: Request
) -> None:
    nothing = made.channel.stream_unary(PREDICT)
    assert refused(lambda _: nothing(iter(()), timeout=10), None) == (
        grpc.StatusCode.UNIMPLEMENTED,
        f'"{PREDICT}" requires exactly one request message.',
    )
    garbage = made.channel.unary_unary(PREDICT)
    assert refused(garbage, b"\xff\xff") == (
        grpc.StatusCode.INTERNAL,
        "Exception deserializing request!",
    )
    with ModelServer(
        "sid_tfx",
        toys[1].parent,
        settle_seconds=0,
        grpc_options=(("grpc.max_send_message_length", 500),),
    ) as short:
        short.wait_until_available(30)
        stubs = Stubs(short.port)
        with stubs.channel:
            many = request_for("similar_to_embedding", embedding=np.ones([50, 8], np.float32))
            code, _ = refused(stubs.prediction.Predict, many)
            assert code == grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_watcher_of_health_hears_of_changes_after_another_has_left(
    server: ModelServer,
) -> None:
    serving = health_pb2.HealthCheckResponse.SERVING
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        asked = health_pb2.HealthCheckRequest()
        leaving, staying = stub.Watch(asked, timeout=30), stub.Watch(asked, timeout=30)
        assert next(leaving).status == next(staying).status == serving
        leaving.cancel()
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="unknown"), timeout=30)
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        server._grpc.say_ready(False)
        assert next(staying).status == health_pb2.HealthCheckResponse.NOT_SERVING
        server._grpc.say_ready(True)
        assert next(staying).status == serving
        server._grpc.health.end()
        assert next(staying).status == health_pb2.HealthCheckResponse.NOT_SERVING
        server._grpc.say_ready(True)
        assert stub.Check(asked).status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_watcher_of_health_hears_of_the_end_and_does_not_put_it_off(server: ModelServer) -> None:
    not_serving = health_pb2.HealthCheckResponse.NOT_SERVING
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        early = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        unknown = stub.Watch(health_pb2.HealthCheckRequest(service="unknown"), timeout=60)
        assert next(early).status == health_pb2.HealthCheckResponse.SERVING
        assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        server._grpc.health.end()
        assert next(early).status == not_serving
        late = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(late).status == not_serving
        # Before the drain they stay: clients ask again at once when a stream ends.
        time.sleep(0.2)
        assert early.is_active()
        assert late.is_active()
        begin = time.monotonic()
        server.stop(40)
        assert time.monotonic() - begin < 30
        assert [list(watch) for watch in (early, late, unknown)] == [[], [], []]


def test_a_watcher_is_told_of_an_end_that_comes_at_once(server: ModelServer) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        server.stop(40)
        told = [answer.status for answer in watch]
    assert told == [health_pb2.HealthCheckResponse.NOT_SERVING]


def test_a_stream_that_is_left_open_does_not_put_the_end_off_for_longer_than_the_grace(
    server: ModelServer,
) -> None:
    ended = threading.Event()

    def ask() -> Iterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        ended.wait(30)

    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
        assert next(stream).list_services_response.service
        begin = time.monotonic()
        server.stop(0.5)
        assert time.monotonic() - begin < 10
        ended.set()


def test_a_start_that_fails_gives_the_port_back(toys: dict[int, Path]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    twice = [ModelConfig("sid_tfx", toys[1].parent)] * 2
    with pytest.raises(Exception, match="multiple times"):
        Server(twice, ServerSettings(port=port)).start()
    with ModelServer("sid_tfx", toys[1].parent, port, settle_seconds=0) as server:
        assert server.port == port
