"""From looked-up ads to the rows that a recommender reads."""

import tensorflow as tf


def newest_places(rows: tf.Tensor, width: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Finds the newest known ads of histories; unknown ones are dropped.

    Args:
        rows: int32 [B, H], catalogue rows oldest first, -1 for padding and unknown ads anywhere.
        width: T, ads to keep.

    Returns:
        int32 [B, T], their columns of `rows`, oldest first; bool [B, T], whether there is an ad.

    Example:

    >>> rows = tf.constant([[-1, 4, -1, 0, 7]])
    >>> gather_places(rows, *newest_places(rows, width=2)).numpy().tolist()
    [[0, 7]]
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
    return tf.gather(order, column, batch_dims=1), offset < tf.minimum(count, width)


def gather_places(values: tf.Tensor, index: tf.Tensor, inside: tf.Tensor) -> tf.Tensor:
    """What stands at `newest_places` in values [B, H] of the histories; 0 or "" past the last ad.

    Columns that the values lack at their end, at most all, count as 0 or "".
    """
    # Of no rows there is no largest index.
    width = tf.maximum(tf.reduce_max(index) + 1, 0)
    padding = tf.zeros([tf.shape(values)[0], width], values.dtype)
    # Strings of a tensor of zeros are "".
    padded = tf.concat([values, padding], axis=1)
    picked = tf.gather(padded, index, batch_dims=1)
    return tf.where(inside, picked, tf.zeros([], values.dtype))
