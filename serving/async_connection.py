"""The asyncio connection to a model server: calls with retries inside a deadline."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tenacity import AsyncRetrying, retry_if_exception, stop_after_delay, wait_random_exponential
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.client_errors import from_rpc_error
from serving.messages import RETRIED, Messages
from serving.results import ModelMetadata, VersionState


class AsyncConnection:
    """`Connection` for asyncio; made and used inside one running event loop.

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
        self._turn = itertools.cycle([service.Predict for service in services])
        self._metadata = services[0].GetModelMetadata
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channels[0]).GetModelStatus

    async def close(self) -> None:
        """Closes the connections; calls in flight are cancelled."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        version: int | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """See `Connection.predict`."""
        request = self.messages.predict(signature, inputs, outputs, version)
        return self.messages.read_predict(await self._call(next(self._turn), request))

    async def metadata(self) -> ModelMetadata:
        """See `Connection.metadata`."""
        response = await self._call(self._metadata, self.messages.metadata())
        return self.messages.read_metadata(response)

    async def status(self, timeout: float | None = None) -> list[VersionState]:
        """See `Connection.status`."""
        response = await self._call(self._status, self.messages.status(), timeout)
        return self.messages.read_status(response)

    def _channel(self, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
        target, options = self.messages.target, self.messages.channel_options
        if credentials is None:
            return grpc.aio.insecure_channel(target, options)
        return grpc.aio.secure_channel(target, credentials, options)

    def _may_retry(self, error: BaseException) -> bool:
        return isinstance(error, grpc.RpcError) and not self._closed and error.code() in RETRIED

    async def _call(self, method: Any, request: Any, timeout: float | None = None) -> Any:
        seconds = self.messages.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds

        unreached: grpc.RpcError | None = None

        async def attempt() -> Any:
            nonlocal unreached
            try:
                return await method(request, timeout=max(deadline - time.monotonic(), 0.001))
            except grpc.RpcError as error:
                if self._may_retry(error):
                    unreached = error
                raise

        try:
            return await AsyncRetrying(
                retry=retry_if_exception(self._may_retry),
                stop=stop_after_delay(seconds),
                wait=wait_random_exponential(multiplier=0.02, max=0.5),
                reraise=True,
            )(attempt)
        except grpc.RpcError as error:
            # The last attempt has no time left: what it says of the deadline is no news.
            late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            cause = unreached if late and unreached is not None else error
            raise from_rpc_error(cause, self.messages.target) from error
