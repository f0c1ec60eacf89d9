"""Who waits for an answer, and whether they still do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc

from serving.errors import ServingError, deadline_exceeded

# Is told the answer to a call, or the exception it failed with, by the thread that has it.
Done = Callable[[Any], None]


@dataclass(eq=False)
class Caller:
    """A request's caller, shared by whoever works on the request.

    Args:
        deadline: `time.monotonic()` past which the caller has stopped waiting; None for never.
        gone: whether the caller has hung up; set by the transport, from any thread.
    """

    deadline: float | None = None
    gone: bool = False

    def problem(self) -> ServingError | None:
        """Why there is nobody to work for any more; None as long as there is."""
        if self.deadline is not None and self.deadline <= time.monotonic():
            return deadline_exceeded()
        if self.gone:
            return ServingError(grpc.StatusCode.CANCELLED, "The caller has gone")
        return None
