"""An event loop in a thread of its own, and the way answers from other threads get into it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Runs coroutines for threads. `put` and `flush` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._told: deque[tuple[Callable[[Any], None], Any]] = deque()

    def start(self) -> None:
        """Begins to run."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="grpc", daemon=True)
        self._thread.start()

    def begin(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Begins a coroutine."""
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Waits for what a coroutine returns."""
        return self.begin(coroutine).result()

    def put(self, tell: Callable[[Any], None], answer: Any) -> None:
        """Has the loop call `tell(answer)`, at the next `flush`.

        To wake the loop costs more than to tell it one answer more, and gives the interpreter away
        while the others of a batch are still to come: so both are steps of their own.
        """
        self._told.append((tell, answer))

    def flush(self) -> None:
        """Wakes the loop for what was put."""
        if self._told:
            self.soon(self._tell_all)

    def soon(self, call: Callable[[], None]) -> None:
        """Has the loop make a call; one that has ended, or not begun, makes none."""
        if self._loop is not None:
            # An answer that comes after the end finds the loop closed, and nobody who waits.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call)

    def close(self) -> None:
        """Cancels what still runs and ends the thread."""
        if self._loop is None or self._thread is None or self._loop.is_closed():
            return
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _tell_all(self) -> None:
        while self._told:
            tell, answer = self._told.popleft()
            tell(answer)


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
