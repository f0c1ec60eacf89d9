"""The rule of retries that both connections follow."""

from __future__ import annotations

import time
import types

import grpc
import pytest

from serving.client_errors import RequestTimeoutError, ServerUnavailableError
from serving.retries import Attempts

pytestmark = pytest.mark.unit


class Failed(grpc.RpcError):
    """A failed call with a code."""

    def __init__(self, code: grpc.StatusCode) -> None:
        self._code = code

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return "details"


def attempts(seconds: float = 10.0, closed: bool = False) -> Attempts:
    return Attempts(time.monotonic() + seconds, "host:1", lambda: closed)


def test_only_a_server_that_was_not_reached_is_asked_again() -> None:
    retried = {code for code in grpc.StatusCode if attempts().worth_another(Failed(code))}
    assert retried == {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert not attempts(closed=True).worth_another(Failed(grpc.StatusCode.CANCELLED))
    assert not attempts().worth_another(ValueError("not of the call"))


def test_no_pause_goes_past_the_deadline() -> None:
    wait = attempts(0.05).policy()["wait"]
    late = types.SimpleNamespace(attempt_number=30)
    assert max(wait(late) for _ in range(50)) <= 0.05


def test_a_last_attempt_without_time_does_not_hide_the_reason() -> None:
    late = Failed(grpc.StatusCode.DEADLINE_EXCEEDED)
    made = attempts()
    assert isinstance(made.failure(late), RequestTimeoutError)
    made.worth_another(Failed(grpc.StatusCode.UNAVAILABLE))
    assert isinstance(made.failure(late), ServerUnavailableError)
