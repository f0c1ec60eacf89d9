"""Approximate search with ScaNN, through TensorFlow Recommenders."""

import copy
import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.brute_force import exact_search
from sid_tfx.retrieval.scann_layer import ScannLayer
from sid_tfx.retrieval.topk import PADDING_SCORE, TopK, at_least, best_rows, completed
from sid_tfx.table_rows import gather_rows


class ScaNN(TopK):
    """Searches the nearest partitions of a tree with asymmetric hashing, then reorders exactly.

    Builds are not reproducible, so judge an index by its recall, never by its ids. The graph holds
    ScaNN's custom ops: whoever loads it needs ScaNN's op library.

    Args:
        k: Default number of candidates to retrieve.
        similarity: `"dot_product"` or `"cosine"`.
        max_k: Most candidates that any search asks for, exclusions included. ScaNN never returns
            more candidates than it reorders, so this bounds `num_reordering_candidates` from below.
        num_leaves: Partitions; by default the square root of the number of candidates.
        num_leaves_to_search: Partitions read for a query; by default a fifth of them.
        num_reordering_candidates: Candidates scored exactly at the end; by default 10 times k.
        dimensions_per_block: Dimensions hashed together; fewer is more accurate and slower.
        anisotropic_threshold: Weighs errors of the hash codes along a vector more where scores are
            above it, as inner products want it; None for squared distance.
        training_iterations: Steps of the k-means that makes the partitions.

    Example:

    ```python
    index = ScaNN(k=10, max_k=20).index(np.random.normal(size=(5000, 32)))
    scores, rows = index(tf.random.normal([4, 32]))
    ```

    Reference: Guo et al., "Accelerating Large-Scale Inference with Anisotropic Vector
    Quantization", ICML 2020.
    """

    kind: ClassVar[str] = "scann"
    max_k: int

    MIN_CANDIDATES: ClassVar[int] = 32
    """ScaNN trains 16 hash centres and, with a single partition, returns wrong rows for batched
    queries (seen with 1.3.2); from 32 candidates on there are two partitions with 16 each."""

    def __init__(
        self,
        k: int = 10,
        similarity: str = "dot_product",
        max_k: int = 100,
        num_leaves: int | None = None,
        num_leaves_to_search: int | None = None,
        num_reordering_candidates: int | None = None,
        dimensions_per_block: int = 2,
        anisotropic_threshold: float | None = None,
        training_iterations: int = 12,
    ) -> None:
        super().__init__(k, similarity, max_k)
        at_least("num_leaves", num_leaves, 2)
        at_least("num_leaves_to_search", num_leaves_to_search, 1)
        at_least("num_reordering_candidates", num_reordering_candidates, max_k)
        at_least("dimensions_per_block", dimensions_per_block, 1)
        at_least("training_iterations", training_iterations, 1)
        self.num_leaves = num_leaves
        self.num_leaves_to_search = num_leaves_to_search
        self.num_reordering_candidates = num_reordering_candidates
        self.dimensions_per_block = dimensions_per_block
        self.anisotropic_threshold = anisotropic_threshold
        self.training_iterations = training_iterations
        self.layer: ScannLayer | None = None

    @classmethod
    def unsuited(cls, candidates: int) -> str | None:
        """Returns why a catalogue is too small for ScaNN, or None where it is not."""
        if candidates >= cls.MIN_CANDIDATES:
            return None
        return (
            f"ScaNN needs at least {cls.MIN_CANDIDATES} candidates to train its partitions and "
            f"hash centres, got {candidates}; use brute force, which is faster there anyway."
        )

    def _build(self, candidates: np.ndarray) -> None:
        reason = self.unsuited(len(candidates))
        if reason:
            raise ValueError(reason)
        if self.num_leaves is not None and self.num_leaves > len(candidates):
            raise ValueError(
                f"num_leaves must be at most the number of candidates, {len(candidates)}, "
                f"got {self.num_leaves}"
            )
        self.layer = self._new_layer(len(candidates))
        self.layer.index(tf.convert_to_tensor(candidates))
        self._measure_partitions()

    def _measure_partitions(self) -> None:
        assert self.layer is not None
        home = self.layer.get_state()["datapoint_to_token"].numpy()
        self._sizes = np.sort(np.bincount(home, minlength=self._leaves))

    def _new_layer(self, candidates: int) -> ScannLayer:
        self._leaves = self.num_leaves or max(2, math.isqrt(candidates))
        return ScannLayer(
            self.k,
            self._leaves,
            self.dimensions_per_block,
            self.anisotropic_threshold,
            self.training_iterations,
            self._reordered,
        )

    @property
    def _leaves_read(self) -> int:
        return min(self._leaves, self.num_leaves_to_search or math.ceil(self._leaves / 5))

    @property
    def _reordered(self) -> int:
        return self.num_reordering_candidates or max(self.max_k, 10 * self.k)

    def retuned(self, num_leaves_to_search: int, num_reordering_candidates: int) -> "ScaNN":
        """Returns this very tree, searched with another effort; the two share their tensors.

        Args:
            num_leaves_to_search: As for the constructor.
            num_reordering_candidates: As for the constructor, at least `max_k`.
        """
        at_least("num_leaves_to_search", num_leaves_to_search, 1)
        at_least("num_reordering_candidates", num_reordering_candidates, self.max_k)
        other = copy.copy(self)
        other.num_leaves_to_search = num_leaves_to_search
        other.num_reordering_candidates = num_reordering_candidates
        return other

    def _search(
        self, queries: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        assert self.layer is not None
        layer, reordered = self.layer, min(self._reordered, self.size)
        # ScaNN knows nothing of switched-off rows: all that it scored exactly are looked through.
        width = k if live is None else reordered
        scores, rows = layer.search(queries, width, self._leaves_read, reordered)
        if self._fewest_read < width:
            scores, rows = _padded(scores, rows, width)
        scores.set_shape([queries.shape[0], width])
        rows.set_shape([queries.shape[0], width])
        if live is None:
            return scores, rows
        return completed(
            best_rows(scores, rows, k, live),
            k,
            live,
            lambda: exact_search(layer.dataset, queries, k, live),
        )

    @property
    def _fewest_read(self) -> int:
        """Candidates that a search reads at least, whichever partitions are nearest."""
        return int(self._sizes[: self._leaves_read].sum())

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""
        assert self.layer is not None
        return gather_rows(self.layer.dataset, rows)

    def is_exact(self) -> bool:
        """Returns False."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the defaults that `index` worked out."""
        built = self.layer is not None
        return {
            **super().get_config(),
            "num_leaves": self._leaves if built else self.num_leaves,
            "num_leaves_to_search": self._leaves_read if built else self.num_leaves_to_search,
            "num_reordering_candidates": (
                self._reordered if built else self.num_reordering_candidates
            ),
            "dimensions_per_block": self.dimensions_per_block,
            "anisotropic_threshold": self.anisotropic_threshold,
            "training_iterations": self.training_iterations,
        }

    def state(self) -> dict[str, tf.Tensor]:
        """Returns the trained partitions, hash codes and vectors."""
        assert self.layer is not None
        return self.layer.get_state()

    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over what `state` returned: the same index, not a new training of it."""
        self.layer = self._new_layer(int(state["datapoint_to_token"].shape[0]))
        self.layer.set_state(state)
        self._measure_partitions()


def _padded(scores: tf.Tensor, rows: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """What ScaNN found where the partitions that it read may hold too few candidates.

    It returns as many columns as the luckiest query of the batch needs, and (NaN, row 0) where
    another one has fewer. That costs a small search a sixth of its time, so only where it may be.
    """
    missing = tf.math.is_nan(scores)
    columns = [[0, 0], [0, width - tf.shape(rows)[1]]]
    return (
        tf.pad(tf.where(missing, PADDING_SCORE, scores), columns, constant_values=PADDING_SCORE),
        tf.pad(tf.where(missing, -1, rows), columns, constant_values=-1),
    )
