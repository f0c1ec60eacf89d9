"""Builds the indices over a catalogue, measures them and chooses the ones to serve."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.measurement import Queries, Recall, milliseconds, recall
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.scann import ScaNN
from sid_tfx.retrieval.topk import TopK
from sid_tfx.retrieval.tuning import TUNERS, Trial, Tuned

PORTABLE, SCANN = FLAVOURS = ("portable", "scann")
"""`portable` has core TensorFlow ops only; `scann` may hold ScaNN's as well."""

KINDS = ("auto", "approximate", "scann", "partitioned", "brute_force")
_APPROXIMATE: dict[str, type[ScaNN] | type[Partitioned]] = {
    "partitioned": Partitioned,
    "scann": ScaNN,
}
# The first of each is the flavour's own.
_FLAVOUR_KINDS = {PORTABLE: ("partitioned",), SCANN: ("scann", "partitioned")}
_NAMES = {"scann": "ScaNN", "partitioned": "the partitioned index", "brute_force": "brute force"}
# Near a tie, the exact index is the better one, and the choice should not turn with the timing.
_WORTH = 0.8
# Smaller catalogues get brute force by its speed and have no ads to spare for queries.
_HOLD_OUT_FROM = 5_000
_HOLD_OUT_SHARE = 20


@dataclasses.dataclass(frozen=True)
class Choice:
    """The index to serve in one flavour.

    Attributes:
        index: The index.
        reason: One sentence with the numbers behind the choice.
        recall: Its recall on queries that the tuning never saw: what a gate should judge.
        milliseconds: Time of a single query.
    """

    index: TopK
    reason: str
    recall: Recall
    milliseconds: float


@dataclasses.dataclass(frozen=True)
class Selection:
    """What was measured, and the index of each flavour.

    Attributes:
        choices: Flavour -> the index to serve.
        trials: Every setting that was measured, brute force first.
        k: Neighbours that recall counts.
    """

    choices: dict[str, Choice]
    trials: tuple[Trial, ...]
    k: int


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
    query_vectors: Any = None,
    seed: int = 0,
) -> Selection:
    """Tunes ScaNN and the portable partitioned index by measurement and chooses per flavour.

    Each takes the fastest of its settings that surely reaches the recall target on some of the
    queries. The recall of each is then measured on other queries, and `"auto"` takes the fastest
    that reaches the target there too, or brute force; near a tie, brute force.

    Args:
        candidates: Finite floats [N, D].
        identifiers: Integers or strings [N]; by default the row.
        kind: `"auto"`, or the index to choose: `"scann"` (for the flavour that may hold it),
            `"partitioned"`, `"brute_force"`; `"approximate"` for each flavour's own, ScaNN or the
            partitioned index.
        k: Neighbours that recall counts.
        max_k: Most candidates that any search will ask for, exclusions included.
        recall_target: Recall@k against brute force to reach, (0, 1].
        similarity: `"cosine"` or `"dot_product"`.
        queries: Queries drawn for the tuning, and as many others for the choice's recall; half of
            what there is each where there are fewer.
        query_vectors: Finite floats [M, D] of the kind that will be asked, where that is not the
            candidates' own, to draw the queries from. By default some candidates are: settings
            are tried over an index without them, then the best is built over all and judged by
            others, each left out of its own result. Below 5,000 candidates none is spared, and
            those of the tuning are left out of their results too.
        seed: Draws the queries.

    Returns:
        The choices and everything that was measured.

    Raises:
        ValueError: if an argument is out of range, or the index asked for cannot be built over so
            few candidates, or there are no query vectors.

    Example:

    ```python
    chosen = build_index(np.random.normal(size=(12000, 64))).choices["portable"]
    print(chosen.reason)
    scores, rows = chosen.index(embeddings)
    ```
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {KINDS}, got '{kind}'")
    if not 0 < recall_target <= 1:
        raise ValueError(f"recall_target must be in (0, 1], got {recall_target}")
    demanded = tuple(_APPROXIMATE) if kind == "approximate" else (kind,)
    for name in demanded:
        if name in _APPROXIMATE and (reason := _APPROXIMATE[name].unsuited(len(candidates))):
            raise ValueError(reason)
    matrix = np.asarray(candidates, dtype=np.float32)
    exact = BruteForce(k, similarity, max(max_k, k + 1))
    exact.index(matrix)
    drawn = _drawn(exact, matrix, query_vectors, queries, k, seed)
    tuned: dict[str, Tuned] = {}
    for name, index_class in _APPROXIMATE.items():
        wanted = kind == "auto" or name in demanded or (kind == "scann" and name == "partitioned")
        if wanted and not index_class.unsuited(len(matrix)):
            tuner = TUNERS[name](drawn.searched, drawn.tuning, max(max_k, k + 1), similarity)
            tuned[name] = tuner.tuned(recall_target)
    finalists: dict[str, TopK] = {
        "brute_force": exact,
        **{name: _whole(found.best.index, matrix) for name, found in tuned.items()},
    }
    # Once more, in turns with each other: the best of several trials had luck.
    times = dict(
        zip(
            finalists,
            milliseconds(list(finalists.values()), drawn.tuning, drawn.tuning.k),
            strict=True,
        )
    )
    judged = {name: recall(index, drawn.judging) for name, index in finalists.items()}
    kinds = {
        flavour: _choose(flavour, kind, k, recall_target, tuned, judged, times)
        for flavour in FLAVOURS
    }
    if identifiers is not None:
        for index in finalists.values():
            index.set_identifiers(tf.convert_to_tensor(identifiers))
    return Selection(
        choices={
            flavour: Choice(finalists[name], reason, judged[name], times[name])
            for flavour, (name, reason) in kinds.items()
        },
        trials=(
            Trial(exact, Recall(1.0, 0.0), times["brute_force"]),
            *(trial for found in tuned.values() for trial in found.trials),
        ),
        k=k,
    )


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Queries, and what they search.

    Attributes:
        searched: float32 [M, D], the candidates over which settings are tried.
        tuning: Queries of the tuning, whose neighbours are rows of `searched`.
        judging: Other queries; their neighbours are rows of all candidates.
    """

    searched: np.ndarray
    tuning: Queries
    judging: Queries


def _drawn(
    exact: BruteForce, matrix: np.ndarray, vectors: Any, queries: int, k: int, seed: int
) -> _Drawn:
    """Draws queries for the tuning, and others: of the vectors, or of the candidates where None."""
    if vectors is not None:
        vectors = np.asarray(vectors, np.float32)
        if vectors.ndim != 2 or not len(vectors):
            raise ValueError(
                f"query_vectors must be a non-empty [M, D] matrix, got shape {vectors.shape}"
            )
    size = exact.size if vectors is None else len(vectors)
    order = np.random.default_rng(seed).permutation(size)
    half = min(queries, (size + 1) // 2)
    if vectors is None and size >= _HOLD_OUT_FROM:
        half = min(queries, size // _HOLD_OUT_SHARE)
    # Where there is a single query, there are no others.
    tuning, judging = order[:half], order[half : 2 * half] if size > 1 else order
    if vectors is not None:
        of = functools.partial(Queries.of_vectors, exact, k=k)
        return _Drawn(matrix, of(vectors=vectors[tuning]), of(vectors=vectors[judging]))
    # A new ad's neighbours and those of an ad of the catalogue, itself left out, are one question.
    # The second can be asked of the index that serves, which lacks no ad.
    judged = Queries.make(exact, judging, k)
    if size < _HOLD_OUT_FROM:
        return _Drawn(matrix, Queries.make(exact, tuning, k), judged)
    searched = np.delete(matrix, tuning, axis=0)
    rest = BruteForce(k, exact.similarity)
    rest.index(searched)
    return _Drawn(searched, Queries.of_vectors(rest, matrix[tuning], k), judged)


def _whole(index: TopK, matrix: np.ndarray) -> TopK:
    """The index with the same settings over all candidates, the queries of the tuning too."""
    if index.size == len(matrix):
        return index
    return type(index)(**index.get_config()).index(matrix)


def _choose(
    flavour: str,
    kind: str,
    k: int,
    target: float,
    tuned: dict[str, Tuned],
    judged: dict[str, Recall],
    times: dict[str, float],
) -> tuple[str, str]:
    """The kind to serve in a flavour, and why."""
    possible = [name for name in _FLAVOUR_KINDS[flavour] if name in tuned]
    exact = f"brute force takes {times['brute_force']:.3f} ms"
    numbers = "; ".join(
        f"{_NAMES[name]} reaches recall@{k} "
        f"{min(tuned[name].best.recall.mean, judged[name].mean):.3f} "
        f"(target {target:g}) in {times[name]:.3f} ms a query"
        for name in possible
    )
    numbers = f"{numbers}; {exact}" if possible else exact
    if kind == "approximate":
        return possible[0], f"{numbers}: an index was asked for."
    if kind in possible or kind == "brute_force":
        return kind, f"{numbers}: '{kind}' was asked for."
    if not possible:
        return "brute_force", f"{numbers}, and the catalogue is too small for any other index."
    # What some queries surely met, others miss once in a while.
    met = [name for name in possible if tuned[name].met and judged[name].mean >= target]
    if not met:
        return "brute_force", f"{numbers}: brute force, because nothing else meets the target."
    fastest = min(met, key=times.__getitem__)
    if times[fastest] > _WORTH * times["brute_force"]:
        return "brute_force", (
            f"{numbers}: brute force, because it is exact and as fast on this catalogue."
        )
    return fastest, f"{numbers}: {_NAMES[fastest]}, because it is the fastest at that recall."
