"""Exact search: every candidate is scored."""

from typing import ClassVar

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.topk import PADDING_SCORE, TopK
from sid_tfx.table_rows import gather_rows


class BruteForce(TopK):
    """Scores every candidate with one matrix product; core TensorFlow ops only.

    Equal scores come back by candidate row. See `TopK` for the arguments and an example.
    """

    kind: ClassVar[str] = "brute_force"

    def __init__(
        self, k: int = 10, similarity: str = "dot_product", max_k: int | None = None
    ) -> None:
        super().__init__(k, similarity, max_k)
        self.candidates: tf.Variable | None = None

    def _build(self, candidates: np.ndarray) -> None:
        self.restore({"candidates": tf.convert_to_tensor(candidates)})

    def _search(
        self, queries: tf.Tensor, k: int, live: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        return exact_search(self.candidates, queries, k, live)

    def vectors(self, rows: tf.Tensor) -> tf.Tensor:
        """Returns the indexed vectors, [..., D], of int32 rows [...]."""
        return gather_rows(self.candidates, rows)

    def is_exact(self) -> bool:
        """Returns True."""
        return True

    def state(self) -> dict[str, tf.Tensor]:
        """Returns the candidate matrix."""
        return {"candidates": tf.convert_to_tensor(self.candidates)}

    def restore(self, state: dict[str, tf.Tensor]) -> None:
        """Takes over the candidate matrix that `state` returned."""
        self.candidates = tf.Variable(state["candidates"], trainable=False, name="candidates")


def exact_search(
    candidates: tf.Tensor, queries: tf.Tensor, k: int, live: tf.Tensor | None
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scores every candidate.

    Args:
        candidates: Floats [N, D].
        queries: Floats [B, D].
        k: Columns to return, at most N.
        live: bool [N]; candidates that are not live count as not found. None for all.

    Returns:
        Scores and int32 rows, [B, k] each, best first; row -1 past the last live one.
    """
    scores = tf.matmul(queries, candidates, transpose_b=True)
    if live is None:
        return tf.math.top_k(scores, k=k)
    scores, rows = tf.math.top_k(tf.where(live[None, :], scores, PADDING_SCORE), k=k)
    return scores, tf.where(gather_rows(live, rows), rows, -1)
