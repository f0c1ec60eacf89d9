"""How requests are batched: TF Serving's `BatchingParameters` and their defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from serving.config_protos import read_config


@dataclass(frozen=True)
class BatchingParameters:
    """TF Serving's parameters by their names.

    Args:
        max_batch_size: rows of a request at most, and of a batch where none is split.
        batch_timeout_micros: how long a batch that is not full waits for more rows.
        max_enqueued_batches: batches that may wait for a thread, per signature; a request past
            them is refused with RESOURCE_EXHAUSTED.
        num_batch_threads: batches that run at once; 0 takes the number of cores.
        thread_pool_name: label of the queueing metrics.
        allowed_batch_sizes: sizes a batch is padded to, ascending, the last one
            `execution_batch_size`; empty for no padding.
        pad_variable_length_inputs: accepted, and needs nothing done: requests whose inputs
            differ in shape are never merged, so none has to be padded to another's length.
        enable_large_batch_splitting: whether a request of more rows than a batch is run in
            several.
        max_execution_batch_size: rows of a batch at most where requests are split; None for
            `max_batch_size`. Without splitting it is not read.

    Raises:
        ValueError: a parameter is out of range; the message names it.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = 0
    thread_pool_name: str = "batch_threads"
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_enqueued_batches"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: give at least 1")
        for name in ("batch_timeout_micros", "num_batch_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: give 0 or more")
        most = self.execution_batch_size
        if not 1 <= most <= self.max_batch_size:
            raise ValueError(
                f"max_execution_batch_size is {most}: give 1 to max_batch_size, "
                f"{self.max_batch_size}"
            )
        sizes = self.allowed_batch_sizes
        if sizes and (list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] != most):
            raise ValueError(
                f"allowed_batch_sizes is {list(sizes)}: give ascending sizes of which the last is "
                f"the largest batch, {most}"
            )

    @property
    def execution_batch_size(self) -> int:
        """The rows a batch has at most."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    @property
    def threads(self) -> int:
        """The number of batch threads."""
        return self.num_batch_threads or len(os.sched_getaffinity(0))

    def padded(self, rows: int) -> int:
        """The size of the batch that `rows` rows run in."""
        return next((size for size in self.allowed_batch_sizes if size >= rows), rows)


def read_batching_parameters(path: Path) -> BatchingParameters:
    """Reads a `--batching_parameters_file`.

    Raises:
        ValueError: the file cannot be read, or a parameter is out of range.
    """
    proto = read_config(path, "BatchingParameters")
    given = {
        descriptor.name: value.value if descriptor.message_type else value
        for descriptor, value in proto.ListFields()
    }
    if "allowed_batch_sizes" in given:
        given["allowed_batch_sizes"] = tuple(given["allowed_batch_sizes"])
    try:
        return BatchingParameters(**given)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
