"""The blocking connection to a model server: calls with retries inside a deadline."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.client_errors import from_rpc_error
from serving.messages import RETRIED, Messages
from serving.results import ModelMetadata, VersionState


class Connection:
    """Calls of TF Serving's API for one model, in NumPy arrays. Thread-safe.

    Args:
        messages: makes the requests.
        credentials: for TLS; None connects without.
        connections: HTTP/2 connections that calls take turns on.
    """

    def __init__(
        self,
        messages: Messages,
        credentials: grpc.ChannelCredentials | None = None,
        connections: int = 1,
    ) -> None:
        if connections < 1:
            raise ValueError(f"connections is {connections}: give at least 1")
        self.messages, self.model_name = messages, messages.model_name
        self._closed = False
        self._channels = [self._channel(credentials) for _ in range(connections)]
        services = [
            prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in self._channels
        ]
        # `next` on a cycle is one C call, and so needs no lock.
        self._turn = itertools.cycle([service.Predict for service in services])
        self._metadata = services[0].GetModelMetadata
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channels[0]).GetModelStatus

    def close(self) -> None:
        """Closes the connections; calls in flight are cancelled."""
        self._closed = True
        for channel in self._channels:
            channel.close()

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        version: int | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Runs a signature.

        Returns:
            The outputs by alias, and the version that answered.

        Raises:
            RecommenderError: see `client_errors`.
        """
        request = self.messages.predict(signature, inputs, outputs, version)
        return self.messages.read_predict(self._call(next(self._turn), request))

    def metadata(self) -> ModelMetadata:
        """The signatures of the version that serves.

        Raises:
            RecommenderError: see `client_errors`.
        """
        return self.messages.read_metadata(self._call(self._metadata, self.messages.metadata()))

    def status(self, timeout: float | None = None) -> list[VersionState]:
        """The state of every version.

        Raises:
            RecommenderError: see `client_errors`.
        """
        response = self._call(self._status, self.messages.status(), timeout)
        return self.messages.read_status(response)

    def _channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
        target, options = self.messages.target, self.messages.channel_options
        if credentials is None:
            return grpc.insecure_channel(target, options)
        return grpc.secure_channel(target, credentials, options)

    def _may_retry(self, error: BaseException) -> bool:
        return isinstance(error, grpc.RpcError) and not self._closed and error.code() in RETRIED

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        seconds = self.messages.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds

        unreached: grpc.RpcError | None = None

        def attempt() -> Any:
            return method(request, timeout=max(deadline - time.monotonic(), 0.001))

        try:
            try:
                return attempt()
            except grpc.RpcError as error:
                if not self._may_retry(error):
                    raise
                unreached = error
            # Only the rare call pays for the machinery of retries.
            return Retrying(
                retry=retry_if_exception(self._may_retry),
                stop=stop_after_delay(max(deadline - time.monotonic(), 0)),
                wait=wait_random_exponential(multiplier=0.02, max=0.5),
                reraise=True,
            )(attempt)
        except grpc.RpcError as error:
            # The last attempt has no time left: what it says of the deadline is no news.
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            cause = unreached if late and unreached is not None else error
            raise from_rpc_error(cause, self.messages.target) from error
