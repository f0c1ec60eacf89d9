"""Sends generated bad requests to a server and looks at what they do to it."""

from __future__ import annotations

import http.client
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import grpc
import numpy as np
import psutil

from serving.client import RecommenderClient
from serving.results import AdList
from tests.serving.hostile import Hostile, Rng
from tests.serving.hostile_rest import CLOSED, HEAVY
from tests.serving.processes import Process

# Between the second and the last quarter: the first fills allocators and caches, and of a quarter
# the median counts, for a request of megabytes shows for a while.
MAX_GROWTH_MB = 32
# Of the most that was ever used: no small message may ask for gigabytes.
MAX_PEAK_GROWTH_MB = 1024
# The first run of a large graph takes long on a machine with other work.
TIMEOUT_SECONDS = 120


class Sender:
    """Sends both kinds over connections that are kept; gives the code of the answer."""

    def __init__(self, grpc_port: int, rest_port: int) -> None:
        self.channel = grpc.insecure_channel(
            f"127.0.0.1:{grpc_port}", options=[("grpc.max_send_message_length", -1)]
        )
        self.http = http.client.HTTPConnection("127.0.0.1", rest_port, timeout=TIMEOUT_SECONDS)

    def send(self, case: Hostile) -> grpc.StatusCode | int:
        """The status of gRPC, or of HTTP where the method is a verb and a path."""
        return self.rest(case) if " " in case.method else self.grpc(case)

    def grpc(self, case: Hostile) -> grpc.StatusCode:
        try:
            self.channel.unary_unary(case.method)(case.body, timeout=TIMEOUT_SECONDS)
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


def bombard(
    server: Process, cases: Iterable[Hostile], rng: Rng, max_growth_mb: float = MAX_GROWTH_MB
) -> set[str]:
    """Asserts that each case gets its code, and that the server is as it was after them.

    Returns:
        The kinds of the cases.
    """
    sender = Sender(server.port(), server.rest_port())
    memory = psutil.Process(server.popen.pid).memory_info
    wrong: Counter[tuple[str, str]] = Counter()
    kinds: set[str] = set()
    with RecommenderClient(f"127.0.0.1:{server.port()}", timeout=TIMEOUT_SECONDS) as client:
        client.wait_until_available(TIMEOUT_SECONDS)
        asked = ["ad01", "ad05"]
        expected: AdList = client.recommend(asked)
        used: list[int] = []
        # The largest requests first, so that what they leave in allocators is there from the start.
        for make in HEAVY * 3:
            sender.send(make(rng))
        peak = _peak_mb(server)
        for index, case in enumerate(cases):
            kinds.add(case.what)
            code = sender.send(case)
            if code not in case.codes:
                wrong[case.what, str(code)] += 1
            if index % 50 == 0:
                assert client.recommend(asked) == expected, case
                used.append(memory().rss)
        assert client.recommend(asked) == expected
    quarter = len(used) // 4
    grown = (np.median(used[-quarter:]) - np.median(used[quarter : 2 * quarter])) / 2**20
    assert not wrong, dict(wrong)
    assert server.popen.poll() is None
    assert grown < max_growth_mb, f"{grown:.0f} MiB"
    assert _peak_mb(server) - peak < MAX_PEAK_GROWTH_MB
    # gRPC itself logs what it cannot parse; the server's handlers have met no surprise.
    assert not [line for line in server.log if re.search(r"ERROR \S.* failed$", line)]
    return kinds


def _peak_mb(server: Process) -> float:
    status = Path(f"/proc/{server.popen.pid}/status").read_text()
    [kilobytes] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) / 1024
