"""From looked-up ads to the rows that a recommender reads."""

import tensorflow as tf


def newest(rows: tf.Tensor, width: int) -> tf.Tensor:
    """Drops unknown ads from histories and keeps the newest ones.

    Args:
        rows: int32 [B, H], catalogue rows oldest first, -1 for padding and unknown ads anywhere.
        width: T, ads to keep.

    Returns:
        int32 [B, T]: row + 1, oldest first, then zeros.

    Example:

    >>> newest(tf.constant([[-1, 4, -1, 0, 7]]), 2).numpy().tolist()
    [[1, 8]]
    """
    # One column more, so that there is one where every history of the batch is empty.
    rows = tf.pad(rows, [[0, 0], [0, 1]], constant_values=-1)
    known = rows >= 0
    length = tf.shape(rows)[1]
    position = tf.range(length)
    # Known ads first, each group in its order: no two keys are equal.
    order = tf.argsort(tf.where(known, position, position + length), axis=1)
    count = tf.reduce_sum(tf.cast(known, tf.int32), axis=1, keepdims=True)
    offset = tf.range(width)[None, :]
    column = tf.maximum(count - width, 0) + offset
    column = tf.minimum(column, length - 1)
    chosen = tf.gather(tf.gather(rows, order, batch_dims=1), column, batch_dims=1)
    return tf.where(offset < tf.minimum(count, width), chosen + 1, 0)
