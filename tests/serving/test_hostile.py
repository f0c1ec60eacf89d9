"""Thousands of generated bad requests: the right code, no crash, no growth, nobody else harmed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from tensorflow_serving.apis import predict_pb2

from serving.client import RecommenderClient
from tests.serving.attack import MAX_GROWTH_MB, Sender, bombard
from tests.serving.hostile import MAX_MESSAGE, Hostile
from tests.serving.hostile_grpc import GRPC_KINDS, PREDICT, grpc_case, history_block
from tests.serving.hostile_rest import REST_KINDS, rest_case
from tests.serving.processes import Process

pytestmark = pytest.mark.slow

GRPC_CASES, REST_CASES = 4000, 2000


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
    rng = np.random.default_rng(0)
    over_grpc = rng.permutation(np.repeat([True, False], [GRPC_CASES, REST_CASES]))
    cases = (grpc_case(rng) if is_grpc else rest_case(rng) for is_grpc in over_grpc)
    assert bombard(server, cases, rng) == GRPC_KINDS | REST_KINDS


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
