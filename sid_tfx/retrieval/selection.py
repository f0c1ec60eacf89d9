"""Measures an index against brute force and chooses the one to serve."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.topk import TopK

_KINDS = ("auto", "scann", "brute_force")
_LEAF_SHARES = (0.1, 0.2, 0.4, 0.7, 1.0)


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What one index does on a set of queries.

    Attributes:
        recall: Share of the true k nearest neighbours that the index returns; a candidate that
            scores as high as the k-th true neighbour counts, so ties do not depend on ids.
        median_ms: Median milliseconds of a search with one query.
    """

    recall: float
    median_ms: float


@dataclasses.dataclass(frozen=True)
class Selection:
    """The index to serve, and why.

    Attributes:
        kind: `"scann"` or `"brute_force"`: the index chosen.
        reason: One sentence with the numbers behind the choice.
        brute_force: The exact index.
        exact: Its measurement.
        scann: The ScaNN index, chosen or not; None where the catalogue does not permit one.
        approximate: Its measurement.
    """

    kind: str
    reason: str
    brute_force: BruteForce
    exact: Measurement
    scann: ScaNN | None
    approximate: Measurement | None

    @property
    def index(self) -> TopK:
        """The chosen index."""
        if self.kind == "scann" and self.scann is not None:
            return self.scann
        return self.brute_force


def measure(
    index: TopK,
    exact: BruteForce,
    queries: Any,
    k: int = 10,
    exclusions: Any = None,
    repeats: int = 100,
) -> Measurement:
    """Measures recall against brute force, and latency.

    Args:
        index: The index to measure.
        exact: Brute force over the same candidates.
        queries: Floats [B, D].
        k: Neighbours that count.
        exclusions: Identifiers [B, E] that count for neither index: a query that is itself a
            candidate finds itself, which says nothing.
        repeats: Timed searches with one query each.

    Returns:
        The measurement.
    """
    queries = tf.cast(queries, tf.float32)
    if exclusions is None:
        exclusions = tf.zeros([len(queries), 0], index.identifiers.dtype)
    exclusions = tf.convert_to_tensor(exclusions)
    k = min(k, max(1, exact.size - int(exclusions.shape[1])))
    found, _ = index.query_with_exclusions(queries, exclusions, k)
    true, _ = exact.query_with_exclusions(queries, exclusions, k)
    last = true[:, -1:]
    hits = found >= last - 1e-5 * tf.maximum(1.0, tf.abs(last))
    recall = float(tf.reduce_mean(tf.cast(hits, tf.float32)))
    return Measurement(recall, _median_ms(index, queries, k, repeats))


def _median_ms(index: TopK, queries: tf.Tensor, k: int, repeats: int) -> float:
    @tf.function(autograph=False)
    def search(query: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index(query, k)

    singles = [queries[row : row + 1] for row in range(min(len(queries), repeats))]
    for query in singles[:5]:
        search(query)
    return statistics.median(
        _milliseconds(search, singles[turn % len(singles)]) for turn in range(repeats)
    )


def _milliseconds(search: Callable[[tf.Tensor], Any], query: tf.Tensor) -> float:
    start = time.perf_counter()
    search(query)[0].numpy()
    return (time.perf_counter() - start) * 1e3


def build_index(
    candidates: Any,
    identifiers: Any = None,
    *,
    kind: str = "auto",
    k: int = 10,
    max_k: int = 100,
    recall_target: float = 0.95,
    similarity: str = "cosine",
    queries: int = 512,
    seed: int = 0,
) -> Selection:
    """Builds brute force and, where the catalogue permits, ScaNN, measures both and chooses.

    ScaNN reads more and more of its partitions until it meets the recall target. `"auto"` takes it
    where it meets the target and is faster than brute force.

    Args:
        candidates: Finite floats [N, D].
        identifiers: Integers or strings [N]; by default the row.
        kind: `"auto"`, or the index to choose: `"scann"`, `"brute_force"`.
        k: Neighbours that recall counts.
        max_k: Most candidates that any search will ask for, exclusions included.
        recall_target: Recall@k against brute force that ScaNN must reach, (0, 1].
        similarity: `"cosine"` or `"dot_product"`.
        queries: Candidates drawn as queries; each is excluded from its own result.
        seed: Draws the queries.

    Returns:
        Both indices, their measurements and the choice.

    Raises:
        ValueError: if an argument is out of range, or ScaNN is asked of too small a catalogue.

    Example:

    ```python
    chosen = build_index(np.random.normal(size=(12000, 64)))
    print(chosen.reason)
    scores, rows = chosen.index(embeddings)
    ```
    """
    if kind not in _KINDS:
        raise ValueError(f"kind must be one of {_KINDS}, got '{kind}'")
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target must be in (0, 1], got {recall_target}")
    matrix = np.asarray(candidates, dtype=np.float32)
    brute_force = BruteForce(k, similarity)
    brute_force.index(matrix, identifiers)
    rows = np.random.default_rng(seed).permutation(len(matrix))[:queries]
    own = tf.gather(brute_force.identifiers, rows)[:, None]
    exact = measure(brute_force, brute_force, matrix[rows], k, own)
    unsuited = ScaNN.unsuited(len(matrix))
    if unsuited:
        if kind == "scann":
            raise ValueError(unsuited)
        return Selection("brute_force", unsuited, brute_force, exact, None, None)
    scann, approximate = _tune(matrix, identifiers, brute_force, rows, own, max_k, recall_target)
    chosen, reason = _choose(kind, k, recall_target, exact, approximate)
    return Selection(chosen, reason, brute_force, exact, scann, approximate)


def _tune(
    matrix: np.ndarray,
    identifiers: Any,
    exact: BruteForce,
    rows: np.ndarray,
    own: tf.Tensor,
    max_k: int,
    recall_target: float,
) -> tuple[ScaNN, Measurement]:
    leaves = max(2, math.isqrt(len(matrix)))
    for share in _LEAF_SHARES:
        index = ScaNN(
            exact.k,
            exact.similarity,
            max_k=max(max_k, exact.k + 1),
            num_leaves=leaves,
            num_leaves_to_search=max(1, math.ceil(share * leaves)),
        )
        index.index(matrix, identifiers)
        measured = measure(index, exact, matrix[rows], exact.k, own)
        if measured.recall >= recall_target:
            break
    return index, measured


def _choose(
    kind: str, k: int, target: float, exact: Measurement, approximate: Measurement
) -> tuple[str, str]:
    numbers = (
        f"ScaNN reaches recall@{k} {approximate.recall:.3f} (target {target:g}) in "
        f"{approximate.median_ms:.2f} ms a query, brute force takes {exact.median_ms:.2f} ms"
    )
    if kind != "auto":
        return kind, f"{numbers}; '{kind}' was asked for."
    if approximate.recall < target:
        return "brute_force", f"{numbers}: brute force, because ScaNN misses the target."
    if approximate.median_ms >= exact.median_ms:
        return "brute_force", f"{numbers}: brute force, because it is faster on this catalogue."
    return "scann", f"{numbers}: ScaNN, because it is faster at that recall."
