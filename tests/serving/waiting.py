"""Calls that tests wait for; the server itself begins them and is told the answer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from serving.batch_scheduler import BatchScheduler, RunBatch
from serving.caller import Caller, answer_of
from serving.servable import Runnable


def run(
    servable: Runnable, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
) -> list[np.ndarray]:
    """What a run of a signature answers."""
    answer: list[np.ndarray] = answer_of(
        lambda done: servable.submit(signature, inputs, outputs, Caller(), done), None
    )
    return answer


def schedule(
    scheduler: BatchScheduler,
    key: Hashable,
    run: RunBatch,
    payload: Any,
    rows: int,
    deadline: float | None,
) -> Any:
    """What a call of a scheduler is answered."""
    caller = Caller(deadline)
    return answer_of(lambda done: scheduler.submit(key, run, payload, rows, caller, done), deadline)
