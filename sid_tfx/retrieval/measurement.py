"""What an index does on queries whose true neighbours are known: recall, and time."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.brute_force import BruteForce
from sid_tfx.retrieval.partitioned import Partitioned
from sid_tfx.retrieval.topk import TopK

_BLOCK = 32
_TIMED_QUERIES = 32
_ROUNDS = 5


@dataclasses.dataclass(frozen=True)
class Recall:
    """Share of the true nearest neighbours that an index returns, over a sample of queries.

    Attributes:
        mean: The share.
        error: Its standard error.
    """

    mean: float
    error: float

    @classmethod
    def of(cls, hits: np.ndarray) -> Recall:
        """The recall of hits, bool [queries, k]."""
        shares = hits.mean(axis=1)
        return cls(float(shares.mean()), float(shares.std() / math.sqrt(len(shares))))

    def surely(self, target: float) -> bool:
        """Whether another sample of as many queries reaches the target too.

        Three standard errors of the difference of two samples lie between.
        """
        return self.mean >= 1.0 or self.mean - 3 * math.sqrt(2) * self.error >= target


@dataclasses.dataclass(frozen=True)
class Queries:
    """Queries whose true neighbours are known.

    Where they are candidates, each is left out of its own result: it would find itself.

    Attributes:
        vectors: float32 [Q, D].
        own: int32 [Q], the row that each one is; -1 where it is no candidate.
        neighbours: int32 [Q, k], rows of the true nearest, best first; -1 past the last.
        kth: float32 [Q], score of the last of them.
    """

    vectors: np.ndarray
    own: np.ndarray
    neighbours: np.ndarray
    kth: np.ndarray

    @classmethod
    def make(cls, exact: BruteForce, rows: np.ndarray, k: int) -> Queries:
        """Searches exactly for the neighbours that some rows have among the others.

        Args:
            exact: Brute force; its identifiers are its rows.
            rows: int32 [Q].
            k: Neighbours wanted, fewer where there are fewer.
        """
        rows = rows.astype(np.int32)
        vectors = exact.vectors(rows).numpy()
        return cls._of(exact, vectors, rows, min(k, max(1, exact.size - 1)))

    @classmethod
    def of_vectors(cls, exact: BruteForce, vectors: np.ndarray, k: int) -> Queries:
        """Searches exactly for the neighbours of vectors that are no candidates.

        Args:
            exact: As for `make`.
            vectors: float32 [Q, D].
            k: As for `make`.
        """
        return cls._of(exact, vectors, np.full(len(vectors), -1, np.int32), min(k, exact.size))

    @classmethod
    def _of(cls, exact: BruteForce, vectors: np.ndarray, own: np.ndarray, k: int) -> Queries:
        scores, neighbours = _search(exact, vectors, own, k)
        return cls(vectors, own, neighbours, scores[:, -1])

    @property
    def k(self) -> int:
        """Neighbours that count."""
        return self.neighbours.shape[1]


def recall(index: TopK, queries: Queries) -> Recall:
    """Measures the recall of an index whose identifiers are its rows.

    A candidate that scores as high as the k-th true neighbour counts, so ties do not depend on
    rows.
    """
    found, _ = _search(index, queries.vectors, queries.own, queries.k)
    last = queries.kth[:, None]
    return Recall.of(found >= last - 1e-5 * np.maximum(1.0, np.abs(last)))


def _search(
    index: TopK, vectors: np.ndarray, own: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    def search(queries: tf.Tensor, exclusions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return index.query_with_exclusions(queries, exclusions, k)

    if isinstance(index, Partitioned):
        # Its loop over queries is slow outside of a graph; the others are not worth a tracing.
        search = tf.function(search, autograph=False, reduce_retracing=True)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(own), _BLOCK)]
    found = [search(vectors[block], own[block, None]) for block in blocks]
    scores, rows = zip(*found, strict=True)
    return tf.concat(scores, axis=0).numpy(), tf.concat(rows, axis=0).numpy()


def milliseconds(
    indices: Sequence[TopK], queries: Queries, k: int, rounds: int = _ROUNDS
) -> list[float]:
    """Times single queries, round by round over all indices, so that other work falls on all.

    The queries of a round follow one another inside one graph: the call of a TensorFlow function
    from Python costs more than a search of a small index, and no request pays it.

    Args:
        indices: What to time.
        queries: Where the queries come from.
        k: Neighbours that a search asks for.
        rounds: Rounds; the fastest one counts.

    Returns:
        Milliseconds a query, for each index.
    """
    vectors = tf.constant(queries.vectors[:_TIMED_QUERIES])
    loops = [_loop(index, vectors.shape, k) for index in indices]
    best = [math.inf] * len(loops)
    for turn in range(rounds + 1):
        for place, loop in enumerate(loops):
            # As in the servable, where ads can be switched off.
            live = tf.ones([indices[place].size], tf.bool)
            begin = time.perf_counter()
            loop(vectors, live).numpy()
            if turn:
                best[place] = min(best[place], time.perf_counter() - begin)
    return [1e3 * seconds / len(vectors) for seconds in best]


def _loop(
    index: TopK, shape: tf.TensorShape, k: int
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    def loop(queries: tf.Tensor, live: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(
            lambda query: index(query[None], k, live)[0][0],
            queries,
            fn_output_signature=tf.float32,
            parallel_iterations=1,
        )

    specs = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec([index.size], tf.bool))
    return tf.function(loop, autograph=False).get_concrete_function(*specs)
