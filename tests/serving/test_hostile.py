"""Thousands of generated bad requests: the right code, no crash, no growth, nobody else harmed."""

from __future__ import annotations

import http.client
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tensorflow_serving.apis import predict_pb2

from serving.client import RecommenderClient
from serving.results import AdList
from tests.serving.hostile import MAX_MESSAGE, Hostile
from tests.serving.hostile_grpc import GRPC_KINDS, PREDICT, grpc_case, history_block
from tests.serving.hostile_rest import CLOSED, HEAVY, REST_KINDS, rest_case
from tests.serving.processes import Process

pytestmark = pytest.mark.slow

GRPC_CASES, REST_CASES = 4000, 2000
# Between the second and the last quarter: the first fills allocators and caches, and of a quarter
# the median counts, for a request of megabytes shows for a while.
MAX_GROWTH_MB = 32


class Sender:
    """Sends both kinds over connections that are kept; gives the code of the answer."""

    def __init__(self, grpc_port: int, rest_port: int) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{grpc_port}", options=[("grpc.max_send_message_length", -1)]
        )
        self.http = http.client.HTTPConnection("127.0.0.1", rest_port, timeout=30)

    def grpc(self, case: Hostile) -> grpc.StatusCode:
        try:
            self.channel.unary_unary(case.method)(case.body, timeout=30)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    def rest(self, case: Hostile) -> int:
        verb, path = case.method.split(" ", 1)
        headers = {"Content-Type": "application/json", **case.headers}
        try:
            self.http.request(verb, path, case.body, headers)
            response = self.http.getresponse()
            response.read()
        except ConnectionError:
            self.http.close()
            return CLOSED
        return response.status


@pytest.fixture
def server(publish: Callable[[int], Path]) -> Iterator[Process]:
    process = Process(
        publish(1).parent,
        "--pick_rest_api_port",
        "--enable_batching=true",
        f"--max_message_bytes={MAX_MESSAGE}",
    )
    yield process
    process.end()


def test_bad_requests_get_their_code_and_harm_nobody(server: Process) -> None:
    sender = Sender(server.port(), server.rest_port())
    memory = psutil.Process(server.popen.pid).memory_info
    rng = np.random.default_rng(0)
    over_grpc = rng.permutation(np.repeat([True, False], [GRPC_CASES, REST_CASES]))
    wrong: Counter[tuple[str, str]] = Counter()
    kinds: set[str] = set()
    with RecommenderClient(f"127.0.0.1:{server.port()}") as client:
        client.wait_until_available(60)
        asked = ["ad01", "ad05"]
        expected: AdList = client.recommend(asked)
        used: list[int] = []
        # The largest requests first, so that what they leave in allocators is there from the start.
        for make in HEAVY * 3:
            sender.rest(make(rng))
        for index, is_grpc in enumerate(over_grpc):
            case = grpc_case(rng) if is_grpc else rest_case(rng)
            kinds.add(case.what)
            code = sender.grpc(case) if is_grpc else sender.rest(case)
            if code not in case.codes:
                wrong[case.what, str(code)] += 1
            if index % 50 == 0:
                assert client.recommend(asked) == expected, case
                used.append(memory().rss)
        assert client.recommend(asked) == expected
    quarter = len(used) // 4
    grown = (np.median(used[-quarter:]) - np.median(used[quarter : 2 * quarter])) / 2**20
    assert not wrong
    assert kinds == GRPC_KINDS | REST_KINDS
    assert server.popen.poll() is None
    assert grown < MAX_GROWTH_MB, f"{grown:.0f} MiB"
    # gRPC itself logs what it cannot parse; the server's handlers have met no surprise.
    assert not [line for line in server.log if re.search(r"ERROR \S.* failed$", line)]


def test_large_requests_leave_no_memory_behind(server: Process) -> None:
    """Whichever threads meet them: glibc keeps what each of them has freed."""
    sender, resident = Sender(server.port(), server.rest_port()), psutil.Process(server.popen.pid)
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "sid_tfx"
    block = history_block(request, 1, 10**6)
    block.string_val.extend([b"ad01"] * 10**6)
    case = Hostile("large", PREDICT, request.SerializeToString(), {grpc.StatusCode.OK})
    with RecommenderClient(f"127.0.0.1:{server.port()}") as client:
        client.wait_until_available(60)
        client.recommend(["ad01"])
        before = resident.memory_info().rss
        with ThreadPoolExecutor(8) as pool:
            codes = list(pool.map(sender.grpc, [case] * 24))
        # Trimmed by a thread of the server, after the last answer.
        deadline, grown = time.monotonic() + 10, math.inf
        while grown > MAX_GROWTH_MB and time.monotonic() < deadline:
            time.sleep(0.1)
            grown = (resident.memory_info().rss - before) / 2**20
    assert set(codes) == {grpc.StatusCode.INVALID_ARGUMENT}
    assert grown <= MAX_GROWTH_MB, f"{grown:.0f} MiB"
