"""Exact search: every candidate is scored."""

from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.topk import TopK


class BruteForce(TopK):
    """Scores every candidate with one matrix product; core TensorFlow ops only.

    Equal scores come back by candidate row. See `TopK` for the arguments and an example.
    """

    kind: ClassVar[str] = "brute_force"

    def __init__(self, k: int = 10, similarity: str = "dot_product") -> None:
        super().__init__(k, similarity)
        self.candidates: tf.Variable | None = None

    def _build(self, candidates: np.ndarray) -> None:
        self.restore({"candidates": tf.convert_to_tensor(candidates)})

    def _search(self, queries: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        scores = tf.matmul(queries, self.candidates, transpose_b=True)
        return tf.math.top_k(scores, k=k)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""
        return tf.gather(self.candidates, rows)

    def is_exact(self) -> bool:
        """Returns True."""
        return True

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"k": self.k, "similarity": self.similarity}

    def state(self) -> dict[str, tf.Tensor]:
        """Returns the candidate matrix."""
        return {"candidates": tf.convert_to_tensor(self.candidates)}

    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over the candidate matrix that `state` returned."""
        self.candidates = tf.Variable(state["candidates"], trainable=False, name="candidates")
