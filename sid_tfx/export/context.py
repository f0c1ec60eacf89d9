"""`EventContext.encode` inside a graph, of what a request or a tf.Example says."""

import numpy as np
import tensorflow as tf

from sid_tfx.context import TIME_EDGES, WEIGHT_EDGES, EventContext
from sid_tfx.export.history import gather_places, newest_places


def histories_in_context(
    context: EventContext,
    rows: tf.Tensor,
    timestamps: tf.Tensor,
    events: tf.Tensor,
    weights: tf.Tensor,
    width: int,
) -> tf.Tensor:
    """The newest known ads of histories and their context, as a recommender reads them.

    Args:
        context: What the recommender reads.
        rows: int32 [B, H], catalogue rows oldest first, -1 for padding and unknown ads anywhere.
        timestamps: int64 [B, H] or shorter, Unix seconds; 0 where unknown.
        events: string [B, H] or shorter; "" where unknown.
        weights: float [B, H] or shorter; 0 where unknown.
        width: T, ads to keep.

    Returns:
        int32 [B, T, 1 + C]: row + 1 and the ids of the context; zeros past the last ad.
    """
    index, inside = newest_places(rows, width)
    timestamps, events, weights = (
        gather_places(values, index, inside) for values in (timestamps, events, weights)
    )
    found = [gather_places(rows + 1, index, inside)]
    if context.time:
        found.append(_time_ids(timestamps))
    if context.events:
        same = tf.cast(events[..., None] == tf.constant(context.events), tf.int32)
        found.append(tf.reduce_sum(same * tf.range(1, len(context.events) + 1), axis=-1))
    if context.weight:
        found.append(tf.where(weights > 0, 1 + _steps(WEIGHT_EDGES, weights), 0))
    return tf.stack(found, axis=-1)


def _time_ids(timestamps: tf.Tensor) -> tf.Tensor:
    before, after = timestamps[:, :-1], timestamps[:, 1:]
    ids = 1 + _steps(TIME_EDGES, after - before)
    return tf.pad(tf.where((before > 0) & (after > 0), ids, 0), [[0, 0], [1, 0]])


def _steps(edges: np.ndarray, values: tf.Tensor) -> tf.Tensor:
    """How many of the sorted edges are at most each value, int32."""
    steps = tf.searchsorted(tf.constant(edges), tf.reshape(values, [-1]), side="right")
    return tf.reshape(steps, tf.shape(values))
