"""The gRPC front: TF Serving's two services, health and reflection on one port."""

from __future__ import annotations

from concurrent.futures import Future

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from serving.grpc_health import Health
from serving.grpc_loop import LoopThread
from serving.grpc_services import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    ModelService,
    PredictionService,
)
from serving.inference import Inference
from serving.management import Management
from serving.metrics import Metrics
from serving.settings import ServerSettings


class GrpcServer:
    """Serves the gRPC API from one event loop.

    Args:
        inference: answers the calls of `PredictionService`.
        management: answers those of `ModelService`.
        metrics: where requests are counted.
        settings: host, port, certificates and bounds.
    """

    def __init__(
        self,
        inference: Inference,
        management: Management,
        metrics: Metrics,
        settings: ServerSettings,
    ) -> None:
        self._settings = settings
        self.port = settings.port
        self._loop = LoopThread()
        self.health = Health(
            (health.OVERALL_HEALTH, PREDICTION_SERVICE, MODEL_SERVICE), self._loop.soon
        )
        self._prediction = PredictionService(inference, metrics, settings, self._loop)
        self._model = ModelService(management, settings, self._loop)
        self._server: grpc.aio.Server | None = None
        self._started = False
        self._stopped: Future[None] | None = None

    def bind(self) -> None:
        """Takes the port.

        Raises:
            OSError: it cannot be bound.
        """
        self._loop.start()
        try:
            self._server = self._loop.run(self._make())
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Begins to take requests."""
        assert self._server is not None
        self._loop.run(self._server.start())
        self._started = True

    def say_ready(self, ready: bool) -> None:
        """What health says from now on."""
        self.health.set(
            health_pb2.HealthCheckResponse.ServingStatus.Value(
                "SERVING" if ready else "NOT_SERVING"
            )
        )

    def flush(self) -> None:
        """Hands the answers of a batch back to their callers."""
        self._loop.flush()

    def begin_stop(self, grace: float) -> None:
        """Takes no more requests; those in flight have `grace` seconds to be answered."""
        if self._server is None:
            return
        if not self._started:
            # Only a server that has been started gives its port back.
            self.start()
        self._stopped = self._loop.begin(self._server.stop(grace))
        self.health.close()

    def wait_stopped(self) -> None:
        """Waits until those are answered or cancelled."""
        if self._stopped is not None:
            self._stopped.result()

    def close(self) -> None:
        """Ends the threads; a request that still runs is not waited for."""
        self._loop.close()
        self._prediction.close()
        self._model.close()

    async def _make(self) -> grpc.aio.Server:
        bound = self._settings.max_message_bytes
        options: dict[str, int | str] = {
            "grpc.max_receive_message_length": bound,
            "grpc.max_send_message_length": bound,
            # Two servers on one port would each get half of the requests.
            "grpc.so_reuseport": 0,
            **dict(self._settings.grpc_options),
        }
        server = grpc.aio.server(options=list(options.items()))
        server.add_generic_rpc_handlers((self._prediction.handlers(), self._model.handlers()))
        health_pb2_grpc.add_HealthServicer_to_server(self.health, server)
        reflection.enable_server_reflection(
            (PREDICTION_SERVICE, MODEL_SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME),
            server,
        )
        address = f"{self._settings.host}:{self.port}"
        try:
            if self._settings.tls:
                credentials = self._settings.tls.credentials()
                self.port = server.add_secure_port(address, credentials)
            else:
                self.port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        return server
