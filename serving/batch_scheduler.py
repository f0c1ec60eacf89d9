"""Collects calls into batches and runs them on a few threads, as TF Serving's scheduler does."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from serving.batch_parameters import BatchingParameters
from serving.caller import Caller, Done
from serving.errors import ServingError, deadline_exceeded, invalid_argument, shutting_down

log = logging.getLogger(__name__)

# Runs the payloads of a batch; returns an answer, or the exception, of each.
RunBatch = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class _Task:
    payload: Any
    rows: int
    caller: Caller
    enqueued: float
    done: Done

    def end(self, answer: Any) -> None:
        try:
            self.done(answer)
        except Exception:
            # The thread has the answers of others to give.
            log.exception("an answer was lost")


@dataclass(eq=False)
class _Queue:
    run: RunBatch
    tasks: deque[_Task] = field(default_factory=deque)
    rows: int = 0


class BatchScheduler:
    """Queues of calls that may run together, and the threads that run them. Thread-safe.

    Args:
        parameters: see `BatchingParameters`.
        on_batch: told the waiting times in seconds and the rows of the calls of each batch.
        on_answers: called when all calls of a batch have been told their answers.
    """

    def __init__(
        self,
        parameters: BatchingParameters,
        on_batch: Callable[[Sequence[float], Sequence[int]], None] = lambda waits, rows: None,
        on_answers: Callable[[], None] = lambda: None,
    ) -> None:
        self._parameters, self._on_batch, self._on_answers = parameters, on_batch, on_answers
        self._timeout = 1e-6 * parameters.batch_timeout_micros
        self._capacity = parameters.max_enqueued_batches * parameters.execution_batch_size
        self._queues: dict[Hashable, _Queue] = {}
        self._ready = threading.Condition()
        self._stopped = False
        self._threads = [
            threading.Thread(target=self._work, name=f"batch-{index}", daemon=True)
            for index in range(parameters.threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_rows(self) -> int:
        """Rows that wait for a thread."""
        with self._ready:
            return sum(queue.rows for queue in self._queues.values())

    def submit(
        self,
        key: Hashable,
        run: RunBatch,
        payload: Any,
        rows: int,
        caller: Caller,
        done: Done,
    ) -> None:
        """Queues a call and returns at once.

        Args:
            key: calls of one key may share a batch; `run` must be the same for all of them.
            run: runs a batch.
            payload: what `run` gets of this call.
            rows: its rows.
            caller: who waits; a call whose caller has stopped waiting is not run.
            done: told the answer, or an exception: what `run` answered with, or why the call was
                not run.

        Raises:
            ServingError: INVALID_ARGUMENT for more rows than a batch may have,
                RESOURCE_EXHAUSTED when the queue is full; `done` is told nothing then.
        """
        most = self._parameters.execution_batch_size
        if rows > most:
            raise invalid_argument(f"Task size {rows} is larger than maximum batch size {most}")
        task = _Task(payload, rows, caller, time.monotonic(), done)
        with self._ready:
            if self._stopped:
                raise shutting_down()
            queue = self._queues.get(key)
            if queue is None:
                queue = self._queues[key] = _Queue(run)
            if queue.rows + rows > self._capacity:
                raise ServingError(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    "The batch scheduling queue to which this task was submitted is full: "
                    f"{queue.rows} rows wait, max_enqueued_batches * max_batch_size is "
                    f"{self._capacity}",
                )
            queue.tasks.append(task)
            queue.rows += rows
            # A thread that waits is woken for a batch that is due and to learn when a new one will
            # be, not for every row that joins.
            if len(queue.tasks) == 1 or self._due(queue, task.enqueued):
                self._ready.notify()

    def close(self) -> None:
        """Runs what is queued, then ends the threads."""
        with self._ready:
            self._stopped = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while True:
            with self._ready:
                found = self._take()
                while found is None:
                    if self._stopped:
                        return
                    self._ready.wait(self._time_to_next())
                    found = self._take()
                if self._queues:
                    # This thread may be the one that knew when the others are due.
                    self._ready.notify()
            self._run(*found)
            # The next wait may be long, and would keep the last batch's tensors.
            del found

    def _run(self, run: RunBatch, tasks: list[_Task], left: list[_Task]) -> None:
        for task in left:
            task.end(task.caller.problem() or deadline_exceeded())
        if tasks:
            now = time.monotonic()
            self._on_batch([now - task.enqueued for task in tasks], [task.rows for task in tasks])
            try:
                answers = run([task.payload for task in tasks])
            except Exception as error:
                answers = [error] * len(tasks)
            for task, answer in zip(tasks, answers, strict=True):
                task.end(answer)
        self._on_answers()

    def _take(self) -> tuple[RunBatch, list[_Task], list[_Task]] | None:
        now = time.monotonic()
        for key, queue in self._queues.items():
            if not self._due(queue, now):
                continue
            tasks: list[_Task] = []
            left: list[_Task] = []
            rows = 0
            while (
                queue.tasks and rows + queue.tasks[0].rows <= self._parameters.execution_batch_size
            ):
                task = queue.tasks.popleft()
                queue.rows -= task.rows
                if task.caller.problem() is not None:
                    left.append(task)
                    continue
                tasks.append(task)
                rows += task.rows
            # To the end of the line, so that no signature starves another; an empty queue goes,
            # because versions come and go with their keys.
            del self._queues[key]
            if queue.tasks:
                self._queues[key] = queue
            return queue.run, tasks, left
        return None

    def _due(self, queue: _Queue, now: float) -> bool:
        return (
            queue.rows >= self._parameters.execution_batch_size
            or self._stopped
            or queue.tasks[0].enqueued + self._timeout <= now
        )

    def _time_to_next(self) -> float | None:
        oldest = min((queue.tasks[0].enqueued for queue in self._queues.values()), default=None)
        return None if oldest is None else max(0.0, oldest + self._timeout - time.monotonic())
