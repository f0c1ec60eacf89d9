"""When a failed call is sent again, and what it ends with: one rule for both connections."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import grpc
from tenacity import RetryCallState, retry_if_exception, stop_after_delay, wait_random_exponential

from serving.client_errors import RecommenderError, from_rpc_error

# All calls of this API only read, so that asking again is safe. A call that reaches a server in
# the instant it shuts down comes back as CANCELLED.
_RETRIED = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
_LEAST_SECONDS = 0.001
_WAIT = wait_random_exponential(multiplier=0.02, max=0.5)


class Attempts:
    """The attempts of one call, inside its deadline.

    Args:
        deadline: `time.monotonic()` at which all of them end.
        target: `host:port` of the server, for messages.
        closed: whether the client has been closed, whose own cancelling no attempt can mend.
    """

    def __init__(self, deadline: float, target: str, closed: Callable[[], bool]) -> None:
        self._deadline = deadline
        self._target, self._closed = target, closed
        self._unreached: grpc.RpcError | None = None

    @property
    def seconds_left(self) -> float:
        """What the next attempt may take; never 0, which gRPC takes for a deadline gone by."""
        return max(self._deadline - time.monotonic(), _LEAST_SECONDS)

    def worth_another(self, error: BaseException) -> bool:
        """Whether the call may be sent again after this."""
        if not isinstance(error, grpc.RpcError) or self._closed() or error.code() not in _RETRIED:
            return False
        self._unreached = error
        return True

    def policy(self) -> dict[str, Any]:
        """The arguments of tenacity's `Retrying` and `AsyncRetrying`."""
        return {
            "retry": retry_if_exception(self.worth_another),
            "stop": stop_after_delay(self.seconds_left),
            "wait": self._wait,
            "reraise": True,
        }

    def failure(self, error: grpc.RpcError) -> RecommenderError:
        """What the client raises once no attempt is left."""
        # The last attempt has no time left: what it says of the deadline is no news.
        late = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        cause = self._unreached if late and self._unreached is not None else error
        return from_rpc_error(cause, self._target)

    def _wait(self, state: RetryCallState) -> float:
        # A pause past the deadline would be added to the time that the caller gave.
        return min(_WAIT(state), self.seconds_left)
