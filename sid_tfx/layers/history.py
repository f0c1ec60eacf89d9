"""Histories as the transformer wants them: no gaps, padding on the right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from keras import ops

from sid_tfx.embedding import look_up


def pack_history(history: Any, length: int) -> Any:
    """The newest `length` ads of each history on the left, order kept, zeros after them.

    Args:
        history: int `[B, T]` of row + 1, oldest first; zeros, on either side or in between, are no
            ads. Or `[B, T, 1 + C]`, with the ids of the context beside each row.
        length: Ads kept.

    Returns:
        int32 `[B, min(T, length)]` or `[B, min(T, length), 1 + C]`.

    Example:

    >>> pack_history(np.array([[0, 7, 0, 8, 9]]), 2).numpy().tolist()
    [[8, 9]]
    """
    history = ops.cast(history, "int32")
    if history.shape[1] is None or history.shape[1] > length:
        history = _move(history, to_left=False)[:, -length:]
    return _move(history, to_left=True)


def read_histories(inputs: Any, length: int) -> tuple[Any, Any]:
    """Histories without gaps, and the segments where several histories share a row.

    Args:
        inputs: Histories as `pack_history` takes them, one a row; or a batch of `SequenceBatches`,
            whose rows hold several and are taken as they are.
        length: Newest ads kept of a history that has a row of its own.

    Returns:
        int32 `[B, T]` or `[B, T, 1 + C]`, and int32 `[B, T]`, equal where two ads are of one
        history and 0 at padding, or None where each row is one history.
    """
    if isinstance(inputs, Mapping):
        return ops.cast(inputs["histories"], "int32"), ops.cast(inputs["segments"], "int32")
    return pack_history(inputs, length), None


def next_rows(rows: Any, segments: Any) -> Any:
    """The row `[B, T - 1]` of the ad after each ad but the last; 0 where its history ends."""
    after = rows[:, 1:]
    if segments is None:
        return after
    return after * ops.cast(segments[:, 1:] == segments[:, :-1], after.dtype)


def history_rows(history: Any) -> Any:
    """The rows `[B, T]` of histories `[B, T]` or `[B, T, 1 + C]`."""
    return history if len(history.shape) == 2 else history[..., 0]


def last_state(states: Any, rows: Any) -> Any:
    """The state of each history's last ad.

    Args:
        states: float `[B, T, d]`.
        rows: int `[B, T]` from `pack_history`; of a row without ads the first state is taken.

    Returns:
        float `[B, d]`.
    """
    return ops.squeeze(take_rows(states, last_position(rows)[:, None]), axis=1)


def last_position(rows: Any) -> Any:
    """Where each history's last ad is, int32 `[B]`, of rows `[B, T]` from `pack_history`.

    0 for a history without ads.
    """
    length = ops.sum(ops.cast(rows > 0, "int32"), axis=1)
    return ops.maximum(length - 1, 0)


def take_rows(values: Any, index: Any) -> Any:
    """`values[b, index[b, i]]`, `[B, K, ...]` of values `[B, T, ...]` and an index int `[B, K]`.

    Keras' `take_along_axis` transposes on TensorFlow, which takes longer than this one gather.
    """
    batch, length = ops.shape(values)[:2]
    flat = ops.reshape(values, (-1, *values.shape[2:]))
    start = ops.arange(batch, dtype="int32") * length
    return look_up(flat, ops.cast(index, "int32") + start[:, None])


def _move(history: Any, to_left: bool) -> Any:
    """Moves the ads of `[B, T]` or `[B, T, 1 + C]` to one side, order kept."""
    rows = history_rows(history)
    length = ops.shape(rows)[1]
    behind = rows == 0 if to_left else rows > 0
    # Distinct keys, because the backends' sorts aren't all stable.
    keys = ops.arange(length, dtype="int32") + length * ops.cast(behind, "int32")
    order = ops.sort(keys, axis=1) % length
    return take_rows(history, order)
