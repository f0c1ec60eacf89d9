"""Everything about a server but its models."""

from __future__ import annotations

from dataclasses import dataclass

from serving.batch_parameters import BatchingParameters
from serving.metrics import DEFAULT_PATH
from serving.tls import TlsConfig


@dataclass(frozen=True)
class ServerSettings:
    """How a server listens, works, and bounds what it takes on.

    Args:
        host: address to listen on.
        port: gRPC port; 0 picks a free one.
        rest_port: HTTP port; 0 picks a free one, None serves no HTTP.
        max_workers: requests worked on at once, per protocol.
        max_queue: further requests that may wait; beyond them the answer is RESOURCE_EXHAUSTED.
        max_inflight_bytes: what the messages of the requests worked on and waiting come to at
            most, per protocol; beyond them the answer is RESOURCE_EXHAUSTED. A request that is
            alone may have more.
        max_message_bytes: bound on a request's and an answer's size.
        max_rows: rows of a request at most where batching does not bound them.
        rest_timeout_seconds: time an HTTP request has, which carries no deadline of its own.
        poll_seconds: time between looks for new versions; 0 looks once.
        settle_seconds: how long a version's files must be untouched before it is loaded.
        batching: runs requests in batches; None runs each by itself.
        tls: certificates of the gRPC port; None listens without TLS.
        metrics_path: HTTP path of the Prometheus page; empty for none.
        labels_for_unavailable: see `Models`.
        check_method_names: see `Inference`.
        warm_up: whether the warm-up file of a version is run.
        intra_op_threads: see `Servable`.
        inter_op_threads: see `Servable`.
        grpc_options: further arguments of the gRPC server; they win over the server's own.

    Raises:
        ValueError: a bound is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 0
    rest_port: int | None = None
    max_workers: int = 16
    max_queue: int = 1000
    max_inflight_bytes: int = 1024 * 1024 * 1024
    max_message_bytes: int = 64 * 1024 * 1024
    max_rows: int = 10_000
    rest_timeout_seconds: float = 30.0
    poll_seconds: float = 1.0
    settle_seconds: float = 0.5
    batching: BatchingParameters | None = None
    tls: TlsConfig | None = None
    metrics_path: str = DEFAULT_PATH
    labels_for_unavailable: bool = False
    check_method_names: bool = False
    warm_up: bool = True
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    grpc_options: tuple[tuple[str, int | str], ...] = ()

    def __post_init__(self) -> None:
        for name in (
            "max_workers", "max_inflight_bytes", "max_message_bytes", "max_rows",
            "rest_timeout_seconds",
        ):  # fmt: skip
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give more than 0")
        if self.max_queue < 0:
            raise ValueError(f"max_queue is {self.max_queue}: give 0 or more")
        if self.metrics_path and not self.metrics_path.startswith("/"):
            raise ValueError(f"metrics_path is {self.metrics_path!r}: begin it with /")
