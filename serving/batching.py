"""A servable whose calls share batches.

A request gets what it would get alone: only calls of one signature and equal shapes are merged, no
input is padded to another's length, and when a batch fails its calls run one by one, so that the
error reaches the request that caused it and no other. Where the parameters allow it, a call of more
rows than a batch is run in pieces, one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import grpc
import numpy as np

from serving.batch_parameters import BatchingParameters
from serving.batch_scheduler import BatchScheduler
from serving.errors import ServingError, invalid_argument
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

    def run(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> list[np.ndarray]:
        """Runs a signature, see `Servable.run`.

        Raises:
            ServingError: INVALID_ARGUMENT when the inputs have no common number of rows or more
                than a batch takes, RESOURCE_EXHAUSTED when the queue is full, DEADLINE_EXCEEDED.
        """
        if not inputs:
            return self._servable.run(signature, inputs, outputs, deadline)
        rows = _rows(inputs)
        if rows == 0:
            return self._servable.run(signature, inputs, outputs, deadline)
        size = self._parameters.execution_batch_size
        if rows <= size:
            answer = self._enqueue(signature, inputs, rows, deadline)
            return [answer[alias] for alias in outputs]
        if rows > self._parameters.max_batch_size:
            raise invalid_argument(
                f"Task size {rows} is larger than maximum batch size "
                f"{self._parameters.max_batch_size}"
            )
        answers = []
        for start in range(0, rows, size):
            piece = {alias: value[start : start + size] for alias, value in inputs.items()}
            answers.append(self._enqueue(signature, piece, min(size, rows - start), deadline))
        return [np.concatenate([answer[alias] for answer in answers]) for alias in outputs]

    def close(self) -> None:
        """Frees the servable. No call may be running."""
        self._servable.close()

    def _enqueue(self, signature: str, inputs: Inputs, rows: int, deadline: float | None) -> Inputs:
        shapes = tuple(value.shape[1:] for value in inputs.values())
        answer: Inputs = self._scheduler.call(
            (id(self), signature, shapes),
            lambda batch: self._run(signature, batch),
            inputs,
            rows,
            deadline,
        )
        return answer

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
    return sizes.pop()
