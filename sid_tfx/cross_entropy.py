"""The loss of a softmax over classes, of codes as of ads."""

from typing import Any

import numpy as np
from keras import ops

from sid_tfx.embedding import look_up

_ABSENT = -1e9


def cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Cross-entropy `[...]` of int labels, `smoothing` spread evenly over all classes."""
    loss = ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)
    if smoothing:
        even = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
        loss = (1 - smoothing) * loss + smoothing * even
    return loss


def table_cross_entropy(queries: Any, table: Any, rows: Any) -> Any:
    """Cross-entropy of a softmax over the rows of a table, by inner product.

    The score of the target is reckoned from its row and not picked out of the scores of all: the
    gradient of picking is an array as large as the scores with one number a query in it, and a
    deterministic TensorFlow takes as long to make it as for the product with the table.

    Args:
        queries: float `[P, D]`.
        table: float `[N + 1, D]`; row 0 is padding and no class.
        rows: int `[P]`, the target's row; the loss of a 0 means nothing.

    Returns:
        float `[P]`.

    Example:

    >>> table_cross_entropy(np.ones((1, 2)), np.array([[9.0, 9], [1, 1], [1, 1]]), np.array([2]))
    <tf.Tensor: shape=(1,), dtype=float32, numpy=array([0.6931472], dtype=float32)>
    """
    # A slice without the padding would cost its gradient a copy of the table.
    padding = np.zeros(int(table.shape[0]), np.float32)
    padding[0] = _ABSENT
    logits = ops.matmul(queries, ops.transpose(table)) + padding
    # The gradient of a product is an array, as in DenseGradientEmbedding.
    targets = look_up(ops.multiply(table, 1.0), rows)
    return ops.logsumexp(logits, axis=-1) - ops.sum(queries * targets, axis=-1)
