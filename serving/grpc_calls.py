"""One unary gRPC method: from a call's message to its answer, without a thread that waits.

A call that has sent no message yet, or waits for its answer, is a coroutine; threads are taken by
what works. So calls that are begun and never finished keep nobody else from being answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.caller import Caller, Done
from serving.errors import ServingError, too_many_bytes
from serving.grpc_loop import LoopThread
from serving.memory import LARGE_BYTES, trim

log = logging.getLogger(__name__)

# What is worked on in the loop itself must be over in less than a millisecond.
SMALL_BYTES = 64 * 1024
# gRPC sends the message as an HTTP/2 header, a byte that is not plain ASCII as three, and clients
# refuse headers past 8 KiB.
_MAX_MESSAGE_BYTES = 2048

# Works on a request and tells the response or the error, now or later; may raise the error instead.
Begin = Callable[[Any, Caller, Done], None]


class Admission:
    """Counts the calls in hand and refuses those past a limit. Used from the loop alone.

    Args:
        limit: calls taken on.
        max_bytes: what their messages come to at most; a call that is alone may have more.
    """

    def __init__(self, limit: int, max_bytes: int) -> None:
        self._limit, self._max_bytes = limit, max_bytes
        self.in_hand = 0
        self._bytes = 0

    def enter(self, size: int) -> None:
        """Takes on a call with a message of this size.

        Raises:
            ServingError: RESOURCE_EXHAUSTED.
        """
        if self.in_hand >= self._limit:
            raise ServingError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
        if self.in_hand and self._bytes + size > self._max_bytes:
            raise too_many_bytes(self._bytes, self._max_bytes)
        self.in_hand += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """Nobody works on the call any more."""
        self.in_hand -= 1
        self._bytes -= size


@dataclass(frozen=True)
class Outcome:
    """How a call ends."""

    status: grpc.StatusCode
    message: str = ""
    body: bytes = b""


@dataclass(eq=False)
class _Call:
    body: bytes
    caller: Caller
    begun: float = field(default_factory=time.perf_counter)
    # Of the message: the body itself is let go once it is read.
    size: int = field(init=False)
    # What it says, from when it is read to when it is begun, and the model it is about.
    request: Any = None
    model: str | None = None

    def __post_init__(self) -> None:
        self.size = len(self.body)


class UnaryMethod:
    """Answers the calls of one method.

    Args:
        name: its full name.
        request_class: the proto of its requests.
        begin: works on a request.
        loop: where its coroutines run.
        admission: how many calls are taken on.
        pool: the threads that `begin` runs in.
        in_loop: which requests of small messages are begun in the loop, because `begin` doesn't
            wait and is over soon; None for none.
        model_of: the name of the model that a request is about.
        observe: told model, status and seconds of every call.
    """

    def __init__(
        self,
        name: str,
        request_class: Any,
        begin: Begin,
        loop: LoopThread,
        admission: Admission,
        pool: Executor,
        in_loop: Callable[[Any], bool] | None = None,
        model_of: Callable[[Any], str] = lambda request: "",
        observe: Callable[[str, str, float], None] = lambda model, status, seconds: None,
    ) -> None:
        self._name, self._request_class, self._begin = name, request_class, begin
        self._loop, self._admission, self._pool = loop, admission, pool
        self._in_loop, self._model_of, self._observe = in_loop, model_of, observe

    def handler(self) -> grpc.RpcMethodHandler:
        """What a server registers.

        As a stream of requests, of which the first is taken: a call that ends without one would
        otherwise never be answered, and bytes that are no request be answered with UNKNOWN.
        """
        return grpc.stream_unary_rpc_method_handler(self._answer)

    async def _answer(self, requests: object, context: grpc.aio.ServicerContext) -> bytes:
        body = await context.read()
        if body is grpc.aio.EOF:
            await context.abort(
                grpc.StatusCode.UNIMPLEMENTED,
                f'"{self._name}" requires exactly one request message.',
            )
        large = len(body) > LARGE_BYTES
        try:
            return await self._answer_body(body, context)
        finally:
            del body
            if large:
                # At the end there is no pool, and the process gives all back.
                with contextlib.suppress(RuntimeError):
                    self._pool.submit(trim)

    async def _answer_body(self, body: bytes, context: grpc.aio.ServicerContext) -> bytes:
        call = _Call(body, Caller(_deadline(context)))
        del body
        try:
            self._admission.enter(call.size)
        except ServingError as error:
            self._read_model(call)
            outcome = self._refusal(error)
        else:
            outcome = await self._work(call)
        if call.model is not None:
            self._observe(call.model, outcome.status.name, time.perf_counter() - call.begun)
        if outcome.status is not grpc.StatusCode.OK:
            await context.abort(outcome.status, outcome.message)
        return outcome.body

    async def _work(self, call: _Call) -> Outcome:
        answer = asyncio.get_running_loop().create_future()

        def tell(outcome: Outcome) -> None:
            self._admission.leave(call.size)
            if not answer.done():
                answer.set_result(outcome)

        job = None
        if self._is_for_loop(call):
            self._run(call, tell)
        else:
            job = self._pool.submit(self._run, call, tell)
        try:
            outcome: Outcome = await answer
        except asyncio.CancelledError:
            # The client hung up, or its deadline passed: what has not begun is not run.
            call.caller.gone = True
            if job is not None and job.cancel():
                self._admission.leave(call.size)
            self._read_model(call)
            if call.model is not None:
                code = _why_cancelled(call)
                self._observe(call.model, code.name, time.perf_counter() - call.begun)
            raise
        return outcome

    def _is_for_loop(self, call: _Call) -> bool:
        if self._in_loop is None or call.size > SMALL_BYTES:
            return False
        try:
            self._read(call)
            return self._in_loop(call.request)
        except Exception:
            # `_run` comes upon it again, and tells.
            return True

    def _run(self, call: _Call, tell: Callable[[Outcome], None]) -> None:
        self._begin_call(call, lambda response: self._loop.put(tell, self._outcome(response)))
        # The request is let go by now, or the trim that follows the answer might come too early.
        self._loop.flush()

    def _begin_call(self, call: _Call, done: Done) -> None:
        try:
            self._read(call)
            request, call.request = call.request, None
            if (problem := call.caller.problem()) is not None:
                raise problem
            self._begin(request, call.caller, done)
        except Exception as error:
            # Whatever it is: untold, the caller would wait and its place would stay taken.
            done(error)

    def _read(self, call: _Call) -> None:
        if call.request is not None:
            return
        try:
            call.request = self._request_class.FromString(call.body)
        except DecodeError:
            raise ServingError(
                grpc.StatusCode.INTERNAL, "Exception deserializing request!"
            ) from None
        call.model = self._model_of(call.request)
        # Held until the answer is there, and the request has all that is needed of it.
        call.body = b""

    def _outcome(self, response: Any) -> Outcome:
        if isinstance(response, Exception):
            return self._refusal(response)
        try:
            return Outcome(grpc.StatusCode.OK, body=response.SerializeToString())
        except Exception as error:
            return self._refusal(error)

    def _refusal(self, error: Exception) -> Outcome:
        """What a caller is told: a refusal as it is, of a surprise its kind."""
        if isinstance(error, ServingError):
            return Outcome(error.code, _header_text(error.message))
        log.error("%s failed", self._name, exc_info=error)
        return Outcome(grpc.StatusCode.INTERNAL, _header_text(f"{type(error).__name__}: {error}"))

    def _read_model(self, call: _Call) -> None:
        """Reads the model of a call that nobody works on, for the loop has to count it."""
        if call.model is not None:
            return
        call.model = ""
        # A large request is counted as of no model that is served: a server with too much to do
        # would have to read all of it just for the name.
        if len(call.body) <= SMALL_BYTES:
            try:
                call.model = self._model_of(self._request_class.FromString(call.body))
            except DecodeError:
                call.model = None


def _why_cancelled(call: _Call) -> grpc.StatusCode:
    """Whether it was the deadline, of which a client tells by hanging up.

    It does so a little before the server's clock says so: a timeout is rounded up by as much as a
    hundredth on its way, and begins later by what the way takes.
    """
    deadline = call.caller.deadline
    if deadline is None:
        return grpc.StatusCode.CANCELLED
    waited, left = time.perf_counter() - call.begun, deadline - time.monotonic()
    late = left <= 0.05 + 0.02 * waited
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


def _header_text(message: str) -> str:
    return message.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")


def _deadline(context: grpc.aio.ServicerContext) -> float | None:
    left = context.time_remaining()
    # A call without a deadline may have centuries left.
    return None if left is None or left > 1e9 else time.monotonic() + left
