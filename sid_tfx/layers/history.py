"""Histories as the transformer wants them: no gaps, padding on the right."""

from __future__ import annotations

from typing import Any

from keras import ops


def pack_history(rows: Any, length: int) -> Any:
    """The newest `length` ads of each history on the left, order kept, zeros after them.

    Args:
        rows: int `[B, T]`, oldest first; zeros, on either side or in between, are no ads.
        length: Ads kept.

    Returns:
        int32 `[B, min(T, length)]`.

    Example:

    >>> pack_history(np.array([[0, 7, 0, 8, 9]]), 2).numpy().tolist()
    [[8, 9]]
    """
    rows = ops.cast(rows, "int32")
    if rows.shape[1] is None or rows.shape[1] > length:
        rows = _move(rows, to_left=False)[:, -length:]
    return _move(rows, to_left=True)


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


def _move(rows: Any, to_left: bool) -> Any:
    """Moves the non-zero entries of `[B, T]` to one side, order kept."""
    length = ops.shape(rows)[1]
    behind = rows == 0 if to_left else rows > 0
    # Distinct keys, because the backends' sorts aren't all stable.
    keys = ops.arange(length, dtype="int32") + length * ops.cast(behind, "int32")
    return ops.take_along_axis(rows, ops.sort(keys, axis=1) % length, axis=1)
