"""The end of the HTTP front: nothing that was begun is cut, nothing new is taken."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from serving.http_server import HttpServer
from serving.metrics import Metrics
from serving.rest_api import Answer
from serving.settings import ServerSettings

pytestmark = pytest.mark.unit

LARGE = 20_000_000


class Api:
    """Answers anything, with as many bytes as the path says."""

    def answer(self, method: str, path: str, body: bytes, deadline: float) -> Answer:
        return Answer(200, b"x" * int(path.rsplit("/", 1)[1]))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    made = HttpServer(Api(), Metrics(), ServerSettings(rest_port=0))  # type: ignore[arg-type]
    made.start()
    yield made
    made.stop(0)


@pytest.mark.parametrize("path", ["/v1/10", "/v1/models/10"])
def test_connections_that_are_kept_alive_do_not_put_the_end_off(
    server: HttpServer, path: str
) -> None:
    statuses: list[int] = []

    def load() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        try:
            while True:
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                statuses.append(response.status)
        except (OSError, http.client.HTTPException):
            connection.close()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(statuses) < 20:
        time.sleep(0.005)
    begin = time.monotonic()
    server.stop(grace=30)
    assert time.monotonic() - begin < 15
    for thread in threads:
        thread.join(30)
    assert set(statuses) <= {200, 503}


@pytest.mark.parametrize("path", ["/v1", "/v1/models"])
def test_an_answer_that_is_read_slowly_is_not_cut(server: HttpServer, path: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        caller.sendall(f"GET {path}/{LARGE} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = bytearray(caller.recv(1000))
        ending = threading.Thread(target=server.stop, args=(30,))
        ending.start()
        time.sleep(0.3)
        assert ending.is_alive()
        while part := caller.recv(1 << 20):
            received += part
        ending.join(30)
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"Content-Length: {LARGE}".encode() in head
    assert len(body) == LARGE
