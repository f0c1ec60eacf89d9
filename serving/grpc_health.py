"""`grpc.health.v1` for an asyncio server.

The package's own asyncio servicer forgets its other watchers when one of them leaves, and its
`set` is a coroutine; models change their state in threads of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health_pb2_grpc.HealthServicer):
    """What the server says of its services. `set` and `end` may be called from any thread.

    Args:
        services: names of the services; they do not serve until told otherwise.
        soon: has the server's loop make a call.
    """

    def __init__(self, services: Iterable[str], soon: Callable[[Callable[[], None]], None]) -> None:
        self._states: dict[str, int] = dict.fromkeys(services, _NOT_SERVING)
        self._soon, self._ended = soon, False
        self._changed = asyncio.Event()

    def set(self, state: int) -> None:
        """What is said of all services from now on; nothing after `end`."""
        if not self._ended:
            self._states = dict.fromkeys(self._states, state)
            self._soon(self._wake)

    def end(self) -> None:
        """Says NOT_SERVING for good."""
        self.set(_NOT_SERVING)
        self._ended = True

    def state(self, service: str) -> int | None:
        """What is said of a service; None of one that is not known."""
        return self._states.get(service)

    async def Check(self, request: Any, context: grpc.aio.ServicerContext) -> Any:  # noqa: N802
        """The state of a service now."""
        state = self.state(request.service)
        if state is None:
            await context.abort(grpc.StatusCode.NOT_FOUND)
        return health_pb2.HealthCheckResponse(status=state)

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext) -> None:  # noqa: N802
        """The state of a service now and whenever it changes."""
        said = None
        while True:
            changed = self._changed
            state = self._states.get(request.service, _UNKNOWN)
            if state != said:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                said = state
            await changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
