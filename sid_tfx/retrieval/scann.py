"""Approximate search with ScaNN, through TensorFlow Recommenders."""

import math
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf
from scann.scann_ops.py.scann_ops import ScannState
from tensorflow_recommenders.layers import factorized_top_k

from sid_tfx.retrieval.topk import TopK


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
        training_iterations: int = 12,
    ) -> None:
        super().__init__(k, similarity)
        for name, value, least in (
            ("max_k", max_k, k),
            ("num_leaves", num_leaves, 2),
            ("num_leaves_to_search", num_leaves_to_search, 1),
            ("num_reordering_candidates", num_reordering_candidates, max_k),
            ("dimensions_per_block", dimensions_per_block, 1),
            ("training_iterations", training_iterations, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.max_k = max_k
        self.num_leaves = num_leaves
        self.num_leaves_to_search = num_leaves_to_search
        self.num_reordering_candidates = num_reordering_candidates
        self.dimensions_per_block = dimensions_per_block
        self.training_iterations = training_iterations
        self.layer: factorized_top_k.ScaNN | None = None
        self._layer_parameters: dict[str, int] = {}

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
        self._layer_parameters = self._resolve(len(candidates))
        self.layer = self._new_layer()
        self.layer.index(tf.convert_to_tensor(candidates))

    def _resolve(self, candidates: int) -> dict[str, int]:
        leaves = self.num_leaves or max(2, math.isqrt(candidates))
        return {
            "num_leaves": leaves,
            "num_leaves_to_search": min(leaves, self.num_leaves_to_search or math.ceil(leaves / 5)),
            "num_reordering_candidates": (
                self.num_reordering_candidates or max(self.max_k, 10 * self.k)
            ),
        }

    def _new_layer(self) -> factorized_top_k.ScaNN:
        return factorized_top_k.ScaNN(
            k=self.k,
            distance_measure="dot_product",
            training_iterations=self.training_iterations,
            dimensions_per_block=self.dimensions_per_block,
            **self._layer_parameters,
        )

    def _search(self, queries: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        if k > min(self.max_k, self.size):
            raise ValueError(
                f"this index was built for searches of at most {self.max_k} candidates, got k={k}; "
                "build it with a larger `max_k`"
            )
        assert self.layer is not None
        scores, rows = self.layer.call(queries, k=k)
        # Where the partitions that were read hold too few candidates, ScaNN says (NaN, row 0).
        return scores, tf.where(tf.math.is_nan(scores), -1, rows)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""
        assert self.layer is not None
        return tf.gather(self.layer._serialized_searcher.dataset, rows)

    def is_exact(self) -> bool:
        """Returns False."""
        return False

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, with the defaults that `index` worked out."""
        return {
            "k": self.k,
            "similarity": self.similarity,
            "max_k": self.max_k,
            "num_leaves": self.num_leaves,
            "num_leaves_to_search": self.num_leaves_to_search,
            "num_reordering_candidates": self.num_reordering_candidates,
            "dimensions_per_block": self.dimensions_per_block,
            "training_iterations": self.training_iterations,
            **self._layer_parameters,
        }

    def state(self) -> dict[str, tf.Tensor]:
        """Returns the trained partitions, hash codes and vectors."""
        assert self.layer is not None
        searcher = self.layer._serialized_searcher
        return {name: tf.convert_to_tensor(getattr(searcher, name)) for name in _STATE}

    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over what `state` returned: the same index, not a new training of it."""
        self._layer_parameters = self._resolve(int(state["datapoint_to_token"].shape[0]))
        self.layer = self._new_layer()
        # TFRS only ever trains an index. The one that was measured must be the one that serves.
        self.layer._serialized_searcher = ScannState([state[name] for name in _STATE])


_STATE = (
    "scann_config",
    "serialized_partitioner",
    "datapoint_to_token",
    "ah_codebook",
    "hashed_dataset",
    "int8_dataset",
    "int8_multipliers",
    "dp_norms",
    "dataset",
)
