"""The ranking for a request that tells nothing about its user."""

import numpy as np
import tensorflow as tf

from sid_tfx.retrieval.topk import PADDING_SCORE, exclude
from sid_tfx.table_rows import gather_rows


class Popularity(tf.Module):
    """Ads by how often training events name them; equal counts by catalogue row.

    The most popular ads that may be returned are held ready, so that no request looks through the
    catalogue.

    Args:
        counts: Training events of each catalogue row, `(N,)`, not negative.
        depth: Ads held ready: the most that a request asks for and excludes, together.

    Raises:
        ValueError: The counts are no vector of finite non-negative numbers.

    Example:

    >>> popularity = Popularity(np.array([3, 9, 0]), depth=4)
    >>> rows, scores = popularity.top(tf.constant([[1, -1]]), k=2)
    >>> rows.numpy().tolist()
    [[0, 2]]
    """

    def __init__(self, counts: np.ndarray, depth: int) -> None:
        super().__init__(name="popularity")
        values = np.asarray(counts, dtype=np.float64)
        if values.ndim != 1 or not len(values):
            raise ValueError(f"popularity must be one count per ad, got shape {values.shape}.")
        if not np.isfinite(values).all() or (values < 0).any():
            row = int(np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0])
            raise ValueError(f"popularity of row {row} is {values[row]}; counts must be >= 0.")
        # Smoothed by one, so that an ad without events keeps a finite logarithm.
        shares = np.log((values + 1) / (values.sum() + len(values)))
        order = np.argsort(-values, kind="stable").astype(np.int32)
        self.counts = _variable(values.astype(np.float32), "counts")
        self.log_shares = _variable(shares.astype(np.float32), "log_shares")
        self.order = _variable(order, "order")
        self.leading = _variable(np.full(depth, -1, np.int32), "leading")
        self.set_live(tf.ones([len(values)], tf.bool))

    def __len__(self) -> int:
        """Ads, those that are switched off included."""
        return int(self.counts.shape[0])

    def set_live(self, live: tf.Tensor) -> None:
        """Switches ads on and off: bool `[N]` by catalogue row; eagerly or in a graph."""
        depth = self.leading.shape[0]
        leading = tf.boolean_mask(self.order, gather_rows(live, self.order))[:depth]
        missing = depth - tf.size(leading)
        self.leading.assign(tf.pad(leading, [[0, missing]], constant_values=-1))

    def of(self, rows: tf.Tensor) -> tf.Tensor:
        """Training events of int32 rows, float32 of the same shape; 0 where a row is negative."""
        return tf.where(rows >= 0, gather_rows(self.counts, tf.maximum(rows, 0)), 0.0)

    def top(self, excluded_rows: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the k most popular ads that a request may see.

        Args:
            excluded_rows: int32 [B, E], catalogue rows not to return; -1 where there is none. E is
                static.
            k: Ads to return; k + E is at most the depth.

        Returns:
            Rows, int32 [B, k], -1 past the last; scores, float32 [B, k], the log of the ad's share
            of training events, `PADDING_SCORE` past the last.

        Raises:
            ValueError: k + E is above the depth.
        """
        width = k + excluded_rows.shape[1]
        if width > self.leading.shape[0]:
            raise ValueError(
                f"k={k} and {excluded_rows.shape[1]} excluded rows need a depth of {width}, this "
                f"popularity has {self.leading.shape[0]}."
            )
        order = self.leading[:width]
        scores = gather_rows(self.log_shares, tf.maximum(order, 0))
        scores = tf.where(order >= 0, scores, PADDING_SCORE)
        shape = tf.stack([tf.shape(excluded_rows)[0], width])
        scores, rows = exclude(
            tf.broadcast_to(scores, shape), tf.broadcast_to(order, shape), excluded_rows, k
        )
        return rows, scores


def _variable(values: np.ndarray, name: str) -> tf.Variable:
    return tf.Variable(values, trainable=False, name=name)
