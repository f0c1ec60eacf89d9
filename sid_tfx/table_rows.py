"""Rows of a TensorFlow table, read without copying it."""

from __future__ import annotations

from typing import Any

import tensorflow as tf


def gather_rows(table: Any, rows: Any) -> tf.Tensor:
    """Rows `[..., D]` of a tensor or variable `[N, D]`, by int `[...]` in `[0, N)`.

    `tf.gather` of a `tf.Variable` itself has it copied whole, from then on, wherever else it is
    read (TensorFlow's "copy on read mode"), be it a table of a million ads and the next request.
    So what is served reads its tables by rows through here alone. On every Keras backend.

    Example:

    >>> gather_rows(tf.Variable([3, 5, 7]), [2, 0]).numpy().tolist()
    [7, 3]
    """
    return tf.gather(tf.convert_to_tensor(table), rows)
