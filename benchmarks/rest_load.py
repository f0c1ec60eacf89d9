"""Keeps a number of REST requests in flight, each on a connection of its own."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Iterator

from benchmarks.serving_load import MODEL, Timings


def ask_rest(
    port: int,
    requests: Iterator[tuple[int, bytes]],
    connections: int,
    timings: Timings,
    on_answer: Callable[[int, bytes, float], None],
    timeout: float = 60.0,
) -> None:
    """Sends all requests and returns when all are answered.

    Args:
        port: On this machine.
        requests: Index and body for `:predict`.
        connections: Requests in flight.
        timings: What is added to.
        on_answer: Told index, answer and the second it was sent at of each request that succeeded.
        timeout: Seconds that one request may take.
    """
    lock = threading.Lock()

    def lane() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        while True:
            with lock:
                found = next(requests, None)
            if found is None:
                connection.close()
                return
            index, body = found
            sent = time.perf_counter()
            try:
                connection.request("POST", f"/v1/models/{MODEL}:predict", body)
                response = connection.getresponse()
                answer, answered = response.read(), response.status == 200
            except (OSError, http.client.HTTPException):
                connection.close()
                answered = False
            taken = 1e3 * (time.perf_counter() - sent)
            with lock:
                timings.failures += not answered
                if answered:
                    timings.milliseconds.append(taken)
                    timings.rows += 1
            if answered:
                on_answer(index, answer, sent)

    threads = [threading.Thread(target=lane) for _ in range(connections)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    timings.seconds += time.perf_counter() - begin
