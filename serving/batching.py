"""A servable whose calls share batches.

A request gets what it would get alone: only calls of one signature and equal shapes are merged, no
input is padded to another's length, and when a batch fails its calls run one by one, so that the
error reaches the request that caused it and no other. Where the parameters allow it, a call of more
rows than a batch is run in pieces, as many at once as there are threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

import grpc
import numpy as np

from serving.batch_parameters import BatchingParameters
from serving.batch_scheduler import BatchScheduler
from serving.caller import Caller, Done
from serving.errors import ServingError, check_rows, invalid_argument
from serving.servable import Servable

Inputs = Mapping[str, np.ndarray]


class BatchingServable:
    """Runs a servable's signatures in batches. Thread-safe.

    Args:
        servable: the loaded model.
        scheduler: shared by all models of a server.
        parameters: the scheduler's.
    """

    def __init__(
        self, servable: Servable, scheduler: BatchScheduler, parameters: BatchingParameters
    ) -> None:
        self._servable, self._scheduler, self._parameters = servable, scheduler, parameters
        self.path, self.name, self.version = servable.path, servable.name, servable.version
        self.signatures, self.meta_graph = servable.signatures, servable.meta_graph

    def submit(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        caller: Caller,
        done: Done,
    ) -> None:
        """Queues a run of a signature and returns at once, see `Servable.submit`.

        Raises:
            ServingError: INVALID_ARGUMENT when the inputs have no common number of rows or more
                than a batch takes, RESOURCE_EXHAUSTED when the queue is full; `done` is told
                nothing then. DEADLINE_EXCEEDED is for `done`.
        """
        rows, size = _rows(inputs), self._parameters.execution_batch_size
        check_rows(rows, self._parameters.max_batch_size)

        def join(answers: list[Inputs] | Exception) -> None:
            if isinstance(answers, Exception):
                done(answers)
            elif len(answers) == 1:
                done([answers[0][alias] for alias in outputs])
            else:
                done([np.concatenate([answer[alias] for answer in answers]) for alias in outputs])

        if rows <= size:
            self._queue(signature, inputs, caller, lambda answer: join(_listed(answer)))
            return
        pieces = [
            {alias: value[start : start + size] for alias, value in inputs.items()}
            for start in range(0, rows, size)
        ]
        _Pieces(partial(self._queue, signature, caller=caller), pieces, join).start(
            self._parameters.threads
        )

    def close(self) -> None:
        """Frees the servable. No call may be running."""
        self._servable.close()

    def _queue(
        self,
        signature: str,
        inputs: Inputs,
        caller: Caller,
        done: Callable[[Inputs | Exception], None],
    ) -> None:
        """Queues what fits into a batch."""
        rows = _rows(inputs)
        if rows == 0:
            # No row tells its answer from another's: such a call shares its batch with none.
            key: Hashable = object()
            self._scheduler.submit(
                key, lambda batch: [self._run_alone(signature, inputs)], inputs, 0, caller, done
            )
            return
        shapes = tuple([value.shape[1:] for value in inputs.values()])
        self._scheduler.submit(
            (id(self), signature, shapes),
            lambda batch: self._run(signature, batch),
            inputs,
            rows,
            caller,
            done,
        )

    def _run_alone(self, signature: str, inputs: Inputs) -> Inputs:
        aliases = list(self.signatures[signature].outputs)
        return dict(zip(aliases, self._servable.run(signature, inputs, aliases), strict=True))

    def _run(self, signature: str, batch: Sequence[Inputs]) -> list:
        try:
            return self._run_merged(signature, batch)
        except Exception as error:
            if len(batch) == 1:
                return [error]
        return [self._run(signature, [inputs])[0] for inputs in batch]

    def _run_merged(self, signature: str, batch: Sequence[Inputs]) -> list[Inputs]:
        sizes = [_rows(inputs) for inputs in batch]
        rows = sum(sizes)
        padding = self._parameters.padded(rows) - rows
        merged = batch[0] if len(batch) == 1 and not padding else _merge(batch, padding)
        aliases = list(self.signatures[signature].outputs)
        values = self._servable.run(signature, merged, aliases)
        for alias, value in zip(aliases, values, strict=True):
            if value.ndim == 0 or len(value) != rows + padding:
                raise ServingError(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"Batched output tensor {alias} has shape {list(value.shape)}: its 0th "
                    "dimension does not equal the sum of the 0th dimension sizes of the input "
                    "tensors",
                )
        if len(batch) == 1 and not padding:
            return [dict(zip(aliases, values, strict=True))]
        ends = np.cumsum(sizes)
        return [
            {alias: value[end - size : end] for alias, value in zip(aliases, values, strict=True)}
            for size, end in zip(sizes, ends, strict=True)
        ]


class _Pieces:
    """The pieces of one call; tells what they come to once none of them runs any more.

    Args:
        queue: queues one piece; may raise instead.
        pieces: at least one.
        done: told the answers in the order of the pieces, or the first error.
    """

    def __init__(
        self,
        queue: Callable[..., None],
        pieces: Sequence[Inputs],
        done: Callable[[list[Inputs] | Exception], None],
    ) -> None:
        self._queue, self._pieces, self._done = queue, pieces, done
        self._answers: list[Inputs] = [{} for _ in pieces]
        self._waiting = deque(range(len(pieces)))
        self._running = 0
        self._error: Exception | None = None
        self._lock = threading.Lock()

    def start(self, at_once: int) -> None:
        """Queues as many pieces; each that is answered makes room for a further one.

        Raises:
            ServingError: of the first piece, which was not queued; `done` is told nothing then.
        """
        with self._lock:
            first = self._take()
        assert first is not None
        self._submit(first)
        for _ in range(at_once - 1):
            with self._lock:
                index = self._take()
            if index is None:
                return
            self._begin(index)

    def _take(self) -> int | None:
        """The next piece to queue; none after an error."""
        if self._error is not None or not self._waiting:
            return None
        self._running += 1
        return self._waiting.popleft()

    def _submit(self, index: int) -> None:
        self._queue(inputs=self._pieces[index], done=partial(self._answered, index))

    def _begin(self, index: int) -> None:
        # Once more where the last of the others is answered between the refusal and the look.
        for _ in range(2):
            try:
                self._submit(index)
                return
            except ServingError as error:
                refusal = error
            with self._lock:
                if self._running > 1:
                    # No room for two of them: when another one is answered there may be.
                    self._running -= 1
                    self._waiting.appendleft(index)
                    return
        self._answered(index, refusal)

    def _answered(self, index: int, answer: Inputs | Exception) -> None:
        with self._lock:
            self._running -= 1
            if isinstance(answer, Exception):
                self._error = self._error or answer
            else:
                self._answers[index] = answer
            following = self._take()
            over = self._running == 0
        if following is not None:
            self._begin(following)
        elif over:
            # Not before: the model may be unloaded as soon as nobody waits for it.
            self._done(self._error or self._answers)


def _listed(answer: Inputs | Exception) -> list[Inputs] | Exception:
    return answer if isinstance(answer, Exception) else [answer]


def _merge(batch: Sequence[Inputs], padding: int) -> dict[str, np.ndarray]:
    merged = {}
    for alias in batch[0]:
        parts = [inputs[alias] for inputs in batch]
        if padding:
            # A row of a real request: safe for a graph that asserts something of its inputs.
            parts.append(np.repeat(parts[-1][:1], padding, axis=0))
        merged[alias] = np.concatenate(parts)
    return merged


def _rows(inputs: Inputs) -> int:
    if any(value.ndim == 0 for value in inputs.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {len(value) for value in inputs.values()}
    if len(sizes) > 1:
        raise invalid_argument(
            "Batching Run() input tensors must have equal 0th-dimension size, got "
            f"{ {alias: len(value) for alias, value in inputs.items()} }"
        )
    # No inputs, no rows: nothing that a batch could be made of.
    return sizes.pop() if sizes else 0
