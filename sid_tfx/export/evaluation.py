"""Ranks of a held-out ad inside a graph: `sid_tfx.metrics.ranking` for the signature `evaluate`."""

import tensorflow as tf


def parse_users(examples: tf.Tensor) -> dict[str, tf.Tensor | tf.RaggedTensor]:
    """Reads what users did before the held-out ad, and that ad.

    Args:
        examples: string [B], serialized tf.Examples as InteractionBuilder writes them.

    Returns:
        `target` string [B]; `history` string, `timestamps` int64, `events` string and `weights`
        float32, each ragged [B, H], oldest first. What an example lacks is an empty row.
    """
    spec = {
        "history": tf.io.RaggedFeature(tf.string),
        "timestamps": tf.io.RaggedFeature(tf.int64),
        "events": tf.io.RaggedFeature(tf.string),
        "weights": tf.io.RaggedFeature(tf.float32),
        "target": tf.io.FixedLenFeature([], tf.string),
    }
    return tf.io.parse_example(examples, spec)


def newest_events(
    users: dict[str, tf.Tensor | tf.RaggedTensor], most: int
) -> dict[str, tf.RaggedTensor]:
    """Cuts histories and what is known of their events to the newest ones.

    In a dense tensor every history of a batch takes the room of the longest: one of a million
    would fill the memory.

    Args:
        users: What `parse_users` returned.
        most: Events to keep of each history.

    Returns:
        Its ragged tensors; values past the end of their history are left out.

    Example:

    >>> users = {"history": tf.ragged.constant([["a", "b", "c"]], row_splits_dtype=tf.int32)}
    >>> newest_events(users, most=2)["history"].to_list()
    [[b'b', b'c']]
    """
    end = users["history"].row_lengths()
    begin = tf.maximum(end - most, 0)
    return {
        name: _places(values, begin, end)
        for name, values in users.items()
        if isinstance(values, tf.RaggedTensor)
    }


def _places(values: tf.RaggedTensor, begin: tf.Tensor, end: tf.Tensor) -> tf.RaggedTensor:
    """The places of each row from `begin` on and before `end`, int32 [B] both."""
    number = tf.range(tf.size(values.values))
    # `value_rowids` of splits makes a dense block itself.
    rows = tf.searchsorted(values.row_splits, number, side="right") - 1
    place = number - tf.gather(values.row_starts(), rows)
    inside = (place >= tf.gather(begin, rows)) & (place < tf.gather(end, rows))
    return tf.RaggedTensor.from_value_rowids(
        tf.boolean_mask(values.values, inside), tf.boolean_mask(rows, inside), values.nrows()
    )


def target_ranks(rows: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """1-based place of each target in its list, 0 where it isn't there.

    Args:
        rows: int32 [B, K], or [1, K] for all: distinct catalogue rows, best first; -1 past the
            last result.
        targets: int32 [B], -1 where the target is unknown.

    Returns:
        float32 [B].
    """
    hits = (rows == targets[:, None]) & (targets[:, None] >= 0)
    place = tf.range(1, tf.shape(rows)[1] + 1)
    return tf.cast(tf.reduce_sum(tf.where(hits, place, 0), axis=1), tf.float32)


def sid_ranks(sids: tf.Tensor, target_sids: tf.Tensor) -> tf.Tensor:
    """1-based place of each target's semantic ID among the distinct ones of its list, else 0.

    Args:
        sids: int32 [B, K, L], codes of the results without de-dup token, best first; -1 past the
            last result.
        target_sids: int32 [B, L], -1 where the target is unknown.

    Returns:
        float32 [B].

    Example:

    >>> sids = tf.constant([[[4, 1], [4, 1], [3, 0], [3, 0]]])
    >>> sid_ranks(sids, tf.constant([[3, 0]])).numpy().tolist()
    [2.0]
    """
    target = target_sids[:, None, :]
    hits = tf.reduce_all((sids == target) & (target >= 0), axis=2)
    place = tf.range(tf.shape(sids)[1])
    same = tf.reduce_all(sids[:, :, None, :] == sids[:, None, :, :], axis=3)
    first = ~tf.reduce_any(same & (place[None, :] < place[:, None]), axis=2)
    rank = tf.cumsum(tf.cast(first, tf.int32), axis=1)
    # Of the places with the target's codes exactly one is the first.
    return tf.cast(tf.reduce_sum(tf.where(hits & first, rank, 0), axis=1), tf.float32)
