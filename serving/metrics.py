"""Prometheus metrics under TF Serving's names, labels, units and buckets."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
DEFAULT_PATH = "/monitoring/prometheus/metrics"
# Names of models that are not served come from requests: one label for all of them, or anyone
# could grow the server's memory by asking.
UNKNOWN_MODEL = "_not_served_"

_PREFIX = ":tensorflow:serving:"


def _exponential(first: float, factor: float, count: int) -> list[float]:
    return [first * factor**power for power in range(count)]


# TF Serving's latencies are in microseconds.
_LATENCY = _exponential(10, 1.8, 33)
_QUEUEING = _exponential(100, 1.2, 52)
_BATCH_SIZE = _exponential(1, 2, 15)


class _RequestCount:
    """A counter without the suffix `_total` that the library insists on and TF Serving lacks."""

    name = f"{_PREFIX}request_count"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, model_name: str, status: str) -> None:
        with self._lock:
            self._counts[model_name, status] += 1

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            counts = sorted(self._counts.items())
        # Written as "untyped" and renamed by `page`: the type "counter" would rename the series.
        metric = Metric(self.name, "The total number of requests.", "unknown")
        for (model_name, status), count in counts:
            metric.add_sample(self.name, {"model_name": model_name, "status": status}, count)
        yield metric


class Metrics:
    """What one server counts.

    Args:
        is_served: whether a model of this name is served.
    """

    def __init__(self, is_served: Callable[[str], bool] = lambda name: True) -> None:
        disable_created_metrics()
        self._is_served = is_served
        self._registry = CollectorRegistry()
        self._request_count = _RequestCount()
        self._registry.register(self._request_count)

        def histogram(
            name: str, words: str, buckets: Iterable[float], labels: Sequence[str] = ()
        ) -> Histogram:
            return Histogram(
                _PREFIX + name, words, labels, buckets=tuple(buckets), registry=self._registry
            )

        self._request_latency = histogram(
            "request_latency",
            "Distribution of wall time (in microseconds) for Tensorflow Serving request.",
            _LATENCY,
            ("model_name", "API", "entrypoint"),
        )
        self._runtime_latency = histogram(
            "runtime_latency",
            "Distribution of wall time (in microseconds) for Tensorflow runtime.",
            _LATENCY,
            ("model_name", "API", "runtime"),
        )
        self._load_latency = histogram(
            "load_latency",
            "Distribution of wall time (in microseconds) of loading and warming up a version.",
            _LATENCY,
            ("model_name", "status"),
        )
        self._queuing_latency = histogram(
            "batching_session:queuing_latency",
            "Distribution of wall time spent (in microseconds) in queuing",
            _QUEUEING,
            ("thread_pool_name",),
        )
        self._input_batch_size = histogram(
            "batching_session:input_batch_size", "Rows of a request.", _BATCH_SIZE
        )
        self._processed_batch_size = histogram(
            "batching_session:processed_batch_size", "Rows of a batch.", _BATCH_SIZE
        )
        self._waiting = Gauge(
            f"{_PREFIX}waiting_requests",
            "Requests that wait for a thread.",
            ("entrypoint",),
            registry=self._registry,
        )

    def gauge(self, name: str, words: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read whenever the page is."""
        Gauge(_PREFIX + name, words, registry=self._registry).set_function(read)

    def waiting(self, entrypoint: str, read: Callable[[], float]) -> None:
        """Shows how many requests of an entry point wait for a thread."""
        self._waiting.labels(entrypoint).set_function(read)

    def observe_request(
        self, model_name: str, api: str, entrypoint: str, status: str, seconds: float
    ) -> None:
        """Counts an answered request; `status` is the name of its code."""
        known = model_name if self._is_served(model_name) else UNKNOWN_MODEL
        self._request_count.add(known, status)
        # As in TF Serving, whose latencies are of requests that succeed.
        if status == "OK":
            self._request_latency.labels(known, api, entrypoint).observe(1e6 * seconds)

    def observe_run(self, model_name: str, seconds: float) -> None:
        """Counts a run of a signature, queueing included where requests are batched."""
        self._runtime_latency.labels(model_name, "Predict", "TF1").observe(1e6 * seconds)

    def observe_load(self, model_name: str, status: str, seconds: float) -> None:
        """Counts a version that was loaded or has failed to load."""
        self._load_latency.labels(model_name, status).observe(1e6 * seconds)

    def observe_batch(
        self, thread_pool_name: str, waits: Sequence[float], rows: Sequence[int], padded: int
    ) -> None:
        """Counts a batch: each request's wait and rows, and the rows it ran with."""
        queuing = self._queuing_latency.labels(thread_pool_name)
        for seconds, size in zip(waits, rows, strict=True):
            queuing.observe(1e6 * seconds)
            self._input_batch_size.observe(size)
        self._processed_batch_size.observe(padded)

    def page(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry).replace(b" untyped\n", b" counter\n")
