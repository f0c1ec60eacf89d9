"""`grpc.health.v1` for an asyncio server.

The package's own asyncio servicer forgets its other watchers when one of them leaves, and its
`set` is a coroutine; models change their state in threads of their own.
"""

from __future__ import annotations

import asyncio
import threading
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
        self._soon, self._ended, self._closed = soon, False, False
        self._lock = threading.Lock()
        self._changed = asyncio.Event()

    def set(self, state: int) -> None:
        """What is said of all services from now on; nothing after `end`."""
        self._say(state, last=False)

    def end(self) -> None:
        """Says NOT_SERVING for good."""
        self._say(_NOT_SERVING, last=True)

    def close(self) -> None:
        """Says NOT_SERVING for good, and ends the streams of those who watch.

        To be called once no further call is taken, for they would ask again at once.
        """
        self.end()
        self._closed = True
        self._soon(self._wake)

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
        """The state of a service now and whenever it changes, until the end of the server.

        A stream that stays open would hold that end back for all of its grace.
        """
        said = None
        while True:
            changed, closed = self._changed, self._closed
            state = self._states.get(request.service, _UNKNOWN)
            if state != said:
                await context.write(health_pb2.HealthCheckResponse(status=state))
                said = state
            if closed:
                return
            await changed.wait()

    def _say(self, state: int, last: bool) -> None:
        with self._lock:
            if self._ended:
                return
            self._states, self._ended = dict.fromkeys(self._states, state), last
        self._soon(self._wake)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
