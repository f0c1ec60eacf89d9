"""Histories as the transformer wants them: no gaps, padding on the right."""

from __future__ import annotations

from typing import Any

from keras import ops


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
    length = ops.sum(ops.cast(rows > 0, "int32"), axis=1)
    last = ops.maximum(length - 1, 0)[:, None, None]
    return ops.squeeze(ops.take_along_axis(states, last, axis=1), axis=1)


def _move(history: Any, to_left: bool) -> Any:
    """Moves the ads of `[B, T]` or `[B, T, 1 + C]` to one side, order kept."""
    rows = history_rows(history)
    length = ops.shape(rows)[1]
    behind = rows == 0 if to_left else rows > 0
    # Distinct keys, because the backends' sorts aren't all stable.
    keys = ops.arange(length, dtype="int32") + length * ops.cast(behind, "int32")
    order = ops.sort(keys, axis=1) % length
    if len(history.shape) == 3:
        order = ops.broadcast_to(order[..., None], ops.shape(history))
    return ops.take_along_axis(history, order, axis=1)
