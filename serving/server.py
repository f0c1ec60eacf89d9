"""The model server: models, services, health, reflection and an orderly end."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.model_service import ModelService
from serving.models import ModelConfig, Models
from serving.prediction_service import PredictionService
from serving.servable import Servable
from serving.versions import ModelVersions
from serving.warmup import warm_up

log = logging.getLogger(__name__)

PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name[
    "PredictionService"
].full_name
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name


class ModelServer:
    """Serves the newest version under a base path through TF Serving's gRPC API.

    Args:
        model_name: the model's name in requests.
        base_path: folder of numbered version directories.
        port: TCP port; 0 picks a free one, read it from `port`.
        host: address to listen on.
        max_workers: requests worked on at once.
        max_queue: further requests that may wait; beyond them the answer is RESOURCE_EXHAUSTED.
        max_message_bytes: bound on a request's and an answer's size.
        poll_seconds: time between looks for a new version; 0 looks once.
        settle_seconds: how long a version's files must be untouched before it is loaded.
        intra_op_threads: see `Servable`.
        inter_op_threads: see `Servable`.

    Example:

    >>> with ModelServer("sid_tfx", "/models/sid_tfx") as server:
    ...     server.wait_until_available(timeout=60)
    ...     client = RecommenderClient(f"localhost:{server.port}")
    """

    def __init__(
        self,
        model_name: str,
        base_path: str | Path,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        max_workers: int = 16,
        max_queue: int = 1000,
        max_message_bytes: int = 64 * 1024 * 1024,
        poll_seconds: float = 1.0,
        settle_seconds: float = 0.5,
        intra_op_threads: int = 0,
        inter_op_threads: int = 0,
    ) -> None:
        self.model_name = model_name
        self.port = port
        self._host = host
        self._config = ModelConfig(model_name, Path(base_path))
        self._poll_seconds, self._settle_seconds = poll_seconds, settle_seconds
        self._threads = {"intra_op_threads": intra_op_threads, "inter_op_threads": inter_op_threads}
        self.models = Models(self._versions)
        self._health = health.HealthServicer()
        self._draining = False
        self._stopped = False
        self._grpc = grpc.server(
            ThreadPoolExecutor(max_workers, thread_name_prefix="rpc"),
            maximum_concurrent_rpcs=max_workers + max_queue,
            options=[
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.max_send_message_length", max_message_bytes),
                # Two servers on one port would each get half of the requests.
                ("grpc.so_reuseport", 0),
            ],
        )
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
            PredictionService(self.models), self._grpc
        )
        model_service_pb2_grpc.add_ModelServiceServicer_to_server(
            ModelService(self.models), self._grpc
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        reflection.enable_server_reflection(
            (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._grpc,
        )

    def start(self) -> ModelServer:
        """Listens and begins to load; returns before a version is available.

        Raises:
            OSError: the port cannot be bound.
        """
        self._update_health()
        try:
            self.port = self._grpc.add_insecure_port(f"{self._host}:{self.port}")
        except RuntimeError as error:
            raise OSError(f"cannot listen on {self._host}:{self.port}: {error}") from error
        self._grpc.start()
        self.models.reload([self._config])
        log.info("listening on %s:%d for %s", self._host, self.port, self._config.base_path)
        return self

    def wait_until_available(self, timeout: float = 60.0) -> int:
        """Waits for the first version.

        Returns:
            The version that serves.

        Raises:
            RuntimeError: every version on disk failed; the message has the reasons.
            TimeoutError: no version within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        model = self.models.get(self.model_name)
        if model is None:
            raise RuntimeError(f"{self.model_name} is not served: start the server first")
        model.wait_until_settled(deadline - time.monotonic())
        if model.available is not None:
            return model.available
        errors = [
            f"version {status.version}: {status.error.message}"
            for status in model.statuses()
            if status.error is not None
        ]
        if errors:
            raise RuntimeError(f"no version of {self.model_name} loads; " + "; ".join(errors))
        raise TimeoutError(
            f"no version of {self.model_name} under {model.base_path} within {timeout:g} s"
        )

    def stop(self, grace: float = 30.0, lame_duck: float = 0.0) -> None:
        """Drains: health says NOT_SERVING, no new request is taken, those in flight finish.

        Args:
            grace: seconds that requests in flight have before they are cancelled.
            lame_duck: seconds between NOT_SERVING and taking no more requests, for a balancer to
                move its traffic away: without them, clients that do not retry see UNAVAILABLE or
                CANCELLED.
        """
        if self._stopped:
            return
        self._draining = self._stopped = True
        self._health.enter_graceful_shutdown()
        time.sleep(lame_duck)
        self._grpc.stop(grace).wait()
        self.models.stop()

    def __enter__(self) -> ModelServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _versions(self, config: ModelConfig) -> ModelVersions:
        return ModelVersions(
            config.name,
            config.base_path,
            self._load,
            poll_seconds=self._poll_seconds,
            settle_seconds=self._settle_seconds,
            on_change=self._update_health,
        )

    def _load(self, path: Path, name: str, version: int) -> Servable:
        servable = Servable(path, name, version, **self._threads)
        try:
            warm_up(servable)
        except BaseException:
            servable.close()
            raise
        return servable

    def _update_health(self) -> None:
        if self._draining:
            return
        models = list(self.models)
        ready = bool(models) and all(model.available is not None for model in models)
        state = health_pb2.HealthCheckResponse.ServingStatus.Value(
            "SERVING" if ready else "NOT_SERVING"
        )
        for service in (health.OVERALL_HEALTH, PREDICTION_SERVICE, MODEL_SERVICE):
            self._health.set(service, state)
