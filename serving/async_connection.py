"""The asyncio connection to a model server: calls with retries inside a deadline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tenacity import AsyncRetrying

from serving.messages import Messages
from serving.results import ModelMetadata, VersionState
from serving.retries import Attempts
from serving.stubs import Stubs


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
        self.messages = messages
        self._stubs = Stubs(grpc.aio, messages, credentials, connections)
        self._closed = False

    async def close(self) -> None:
        """Closes the connections; calls in flight are cancelled."""
        self._closed = True
        for channel in self._stubs.channels:
            await channel.close()

    async def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """See `Connection.predict`."""
        request = self.messages.predict(signature, inputs, outputs)
        response = await self._call(self._stubs.predict, request, deadline)
        return self.messages.read_predict(response)

    async def metadata(self, deadline: float | None = None) -> ModelMetadata:
        """See `Connection.metadata`."""
        response = await self._call(self._stubs.metadata, self.messages.metadata(), deadline)
        return self.messages.read_metadata(response)

    async def status(self, deadline: float | None = None) -> list[VersionState]:
        """See `Connection.status`."""
        response = await self._call(self._stubs.status, self.messages.status(), deadline)
        return self.messages.read_status(response)

    async def _call(self, method: Any, request: Any, deadline: float | None) -> Any:
        until = self.messages.deadline() if deadline is None else deadline
        attempts = Attempts(until, self.messages.target, lambda: self._closed)

        async def attempt() -> Any:
            return await method(request, timeout=attempts.seconds_left)

        try:
            try:
                return await attempt()
            except grpc.RpcError as error:
                if not attempts.worth_another(error):
                    raise
            return await AsyncRetrying(**attempts.policy())(attempt)
        except grpc.RpcError as error:
            raise attempts.failure(error) from error
