"""The head that finds the next ad by inner product."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.cross_entropy import table_cross_entropy
from sid_tfx.embedding import look_up
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class DenseHead(keras.layers.Layer):
    """Scores ads by the inner product of a query with content projection plus id vector.

    Args:
        hidden_size: Size of query and ad vectors.
        content_size: Size of the content vectors.
        negatives: The loss compares with all ads if there are at most this many, else with this
            many drawn uniformly per step (sampled softmax, Jean et al., arXiv 1412.2007).
        seed: Integer.

    Call arguments:
        state: float `[..., hidden_size]`.

    Returns:
        Queries, float `[..., hidden_size]`.

    Example:

    >>> DenseHead(8, content_size=3)(np.zeros((5, 8))).shape
    TensorShape([5, 8])
    """

    def __init__(
        self,
        hidden_size: int,
        content_size: int,
        negatives: int = 1024,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.hidden_size = hidden_size
        self.content_size = content_size
        self.negatives = negatives
        self.seed = seed
        make = SeededLayers(seed)
        self.query = make.dense(hidden_size, name="query")
        self.project = make.dense(hidden_size, name="content")
        self.draws = keras.random.SeedGenerator(make.seed(), name="draws")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        self.query.build(input_shape)
        self.project.build((None, self.content_size))
        self.built = True

    def call(self, state: Any) -> Any:
        """See the class."""
        # Scaled like attention, so that the first softmax over the ads is close to even.
        return self.query(state) * self.hidden_size**-0.5

    def vectors(self, content: Any, id_vectors: Any = None) -> Any:
        """Ad vectors `[..., hidden_size]` of content `[..., D]` and id vectors (or None)."""
        projected = self.project(content)
        return projected if id_vectors is None else projected + id_vectors

    def loss(self, states: Any, targets: Any, content: Any, id_vectors: Any = None) -> Any:
        """Softmax cross-entropy of the target ads, over all ads or a sample.

        Args:
            states: float `[P, hidden_size]`.
            targets: int32 `[P]`, row + 1; the loss of a 0 means nothing.
            content: float `[N + 1, D]`, row 0 padding.
            id_vectors: float `[N + 1, hidden_size]` or None.

        Returns:
            float `[P]`.
        """
        query = self(states)
        ads = int(content.shape[0]) - 1
        if ads <= self.negatives:
            return table_cross_entropy(query, self.vectors(content, id_vectors), targets)

        def vectors_of(rows: Any) -> Any:
            ids = None if id_vectors is None else look_up(id_vectors, rows)
            return self.vectors(look_up(content, rows), ids)

        negatives = keras.random.randint((self.negatives,), 1, ads + 1, seed=self.draws)
        positive = ops.sum(query * vectors_of(targets), axis=-1)
        logits = ops.matmul(query, ops.transpose(vectors_of(negatives)))
        # Draws are of all ads, those of the target itself count for nothing: with this factor the
        # sampled partition function is an unbiased estimate of the full one.
        logits = logits + float(np.log(ads / self.negatives))
        logits = ops.where(negatives == targets[..., None], -1e9, logits)
        return ops.logaddexp(positive, ops.logsumexp(logits, axis=-1)) - positive

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "content_size": self.content_size,
            "negatives": self.negatives,
            "seed": self.seed,
        }
