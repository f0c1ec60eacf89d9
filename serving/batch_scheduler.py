"""Collects calls into batches and runs them on a few threads, as TF Serving's scheduler does."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from serving.batch_parameters import BatchingParameters
from serving.errors import ServingError, deadline_exceeded, invalid_argument, shutting_down

# Runs the payloads of a batch; returns an answer, or the exception, of each.
RunBatch = Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(eq=False)
class _Task:
    payload: Any
    rows: int
    deadline: float | None
    enqueued: float
    # A bare lock, released when the answer is there: an Event costs several times as much.
    done: threading.Lock = field(default_factory=threading.Lock)
    abandoned: bool = False
    answer: Any = None

    def __post_init__(self) -> None:
        self.done.acquire()


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
    """

    def __init__(
        self,
        parameters: BatchingParameters,
        on_batch: Callable[[Sequence[float], Sequence[int]], None] = lambda waits, rows: None,
    ) -> None:
        self._parameters, self._on_batch = parameters, on_batch
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

    def call(
        self, key: Hashable, run: RunBatch, payload: Any, rows: int, deadline: float | None
    ) -> Any:
        """Waits for the answer to one call.

        Args:
            key: calls of one key may share a batch; `run` must be the same for all of them.
            run: runs a batch.
            payload: what `run` gets of this call.
            rows: its rows.
            deadline: `time.monotonic()` past which nobody waits any more.

        Raises:
            ServingError: INVALID_ARGUMENT for more rows than a batch may have,
                RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED.
            Exception: what `run` answered with.
        """
        most = self._parameters.execution_batch_size
        if rows > most:
            raise invalid_argument(f"Task size {rows} is larger than maximum batch size {most}")
        task = _Task(payload, rows, deadline, time.monotonic())
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
            self._ready.notify()
        if deadline is None:
            task.done.acquire()
        elif not task.done.acquire(timeout=max(0.0, deadline - time.monotonic())):
            task.abandoned = True
            raise deadline_exceeded()
        if isinstance(task.answer, BaseException):
            raise task.answer
        return task.answer

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
            run, tasks = found
            now = time.monotonic()
            self._on_batch([now - task.enqueued for task in tasks], [task.rows for task in tasks])
            try:
                answers = run([task.payload for task in tasks])
            except Exception as error:
                answers = [error] * len(tasks)
            for task, answer in zip(tasks, answers, strict=True):
                task.answer = answer
                task.done.release()
            # The next wait may be long, and would keep the last batch's tensors.
            del found, run, tasks, answers

    def _take(self) -> tuple[RunBatch, list[_Task]] | None:
        now = time.monotonic()
        for key, queue in self._queues.items():
            if not self._due(queue, now):
                continue
            tasks, rows = [], 0
            while (
                queue.tasks and rows + queue.tasks[0].rows <= self._parameters.execution_batch_size
            ):
                task = queue.tasks.popleft()
                queue.rows -= task.rows
                if task.abandoned or (task.deadline is not None and task.deadline < now):
                    task.answer = deadline_exceeded()
                    task.done.release()
                    continue
                tasks.append(task)
                rows += task.rows
            # To the end of the line, so that no signature starves another; an empty queue goes,
            # because versions come and go with their keys.
            del self._queues[key]
            if queue.tasks:
                self._queues[key] = queue
            if tasks:
                return queue.run, tasks
            return self._take()
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
