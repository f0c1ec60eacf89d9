"""The model server: models, services, health, reflection and an orderly end."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from serving.batch_scheduler import BatchScheduler
from serving.batching import BatchingServable
from serving.errors import from_exception
from serving.grpc_server import GrpcServer
from serving.http_server import HttpServer
from serving.inference import Inference
from serving.management import Management
from serving.metrics import Metrics
from serving.model_config import ModelConfig
from serving.models import Models
from serving.rest_api import RestApi
from serving.servable import Runnable, Servable
from serving.settings import ServerSettings
from serving.versions import ModelVersions
from serving.warmup import warm_up

log = logging.getLogger(__name__)

# What unloading takes, which it has although requests have used up the grace.
_UNLOAD_SECONDS = 2.0

AnyServer = TypeVar("AnyServer", bound="Server")


class Server:
    """Serves models through TF Serving's gRPC and REST API.

    Args:
        configs: the models.
        settings: everything else.

    Example:

    >>> configs = [ModelConfig("sid_tfx", Path("/models/sid_tfx"), labels={"stable": 3})]
    >>> with Server(configs, ServerSettings(port=8500, rest_port=8501)) as server:
    ...     server.wait_until_available(timeout=60)
    """

    def __init__(self, configs: Sequence[ModelConfig], settings: ServerSettings) -> None:
        self.settings = settings
        self._configs = list(configs)
        self.models = Models(self._versions, settings.labels_for_unavailable, self._update_health)
        self.metrics = Metrics(lambda name: self.models.get(name) is not None)
        self._batching = self._scheduler()
        self._draining = False
        self._stop_lock, self._health_lock = threading.Lock(), threading.Lock()
        # A few bytes ask for millions of rows, of which a beam search would take all memory.
        batching = settings.batching
        max_rows = settings.max_rows if batching is None else batching.max_batch_size
        inference = Inference(self.models, self.metrics, max_rows, settings.check_method_names)
        management = Management(self.models)
        self._grpc = GrpcServer(inference, management, self.metrics, settings)
        self._http: HttpServer | None = None
        if settings.rest_port is not None:
            api = RestApi(
                self.models, inference, management, self.metrics, settings.max_message_bytes
            )
            self._http = HttpServer(api, self.metrics, settings)

    @property
    def port(self) -> int:
        """The gRPC port; the one that was picked, once it listens."""
        return self._grpc.port

    @property
    def rest_port(self) -> int | None:
        """The HTTP port, once it listens."""
        return self._http.port if self._http else None

    def start(self: AnyServer) -> AnyServer:
        """Listens and begins to load; returns before a version is available.

        Raises:
            OSError: a port cannot be bound.
            ServingError: the list of models cannot be served, see `Models.start`.
        """
        self._update_health()
        self._grpc.bind()
        try:
            self.models.start(self._configs)
        except BaseException:
            self._grpc.begin_stop(0)
            self._grpc.wait_stopped()
            self._grpc.close()
            raise
        self._grpc.start()
        if self._http:
            try:
                self._http.start()
            except OSError as error:
                # Loads that have begun are waited for: the process is about to end.
                self.models.stop()
                self.stop(0)
                raise OSError(
                    f"cannot listen on {self.settings.host}:{self._http.port}: {error}"
                ) from error
            log.info("HTTP on %s:%d", self.settings.host, self._http.port)
        for config in self._configs:
            log.info("%s is served from %s", config.name, config.base_path)
        log.info("listening on %s:%d", self.settings.host, self.port)
        return self

    def reload(self, configs: Iterable[ModelConfig], timeout: float = 300.0) -> None:
        """Replaces the served models, see `Models.reload`."""
        self.models.reload(configs, timeout)

    def wait_until_available(self, timeout: float = 60.0) -> int:
        """Waits until every model serves.

        Returns:
            The newest version of the first model.

        Raises:
            RuntimeError: every version on disk of a model failed; the message has the reasons.
            TimeoutError: no version within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        models = list(self.models)
        if not models:
            raise RuntimeError("no model is served: start the server first")
        first, *_ = [_wait(model, deadline, timeout) for model in models]
        return first

    def stop(self, grace: float = 30.0, lame_duck: float = 0.0) -> bool:
        """Drains: health says NOT_SERVING, no new request is taken, those in flight finish.

        A reload of the list of models that still waits for one gives up.

        Args:
            grace: seconds that requests in flight have before they are cancelled, and a version
                that still loads before it is left to itself.
            lame_duck: seconds between NOT_SERVING and taking no more requests, for a balancer to
                move its traffic away: without them, clients that do not retry see UNAVAILABLE or
                CANCELLED.

        Returns:
            False while a thread still loads or unloads a version: what is loaded is thrown away, a
            process that is to end at once needs `os._exit`. True otherwise, and of a further call,
            which does nothing.
        """
        with self._stop_lock:
            if self._draining:
                return True
            self._draining = True
        self._grpc.health.end()
        self.models.end_reloads()
        time.sleep(lame_duck)
        deadline = time.monotonic() + grace
        self._grpc.begin_stop(grace)
        if self._http:
            self._http.stop(grace)
        self._grpc.wait_stopped()
        if self._batching:
            self._batching.close()
        self._grpc.close()
        return self.models.stop(max(_UNLOAD_SECONDS, deadline - time.monotonic()))

    def __enter__(self: AnyServer) -> AnyServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _scheduler(self) -> BatchScheduler | None:
        parameters = self.settings.batching
        if parameters is None:
            return None

        def observe(waits: Sequence[float], rows: Sequence[int]) -> None:
            padded = parameters.padded(sum(rows))
            self.metrics.observe_batch(parameters.thread_pool_name, waits, rows, padded)

        scheduler = BatchScheduler(parameters, observe, lambda: self._grpc.flush())
        self.metrics.gauge(
            "batching_session:queued_rows",
            "Rows that wait for a batch thread.",
            lambda: scheduler.queued_rows,
        )
        return scheduler

    def _versions(self, config: ModelConfig) -> ModelVersions:
        return ModelVersions(
            config.name,
            config.base_path,
            self._load,
            policy=config.policy,
            poll_seconds=self.settings.poll_seconds,
            settle_seconds=self.settings.settle_seconds,
            on_change=self._update_health,
        )

    def _load(self, path: Path, name: str, version: int) -> Runnable:
        begin, status = time.perf_counter(), "OK"
        try:
            return self._warm(path, name, version)
        except Exception as error:
            status = from_exception(error).code.name
            raise
        finally:
            self.metrics.observe_load(name, status, time.perf_counter() - begin)

    def _warm(self, path: Path, name: str, version: int) -> Runnable:
        servable = Servable(
            path,
            name,
            version,
            intra_op_threads=self.settings.intra_op_threads,
            inter_op_threads=self.settings.inter_op_threads,
        )
        try:
            if self.settings.warm_up:
                warm_up(servable)
        except BaseException:
            servable.close()
            raise
        if self._batching and self.settings.batching:
            return BatchingServable(servable, self._batching, self.settings.batching)
        return servable

    def _update_health(self) -> None:
        # Looked and said under one lock: of two models that change at once, the later look would
        # otherwise be overwritten by the earlier one's word.
        with self._health_lock:
            if self._draining:
                return
            models = list(self.models)
            ready = bool(models) and all(model.available is not None for model in models)
            self._grpc.say_ready(ready)


class ModelServer(Server):
    """Serves the newest version under one base path.

    Args:
        model_name: the model's name in requests.
        base_path: folder of numbered version directories.
        port: gRPC port; 0 picks a free one, read it from `port`.
        settings: further fields of `ServerSettings`.

    Example:

    >>> with ModelServer("sid_tfx", "/models/sid_tfx", rest_port=0) as server:
    ...     server.wait_until_available(timeout=60)
    ...     client = RecommenderClient(f"localhost:{server.port}")
    """

    def __init__(
        self, model_name: str, base_path: str | Path, port: int = 0, **settings: Any
    ) -> None:
        config = ModelConfig(model_name, Path(base_path))
        super().__init__([config], ServerSettings(port=port, **settings))


def _wait(model: ModelVersions, deadline: float, timeout: float) -> int:
    model.wait_until_settled(deadline - time.monotonic())
    if model.available is not None:
        return model.available
    errors = [
        f"version {status.version}: {status.error.message}"
        for status in model.statuses()
        if status.error is not None
    ]
    if errors:
        raise RuntimeError(f"no version of {model.name} loads; " + "; ".join(errors))
    raise TimeoutError(f"no version of {model.name} under {model.base_path} within {timeout:g} s")
