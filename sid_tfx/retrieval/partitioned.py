"""Approximate search in core TensorFlow ops: the nearest partitions are scored exactly."""

import copy
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.brute_force import exact_search
from sid_tfx.retrieval.partitions import partition
from sid_tfx.retrieval.topk import TopK, at_least, best_rows, completed
from sid_tfx.table_rows import gather_rows

_QUERIES_AT_ONCE = 4


class Partitioned(TopK):
    """Reads the partitions whose centers score highest; runs on stock TF Serving.

    k-means cuts the candidates into partitions of nearly equal size, which lie side by side in one
    dense tensor. A search scores the centers, copies the best partitions and scores their members.

    Args:
        k: Default number of candidates to retrieve.
        similarity: `"dot_product"` or `"cosine"`.
        max_k: Most candidates that any search asks for, exclusions included.
        num_partitions: Partitions asked of k-means; by default the square root of the number of
            candidates. Large ones are split, so there are some more in the end.
        num_partitions_to_search: Partitions read for a query; by default a tenth of them. At least
            `least_read` are: whichever they be, they hold `max_k` candidates.
        training_iterations: Steps of the k-means.
        seed: Draws its sample and its first centers.

    Example:

    ```python
    index = Partitioned(k=10, max_k=20).index(np.random.normal(size=(5000, 32)))
    scores, rows = index(tf.random.normal([4, 32]))
    ```

    Reference: cluster pruning, Chierichetti et al., "Finding Near Neighbors Through Cluster
    Pruning", PODS 2007.
    """

    kind: ClassVar[str] = "partitioned"
    max_k: int

    MIN_CANDIDATES: ClassVar[int] = 32
    """Below, there is nothing to prune."""

    def __init__(
        self,
        k: int = 10,
        similarity: str = "dot_product",
        max_k: int = 100,
        num_partitions: int | None = None,
        num_partitions_to_search: int | None = None,
        training_iterations: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(k, similarity, max_k)
        at_least("num_partitions", num_partitions, 2)
        at_least("num_partitions_to_search", num_partitions_to_search, 1)
        at_least("training_iterations", training_iterations, 1)
        self.num_partitions = num_partitions
        self.num_partitions_to_search = num_partitions_to_search
        self.training_iterations = training_iterations
        self.seed = seed
        self.centers: tf.Variable | None = None

    @classmethod
    def unsuited(cls, candidates: int) -> str | None:
        """Returns why a catalogue is too small for partitions, or None where it is not."""
        if candidates >= cls.MIN_CANDIDATES:
            return None
        return (
            f"the partitioned index needs at least {cls.MIN_CANDIDATES} candidates, got "
            f"{candidates}; use brute force, which is faster there anyway."
        )

    def _build(self, candidates: np.ndarray) -> None:
        reason = self.unsuited(len(candidates))
        if reason:
            raise ValueError(reason)
        count = self.num_partitions or max(2, math.isqrt(len(candidates)))
        if count > len(candidates):
            raise ValueError(
                f"num_partitions must be at most the number of candidates, {len(candidates)}, "
                f"got {count}"
            )
        parts = partition(candidates, count, self.training_iterations, self.seed)
        members = np.where(parts.rows[:, :, None] >= 0, candidates[parts.rows], np.float32(0))
        self.restore(
            {
                "centers": tf.convert_to_tensor(parts.centers),
                "rows": tf.convert_to_tensor(parts.rows),
                "members": tf.convert_to_tensor(members),
            }
        )

    def retuned(self, num_partitions_to_search: int) -> "Partitioned":
        """Returns these very partitions, searched with another effort; both share their tensors.

        Args:
            num_partitions_to_search: As for the constructor.
        """
        at_least("num_partitions_to_search", num_partitions_to_search, 1)
        other = copy.copy(self)
        other.num_partitions_to_search = num_partitions_to_search
        return other

    @property
    def partitions(self) -> int:
        """P, the partitions that there are."""
        assert self.centers is not None
        return int(self.centers.shape[0])

    @property
    def _read(self) -> int:
        wanted = self.num_partitions_to_search or math.ceil(self.partitions / 10)
        return min(self.partitions, max(wanted, self.least_read))

    def _search(
        self, queries: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        _, nearest = tf.math.top_k(
            tf.matmul(queries, self.centers, transpose_b=True), k=self._read, sorted=False
        )

        def of_some(some: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
            return self._best_members(*some, k, live)

        # The copies of many queries at once would not fit into the processor's caches.
        found = tf.cond(
            tf.shape(queries)[0] <= _QUERIES_AT_ONCE,
            lambda: of_some((queries, nearest)),
            lambda: _by_query(of_some, queries, nearest),
        )
        return completed(found, k, live, lambda: self._exact(queries, k, live))

    def _best_members(
        self, queries: tf.Tensor, nearest: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Scores the members of the partitions int32 [B, n] that each query reads."""
        members = gather_rows(self.members, nearest)
        batch, width = tf.shape(queries)[0], members.shape[1] * members.shape[2]
        members = tf.reshape(members, [batch, width, members.shape[3]])
        scores = tf.linalg.matvec(members, queries)
        rows = tf.reshape(gather_rows(self.rows, nearest), [batch, width])
        return best_rows(scores, rows, k, live)

    def _exact(
        self, queries: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        rows = tf.reshape(self.rows, [-1])
        usable = rows >= 0
        if live is not None:
            usable &= gather_rows(live, tf.maximum(rows, 0))
        members = tf.reshape(self.members, [-1, self.members.shape[2]])
        scores, places = exact_search(members, queries, k, usable)
        return scores, tf.where(places >= 0, tf.gather(rows, tf.maximum(places, 0)), -1)

    def ranks(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Returns how many partitions a search reads before those that hold some rows.

        Reading n partitions finds a row if and only if its rank is below n.

        Args:
            queries: float32 [B, D].
            rows: int32 [B, k]; -1 for none, of rank 0.

        Returns:
            int64 [B, k].
        """
        assert self.centers is not None
        scores = self._prepared(queries).numpy() @ self.centers.numpy().T
        order = np.argsort(-scores, axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        home = self.places.numpy()[rows] // int(self.rows.shape[1])
        return np.where(rows >= 0, np.take_along_axis(rank, home, axis=1), 0)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""
        flat = tf.reshape(self.members, [-1, self.members.shape[2]])
        return gather_rows(flat, gather_rows(self.places, rows))

    def is_exact(self) -> bool:
        """Returns False."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the effort that `index` worked out."""
        built = self.centers is not None
        return {
            **super().get_config(),
            "num_partitions": self.num_partitions,
            "num_partitions_to_search": self._read if built else self.num_partitions_to_search,
            "training_iterations": self.training_iterations,
            "seed": self.seed,
        }

    def state(self) -> dict[str, tf.Tensor]:
        """Returns the partitions: centers, rows and members."""
        return {
            "centers": tf.convert_to_tensor(self.centers),
            "rows": tf.convert_to_tensor(self.rows),
            "members": tf.convert_to_tensor(self.members),
        }

    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over what `state` returned."""
        rows = np.asarray(state["rows"])
        sizes = np.sort((rows >= 0).sum(axis=1))
        enough = int(np.searchsorted(np.cumsum(sizes), min(self.max_k, sizes.sum()))) + 1
        self.least_read = min(enough, len(sizes))
        places = np.zeros(int(sizes.sum()), np.int32)
        flat = rows.ravel()
        places[flat[flat >= 0]] = np.flatnonzero(flat >= 0)
        self.centers = _variable(state["centers"], "centers")
        self.rows = _variable(state["rows"], "rows")
        self.members = _variable(state["members"], "members")
        self.places = _variable(places, "places")


def _by_query(search: Any, queries: tf.Tensor, nearest: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Searches for one query after the other."""

    def one(row: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        scores, rows = search((row[0][None], row[1][None]))
        return scores[0], rows[0]

    return tf.map_fn(one, (queries, nearest), fn_output_signature=(tf.float32, tf.int32))


def _variable(value: Any, name: str) -> tf.Variable:
    return tf.Variable(value, trainable=False, name=name)
