"""The interface that every index implements."""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from sid_tfx.table_rows import gather_rows

PADDING_SCORE = float(np.finfo(np.float32).min)
"""Score of a column that holds no candidate: finite, so that it survives JSON, and below any."""

_SIMILARITIES = ("dot_product", "cosine")


class TopK(tf.Module, abc.ABC):
    """Retrieves the candidates with the highest similarity to each query.

    An index is a `tf.Module`: assign it to an attribute of the module that is exported and call it
    inside a `tf.function`. Every search returns exactly `k` columns, best first. Where fewer
    candidates are found, the rest have the score `PADDING_SCORE` and the identifier -1 (integers)
    or `""` (strings).

    Args:
        k: Default number of candidates to retrieve.
        similarity: `"dot_product"`, or `"cosine"` to normalize candidates and queries first.
        max_k: Most candidates that any search asks for, exclusions included: what the index is
            sized for when it is exported. None for no bound, where the kind needs none.

    Example:

    ```python
    index = BruteForce(k=2).index(np.eye(3, dtype="float32"), np.array(["a", "b", "c"]))
    scores, ids = index(tf.constant([[0.1, 0.9, 0.0]]))
    # ids: [[b"b", b"a"]]
    ```

    Reference: the interface follows TensorFlow Recommenders' `factorized_top_k.TopK`.
    """

    kind: ClassVar[str]

    def __init__(
        self, k: int = 10, similarity: str = "dot_product", max_k: int | None = None
    ) -> None:
        super().__init__()
        at_least("k", k, 1)
        at_least("max_k", max_k, k)
        if similarity not in _SIMILARITIES:
            raise ValueError(f"similarity must be one of {_SIMILARITIES}, got '{similarity}'")
        self.k = k
        self.similarity = similarity
        self.max_k = max_k
        self._identifiers: tf.Variable | None = None

    @abc.abstractmethod
    def _build(self, candidates: np.ndarray) -> None:
        """Builds the search structure over validated float32 candidates [N, D]."""

    @abc.abstractmethod
    def _search(
        self, queries: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns scores and rows, [B, k] each, best first, for k <= N.

        Where nothing was found, the row is -1 and the score `PADDING_SCORE`. Rows that are not
        `live` (bool [N]) are not returned, and k live ones are wherever there are as many.
        """

    @abc.abstractmethod
    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""

    @abc.abstractmethod
    def is_exact(self) -> bool:
        """Whether the results are the true nearest neighbours."""

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"k": self.k, "similarity": self.similarity, "max_k": self.max_k}

    @abc.abstractmethod
    def state(self) -> dict[str, tf.Tensor]:
        """Returns the tensors from which `restore` rebuilds the index as it is."""

    @abc.abstractmethod
    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over the tensors that `state` returned, identifiers aside."""

    @property
    def identifiers(self) -> tf.Variable:
        """What a search returns for each row: integers or strings [N].

        Raises:
            ValueError: if nothing was indexed.
        """
        if self._identifiers is None:
            raise ValueError("the index is empty: call `index(candidates)` first")
        return self._identifiers

    @property
    def size(self) -> int:
        """Number of candidates; a ValueError where nothing was indexed."""
        return int(self.identifiers.shape[0])

    def index(self, candidates: Any, identifiers: Any = None) -> "TopK":
        """Builds the index; an earlier one is dropped.

        Args:
            candidates: Finite floats [N, D], N >= 1.
            identifiers: Integers or strings [N] to return; by default the row, int32.

        Returns:
            The index itself.

        Raises:
            ValueError: if the candidates are not a finite matrix, or the identifiers do not match.
        """
        matrix = np.asarray(candidates, dtype=np.float32)
        if matrix.ndim != 2 or 0 in matrix.shape:
            raise ValueError(
                f"candidates must be a non-empty [N, D] matrix, got shape {matrix.shape}"
            )
        finite = np.isfinite(matrix).all(axis=1)
        if not finite.all():
            raise ValueError(f"candidates row {int(np.argmin(finite))} is not finite")
        ids = tf.range(len(matrix)) if identifiers is None else tf.convert_to_tensor(identifiers)
        if not (ids.dtype.is_integer or ids.dtype == tf.string):
            raise ValueError(f"identifiers must be integers or strings, got {ids.dtype.name}")
        if ids.shape.rank != 1 or ids.shape[0] != len(matrix):
            raise ValueError(f"{len(matrix)} candidates need as many identifiers, got {ids.shape}")
        if self.similarity == "cosine":
            norms = np.linalg.norm(matrix, axis=1, keepdims=True)
            matrix = matrix / np.maximum(norms, np.float32(1e-12))
        self._build(matrix)
        self.set_identifiers(ids)
        return self

    def set_identifiers(self, identifiers: tf.Tensor) -> None:
        """Sets what a search returns for each row: integers or strings [N]."""
        self._identifiers = tf.Variable(identifiers, trainable=False, name="identifiers")

    def call(
        self, queries: Any, k: int | None = None, live: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the best candidates of each query.

        Args:
            queries: Floats of any width [B, D].
            k: Columns to return; by default the constructor's.
            live: bool [N] by row: whether a candidate may be returned at all; None for all of
                them. With it, k candidates come back wherever k live ones exist.

        Returns:
            Scores, float32 [B, k], and identifiers [B, k].

        Raises:
            ValueError: if nothing was indexed, or k is below 1 or above `max_k`.
        """
        k = self.k if k is None else k
        at_least("k", k, 1)
        size = self.size
        if self.max_k is not None and k > self.max_k:
            raise ValueError(
                f"this index was built for searches of at most {self.max_k} candidates, got k={k}; "
                "build it with a larger `max_k`"
            )
        queries = self._prepared(queries)
        scores, rows = self._search(queries, min(k, size), live)
        if k > size:
            missing = [[0, 0], [0, k - size]]
            scores = tf.pad(scores, missing, constant_values=PADDING_SCORE)
            rows = tf.pad(rows, missing, constant_values=-1)
        ids = gather_rows(self.identifiers, tf.maximum(rows, 0))
        padding = tf.constant("" if ids.dtype == tf.string else -1, ids.dtype)
        return scores, tf.where(rows >= 0, ids, padding)

    def _prepared(self, queries: Any) -> tf.Tensor:
        queries = tf.cast(queries, tf.float32)
        if self.similarity == "cosine":
            queries = tf.math.l2_normalize(queries, axis=-1, epsilon=1e-24)
        return queries

    def __call__(
        self, queries: Any, k: int | None = None, live: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Same as `call`."""
        return self.call(queries, k, live)

    def query_with_exclusions(
        self,
        queries: Any,
        exclusions: tf.Tensor,
        k: int | None = None,
        live: tf.Tensor | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the best candidates of each query that it does not exclude.

        Args:
            queries: Floats [B, D].
            exclusions: Identifiers [B, E] never to return; -1 or `""` where there is none.
            k: Columns to return; by default the constructor's. The search fetches k + E.
            live: bool [N] by row: whether a candidate may be returned at all; None for all.

        Returns:
            Scores, float32 [B, k], and identifiers [B, k].

        Raises:
            ValueError: if E is unknown when the graph is built.
        """
        k = self.k if k is None else k
        width = exclusions.shape[1]
        if width is None:
            raise ValueError("exclusions must have a static second dimension, got [B, None]")
        scores, ids = self.call(queries, k + width, live)
        return exclude(scores, ids, exclusions, k)


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises a ValueError where a given argument is below its least value."""
    if value is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def best_rows(
    scores: tf.Tensor, rows: tf.Tensor, k: int, live: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Keeps the best rows that there are and that are live.

    Args:
        scores: Floats [B, M], M known.
        rows: int32 [B, M], what the scores belong to; -1 where there is none.
        k: Columns to return.
        live: bool [N] by row; None for all.

    Returns:
        Scores and rows, [B, k] each, best first; `PADDING_SCORE` and -1 past the last.
    """
    usable = rows >= 0
    if live is not None:
        usable &= gather_rows(live, tf.maximum(rows, 0))
    width = scores.shape[1]
    # Every operation costs a small search more than its arithmetic does: no width worked out at
    # run time where it is known, no mask beside the scores.
    some = min(k, width)
    scores, columns = tf.math.top_k(tf.where(usable, scores, PADDING_SCORE), k=some)
    rows = tf.gather(rows, columns, batch_dims=1)
    rows = tf.where(scores > PADDING_SCORE, rows, -1)
    if some < k:
        missing = [[0, 0], [0, k - some]]
        scores = tf.pad(scores, missing, constant_values=PADDING_SCORE)
        rows = tf.pad(rows, missing, constant_values=-1)
    return scores, rows


def completed(
    found: tuple[tf.Tensor, tf.Tensor],
    k: int,
    live: tf.Tensor | None,
    exact: Callable[[], tuple[tf.Tensor, tf.Tensor]],
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns what an approximate search found, or the exact result where it found too little.

    With most candidates switched off, those that an approximate search reads may hold fewer than k
    live ones.

    Args:
        found: Scores and rows, [B, k] each.
        k: Rows wanted.
        live: bool [N] by row; None where all are, and then `found` stands.
        exact: Makes scores and rows, [B, k] each, of an exact search of the live rows.
    """
    if live is None:
        return found

    def completed_by_count() -> tuple[tf.Tensor, tf.Tensor]:
        # Counting a million flags takes longer than a search: only where something is missing.
        wanted = tf.minimum(k, tf.reduce_sum(tf.cast(live, tf.int32)))
        counts = tf.reduce_sum(tf.cast(found[1] >= 0, tf.int32), axis=1)
        return tf.cond(tf.reduce_any(counts < wanted), exact, lambda: found)

    return tf.cond(tf.reduce_all(found[1] >= 0), lambda: found, completed_by_count)


def exclude(
    scores: tf.Tensor, identifiers: tf.Tensor, exclusions: tf.Tensor, k: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Drops excluded identifiers from a ranking and keeps its order.

    Args:
        scores: Floats [B, M], best first.
        identifiers: [B, M], what the scores belong to.
        exclusions: [B, E], of the identifiers' dtype.
        k: Columns to keep, at most M.

    Returns:
        Scores [B, k] and identifiers [B, k]; `PADDING_SCORE` and -1 or `""` where none is left.
    """
    hit = tf.reduce_any(identifiers[:, :, None] == exclusions[:, None, :], axis=-1)
    padding = tf.constant("" if identifiers.dtype == tf.string else -1, identifiers.dtype)
    # top_k puts the lower column first among equal scores, so the order of the rest stays.
    scores, columns = tf.math.top_k(tf.where(hit, PADDING_SCORE, scores), k=k)
    identifiers = tf.gather(tf.where(hit, padding, identifiers), columns, batch_dims=1)
    return scores, identifiers
