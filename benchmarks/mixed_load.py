"""Requests of several signatures in flight over gRPC and REST at once, until told to stop."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Sequence

from benchmarks.mixed_requests import Request, read_grpc, read_rest
from benchmarks.rest_load import ask_rest
from benchmarks.serving_load import Flood, ServerProcess, Timings
from benchmarks.version_answers import VersionAnswers


class MixedLoad:
    """Asks round and round, a quarter of what is in flight over REST.

    Args:
        server: Who is asked.
        requests: What is asked.
        answers: Checks every answer.
        concurrency: Requests in flight, at least 4.
    """

    def __init__(
        self,
        server: ServerProcess,
        requests: Sequence[Request],
        answers: VersionAnswers,
        concurrency: int,
    ) -> None:
        self._requests, self._answers = requests, answers
        self._stopped, self._indices = threading.Event(), itertools.count()
        self._sent: dict[int, tuple[int, float]] = {}
        self._flood = Flood(server.target)
        self.grpc, self.rest = Timings(), Timings()
        rest = concurrency // 4
        self._threads = [
            threading.Thread(
                target=self._flood.ask,
                args=(self._bodies(), concurrency - rest, self.grpc, self._heard_grpc),
            ),
            threading.Thread(
                target=ask_rest,
                args=(server.rest_port, self._numbered(), rest, self.rest, self._heard_rest),
            ),
        ]

    def start(self) -> None:
        """Begins to ask."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Asks no more and waits for the answers that are due."""
        self._stopped.set()
        for thread in self._threads:
            thread.join()
        self._flood.close()

    @property
    def rows(self) -> int:
        """Requests that were answered well."""
        return self.grpc.rows + self.rest.rows

    @property
    def failures(self) -> int:
        """Requests that were not."""
        return self.grpc.failures + self.rest.failures

    @property
    def answered(self) -> int:
        """Both."""
        return self.rows + self.failures

    @property
    def seconds(self) -> float:
        """How long it asked."""
        return max(self.grpc.seconds, self.rest.seconds)

    @property
    def milliseconds(self) -> list[float]:
        """What each answer took."""
        return self.grpc.milliseconds + self.rest.milliseconds

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        while not self._stopped.is_set():
            # `next` of a count is one operation: two threads never get one number.
            index = next(self._indices)
            yield index, self._requests[index % len(self._requests)].rest

    def _bodies(self) -> Iterator[bytes]:
        for place in itertools.count():
            if self._stopped.is_set():
                return
            index = next(self._indices)
            self._sent[place] = index, time.perf_counter()
            yield self._requests[index % len(self._requests)].grpc

    def _heard_grpc(self, place: int, body: bytes) -> None:
        heard = time.perf_counter()
        index, sent = self._sent.pop(place)
        version, answer = read_grpc(body)
        self._answers.check(index, answer, sent, heard, version)

    def _heard_rest(self, index: int, body: bytes, sent: float) -> None:
        self._answers.check(index, read_rest(body), sent, time.perf_counter(), None)
