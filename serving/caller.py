"""Who waits for an answer, and whether they still do."""

from __future__ import annotations

import threading
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


def answer_of(begin: Callable[[Done], None], deadline: float | None) -> Any:
    """Waits in this thread for what a begun call is told.

    Args:
        begin: begins the call, and is given whom to tell.
        deadline: `time.monotonic()` past which nobody waits any more.

    Raises:
        ServingError: DEADLINE_EXCEEDED.
        Exception: what `begin` raised or the call was told.
    """
    answers: list[Any] = []
    # A bare lock, released when the answer is there: an Event costs several times as much.
    ready = threading.Lock()
    ready.acquire()

    def done(answer: Any) -> None:
        answers.append(answer)
        ready.release()

    begin(done)
    seconds = -1 if deadline is None else max(0.0, deadline - time.monotonic())
    if not ready.acquire(timeout=seconds):
        raise deadline_exceeded()
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]
