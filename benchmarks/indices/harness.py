"""Builds one index, finds the cheapest search that reaches each recall, and times it.

Every index goes through this file, ours and the peers', so that all are measured alike.
"""

from __future__ import annotations

import abc
import ctypes
import dataclasses
import gc
import json
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

_RECALL_BLOCK = 64
_TIMED_CALLS = 20
_MB = 1e6
_NOTHING = object()


class Subject(abc.ABC):
    """An index over unit vectors, searched by inner product.

    Attributes:
        name: what the records call it.
        efforts: settings of the search, cheapest first; known once built.
    """

    name: str
    efforts: Sequence[int] = (0,)

    def tune(self, vectors: np.ndarray, k: int, targets: Sequence[float]) -> None:  # noqa: B027
        """Finds out how to build the index for each recall; nothing where that is fixed."""

    def plan(self, target: float) -> Hashable:
        """Takes on what `build` follows for a recall; one plan is built once."""
        return None

    @abc.abstractmethod
    def build(self, vectors: np.ndarray) -> None:
        """Builds the index over float32 [N, D]."""

    @abc.abstractmethod
    def search(self, queries: np.ndarray, k: int, effort: int) -> np.ndarray:
        """Rows [B, k] of the nearest vectors, best first; -1 where none was found."""

    def settle(self, effort: int, k: int) -> None:  # noqa: B027
        """Prepares for many searches at this effort, where that is not a mere parameter."""

    def serving_mb(self, before: float) -> float:
        """Resident megabytes that searches need, over the `before` of this process unbuilt."""
        return resident_mb() - before

    @abc.abstractmethod
    def index_bytes(self) -> int:
        """Bytes of the index as it is stored, the vectors included if it keeps them."""


@dataclasses.dataclass(frozen=True)
class Job:
    """What is asked of every index.

    Args:
        folder: holds `vectors.npy` [N, D] and `queries.npy` [Q, D], both float32, unit rows.
        k: neighbours wanted.
        batches: queries per call, each timed.
        recall_targets: recall@k to reach, ascending.
        seconds: least time spent timing each batch size.
        threads: threads of a search.
    """

    folder: Path
    k: int
    batches: tuple[int, ...]
    recall_targets: tuple[float, ...]
    seconds: float
    threads: int

    def save(self) -> None:
        """Writes `job.json` into the folder."""
        fields = {**dataclasses.asdict(self), "folder": str(self.folder)}
        (self.folder / "job.json").write_text(json.dumps(fields))

    @classmethod
    def load(cls, folder: Path) -> Job:
        """Reads what `save` wrote."""
        fields = json.loads((folder / "job.json").read_text())
        return cls(
            folder=folder,
            k=fields["k"],
            batches=tuple(fields["batches"]),
            recall_targets=tuple(fields["recall_targets"]),
            seconds=fields["seconds"],
            threads=fields["threads"],
        )


def kth_scores(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Score of the true k-th neighbour of each query, float32 [Q]."""
    found = [
        np.partition(block @ vectors.T, -k, axis=1)[:, -k]
        for block in np.array_split(queries, max(1, len(queries) // _RECALL_BLOCK))
    ]
    return np.concatenate(found)


def recall(
    rows: np.ndarray, vectors: np.ndarray, queries: np.ndarray, kth: np.ndarray, k: int
) -> float:
    """Share of the true k neighbours among `rows` [Q, k]; ties with the k-th count.

    A row named twice counts once.
    """
    scores = np.einsum("qkd,qd->qk", vectors[np.maximum(rows, 0)], queries)
    ordered = np.sort(rows, axis=1)
    repeated = int((ordered[:, 1:] == ordered[:, :-1])[ordered[:, 1:] >= 0].sum())
    hits = int(((scores >= kth[:, None] - 1e-5) & (rows >= 0)).sum()) - repeated
    return hits / (len(queries) * k)


def run(job: Job, subject: Subject) -> list[dict[str, Any]]:
    """Measures one index.

    Returns:
        A flat record for every recall target and batch size.
    """
    vectors = np.load(job.folder / "vectors.npy")
    queries = np.load(job.folder / "queries.npy")
    kth = np.load(job.folder / "kth_scores.npy")

    def found(effort: int) -> float:
        blocks = [
            subject.search(queries[start : start + _RECALL_BLOCK], job.k, effort)
            for start in range(0, len(queries), _RECALL_BLOCK)
        ]
        return recall(np.concatenate(blocks), vectors, queries, kth, job.k)

    before = resident_mb()
    begin = time.perf_counter()
    subject.tune(vectors, job.k, job.recall_targets)
    tuning_seconds = time.perf_counter() - begin
    records: list[dict[str, Any]] = []
    built: Hashable = _NOTHING
    for target in job.recall_targets:
        plan = subject.plan(target)
        if plan != built:
            begin = time.perf_counter()
            subject.build(vectors)
            build_seconds, built = time.perf_counter() - begin, plan
        effort, reached = _cheapest(subject, found, target, job.k)
        records += [
            {
                "subject": subject.name,
                "vectors": len(vectors),
                "dimensions": vectors.shape[1],
                "recall_target": target,
                f"recall@{job.k}": round(reached, 4),
                "effort": effort,
                "batch": batch,
                "threads": job.threads,
                "queries_per_second": round(_throughput(job, subject, queries, batch, effort), 1),
                "build_seconds": round(build_seconds, 3),
                "tuning_seconds": round(tuning_seconds, 3),
                "index_mb": round(subject.index_bytes() / _MB, 1),
            }
            for batch in job.batches
        ]
    memory_mb = round(subject.serving_mb(before), 1)
    return [{**record, "memory_mb": memory_mb} for record in records]


def main(folder: str, subject: Subject) -> None:
    """Runs the job of a folder and leaves `records.json` there."""
    job = Job.load(Path(folder))
    (job.folder / "records.json").write_text(json.dumps(run(job, subject)))


def geometric(most: int) -> tuple[int, ...]:
    """1, 2, 3, 4, 5, 8, ... up to `most`: each about 1.4 times the one before."""
    steps = {round(1.4**power) for power in range(100)}
    return (*sorted(step for step in steps if step < most), most)


def _cheapest(
    subject: Subject, found: Callable[[int], float], target: float, k: int
) -> tuple[int, float]:
    """The first effort that reaches the target, settled, else the last one, and its recall."""
    reached = 0.0
    for effort in subject.efforts:
        last = effort == subject.efforts[-1]
        if found(effort) < target and not last:
            continue
        subject.settle(effort, k)
        # Some indices are trained anew for an effort and no two trainings are equal.
        reached = found(effort)
        if reached >= target:
            return effort, reached
    return subject.efforts[-1], reached


def _throughput(job: Job, subject: Subject, queries: np.ndarray, batch: int, effort: int) -> float:
    """Queries per second from the median call."""
    batch = min(batch, len(queries))
    blocks = [
        np.ascontiguousarray(queries[start : start + batch])
        for start in range(0, len(queries) - batch + 1, batch)
    ]
    for block in blocks[:5]:
        subject.search(block, job.k, effort)
    seconds: list[float] = []
    end = time.perf_counter() + job.seconds
    while len(seconds) < _TIMED_CALLS or time.perf_counter() < end:
        block = blocks[len(seconds) % len(blocks)]
        begin = time.perf_counter()
        subject.search(block, job.k, effort)
        seconds.append(time.perf_counter() - begin)
    return batch / float(np.median(seconds))


def resident_mb() -> float:
    """Resident megabytes of this process, what is free given back first."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
    return psutil.Process().memory_info().rss / _MB
