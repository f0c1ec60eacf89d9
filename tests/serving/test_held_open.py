"""Calls that are begun and never finished: other requests are answered all the same."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.client import RecommenderClient
from tests.serving.hostile_grpc import PREDICT
from tests.serving.http_calls import call_json
from tests.serving.processes import Process

pytestmark = pytest.mark.slow

THREADS = 4
HELD = 3 * THREADS
SECONDS = 5.0


class Held:
    """Calls to one server that stay open until the end of a test."""

    def __init__(self, grpc_port: int, rest_port: int, stack: ExitStack) -> None:
        self.grpc_port, self.rest_port, self._stack = grpc_port, rest_port, stack
        self._end = threading.Event()
        # A call that is no longer referred to is cancelled.
        self._calls: list[Any] = []
        stack.callback(self._end.set)

    def _channel(self) -> grpc.Channel:
        return self._stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}"))

    def _requests(self, *first: Any) -> Iterator[Any]:
        yield from first
        self._end.wait(60)

    def reflection(self) -> None:
        """A stream after its first question, as a debugging tool leaves it."""
        stub = reflection_pb2_grpc.ServerReflectionStub(self._channel())
        asked = reflection_pb2.ServerReflectionRequest(list_services="")
        stream = stub.ServerReflectionInfo(self._requests(asked), timeout=60)
        self._calls.append(stream)

    def predict_headers(self) -> None:
        """A Predict whose message never comes."""
        held = self._channel().stream_unary(PREDICT).future(self._requests(), timeout=60)
        self._calls.append(held)

    def http_headers(self) -> None:
        """A POST whose body never comes."""
        connection = self._stack.enter_context(
            socket.create_connection(("127.0.0.1", self.rest_port))
        )
        connection.sendall(
            b"POST /v1/models/sid_tfx:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"
        )


@pytest.fixture
def held(publish: Callable[[int], Path]) -> Iterator[Held]:
    process = Process(publish(1).parent, "--pick_rest_api_port", f"--grpc_max_threads={THREADS}")
    with ExitStack() as stack:
        stack.callback(process.end)
        with RecommenderClient(f"127.0.0.1:{process.port()}") as client:
            client.wait_until_available(60)
        yield Held(process.port(), process.rest_port(), stack)


@pytest.mark.parametrize("hold", [Held.reflection, Held.predict_headers, Held.http_headers])
def test_others_are_answered(held: Held, hold: Callable[[Held], None]) -> None:
    for _ in range(HELD):
        hold(held)
    # Long enough for the server to have begun them all.
    threading.Event().wait(1)
    with RecommenderClient(f"127.0.0.1:{held.grpc_port}", timeout=SECONDS) as client:
        for _ in range(20):
            assert client.recommend(["ad01"]).ad_ids
    with grpc.insecure_channel(f"127.0.0.1:{held.grpc_port}") as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    row = {"instances": [["ad01", "", "", "", ""]]}
    assert call_json(held.rest_port, "POST", "/v1/models/sid_tfx:predict", row)[0] == 200
