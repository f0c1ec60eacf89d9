"""`python -m serving` as a process: start, drain on SIGTERM, restart after SIGKILL."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.client import RecommenderClient
from serving.client_errors import ServerUnavailableError
from tests.serving.processes import Process
from tests.serving.stubs import Stubs

pytestmark = pytest.mark.unit

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def serve() -> Iterator[Callable[..., Process]]:
    running: list[Process] = []

    def start(base_path: Path, *flags: str) -> Process:
        running.append(Process(base_path, *flags))
        return running[-1]

    yield start
    for process in running:
        process.end()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_sigterm_lets_a_request_in_flight_finish_and_ends_with_0(
    serve: Callable[..., Process], publish: Callable[..., Path], request_for: Callable
) -> None:
    rows = 200_000
    process = serve(publish(1).parent, f"--max_rows={rows}")
    with RecommenderClient(f"127.0.0.1:{process.port()}") as client:
        assert client.wait_until_available(60) == 1
    made = Stubs(process.port())
    with made.channel:
        slow = request_for("similar_to_embedding", embedding=np.ones([rows, 8], np.float32))
        slow.output_filter.append("count")
        made.prediction.Predict(slow)
        begun = time.monotonic()
        call = made.prediction.Predict.future(slow)
        time.sleep(0.05)
        process.popen.send_signal(signal.SIGTERM)
        response = call.result(timeout=60)
        assert response.outputs["count"].tensor_shape.dim[0].size == rows
        assert time.monotonic() - begun > 0.05, "too fast to have been in flight"
        assert process.popen.wait(30) == 0
        with pytest.raises(grpc.RpcError) as caught:
            made.prediction.Predict(request_for("recommend"), timeout=1)
        assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
    assert any("draining" in line for line in process.log)


def test_sigterm_under_load_answers_or_says_unavailable(
    serve: Callable[..., Process], publish: Callable[..., Path]
) -> None:
    process = serve(publish(1).parent)
    target = f"127.0.0.1:{process.port()}"
    with RecommenderClient(target) as client:
        client.wait_until_available(60)

    def load() -> tuple[int, Exception]:
        answered = 0
        with RecommenderClient(target, timeout=2) as client:
            while True:
                try:
                    client.recommend(["ad01"])
                except Exception as error:
                    return answered, error
                answered += 1

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(load) for _ in range(8)]
        time.sleep(0.5)
        process.popen.send_signal(signal.SIGTERM)
        results = [future.result(timeout=60) for future in futures]
    assert process.popen.wait(30) == 0
    for answered, error in results:
        assert answered > 0
        assert isinstance(error, ServerUnavailableError), error


def test_a_lame_duck_says_not_serving_and_still_answers(
    serve: Callable[..., Process], publish: Callable[..., Path]
) -> None:
    process = serve(publish(1).parent, "--lame_duck_seconds", "2")
    with RecommenderClient(f"127.0.0.1:{process.port()}", timeout=2) as client:
        client.wait_until_available(60)
        stubs = Stubs(process.port())
        health = health_pb2_grpc.HealthStub(stubs.channel)
        process.popen.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2
        while health.Check(health_pb2.HealthCheckRequest()).status != NOT_SERVING:
            assert time.monotonic() < deadline
        assert client.recommend(["ad01"]).model_version == 1
        stubs.channel.close()
    assert process.popen.wait(30) == 0


def test_sigterm_amid_a_load_ends_with_0_in_time(
    serve: Callable[..., Process], publish: Callable[..., Path]
) -> None:
    served = publish(1)
    process = serve(served.parent, "--drain_seconds", "1")
    with RecommenderClient(f"127.0.0.1:{process.port()}") as client:
        client.wait_until_available(60)
        # Native code opens the asset, and waits for somebody who writes it.
        staged = shutil.copytree(served, served.parent / "staged")
        (staged / "assets" / "ads.txt").unlink()
        os.mkfifo(staged / "assets" / "ads.txt")
        staged.rename(served.parent / "2")
        deadline = time.monotonic() + 60
        while [state.state for state in client.status() if state.version == 2] != ["LOADING"]:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        assert client.recommend(["ad01"]).model_version == 1
    process.popen.send_signal(signal.SIGTERM)
    assert process.popen.wait(30) == 0
    process.end()
    assert "not waited for" in "".join(process.log)


def test_a_client_rides_over_a_killed_and_restarted_server(
    serve: Callable[..., Process], publish: Callable[..., Path]
) -> None:
    base, port = publish(1).parent, str(free_port())
    first = serve(base, "--port", port)
    with RecommenderClient(f"127.0.0.1:{port}", timeout=60) as client:
        assert client.wait_until_available(60) == 1
        before = client.recommend(["ad01"])
        first.popen.kill()
        first.popen.wait()
        second = serve(base, "--port", port)
        with ThreadPoolExecutor(1) as pool:
            during = pool.submit(client.wait_until_available, 60)
            assert second.port() == int(port)
            assert during.result(60) == 1
        assert client.recommend(["ad01"]) == before


def test_a_taken_port_is_said(serve: Callable[..., Process], tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = serve(tmp_path, "--port", str(port))
        assert process.popen.wait(60) == 1
        process.end()
    assert f"cannot listen on 127.0.0.1:{port}" in "".join(process.log)
