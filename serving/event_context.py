"""The context of histories, checked, and as the wire's blocks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

_INT64_MAX = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class HistoryContext:
    """What is known of the events of each history of a call.

    Args:
        timestamps: Unix seconds by history; 0 where unknown.
        events: event types by history; "" where unknown.
        weights: weights by history; 0 where unknown.
    """

    timestamps: Sequence[Sequence[int]]
    events: Sequence[Sequence[str]]
    weights: Sequence[Sequence[float]]

    @classmethod
    def of(
        cls,
        histories: Sequence[Sequence[str]],
        single: bool,
        timestamps: Sequence[Any] | None,
        events: Sequence[Any] | None,
        weights: Sequence[Any] | None,
    ) -> HistoryContext:
        """Checks what a call was given.

        Args:
            histories: ad ids by history.
            single: whether the call has one history, whose context then is flat.
            timestamps: None where none is known, as the next two.
            events: event types.
            weights: weights.

        Raises:
            TypeError: a value is of the wrong kind.
            ValueError: a length, an order or a value is wrong; the message names it.
        """
        given = {"timestamps": timestamps, "events": events, "weights": weights}
        checks = {
            "timestamps": _check_timestamps,
            "events": _check_events,
            "weights": _check_weights,
        }
        columns: dict[str, list[Sequence[Any]]] = {}
        for name, values in given.items():
            if values is None:
                columns[name] = [[] for _ in histories]
                continue
            if isinstance(values, str | bytes):
                raise TypeError(
                    f"{name} is {values!r}: give a list, one value an ad of the history"
                )
            rows = [values] if single else list(values)
            if len(rows) != len(histories):
                raise ValueError(f"{name} has {len(rows)} lists for {len(histories)} histories")
            for row, history in zip(rows, histories, strict=True):
                _check_row(name, row, len(history))
                checks[name](row)
            columns[name] = rows
        return cls(**columns)

    def blocks(self, width: int) -> dict[str, np.ndarray]:
        """The inputs of the wire, the newest `width` events of each history, padded at the end."""
        rows = len(self.timestamps)
        blocks = {
            "history_timestamps": np.zeros((rows, width), np.int64),
            "history_events": np.full((rows, width), b"", object),
            "history_weights": np.zeros((rows, width), np.float32),
        }
        for row in range(rows):
            events = [event.encode() for event in self.events[row][-width:]]
            blocks["history_events"][row, : len(events)] = events
            for name in ("timestamps", "weights"):
                newest = getattr(self, name)[row][-width:]
                blocks[f"history_{name}"][row, : len(newest)] = newest
        return blocks


def _check_row(name: str, row: Any, ads: int) -> None:
    if not isinstance(row, list | tuple | np.ndarray):
        raise TypeError(f"{name} holds {row!r}: give one list a history, one value an ad")
    if len(row) != ads:
        raise ValueError(
            f"{name} has {len(row)} values for a history of {ads} ads: give one for each, "
            f"{'an empty string' if name == 'events' else '0'} where it is unknown"
        )


def _check_timestamps(row: Sequence[Any]) -> None:
    for value in row:
        if not isinstance(value, Integral) or isinstance(value, bool):
            raise TypeError(f"a timestamp is {value!r}: send whole Unix seconds")
        if not 0 <= int(value) <= _INT64_MAX:
            raise ValueError(f"a timestamp is {value}: send Unix seconds, 0 where it is unknown")
    known = [int(value) for value in row if value]
    for before, after in itertools.pairwise(known):
        if after < before:
            raise ValueError(f"timestamps go from {before} back to {after}: send oldest first")


def _check_events(row: Sequence[Any]) -> None:
    for value in row:
        if not isinstance(value, str):
            raise TypeError(f"an event type is {value!r}: event types are strings")


def _check_weights(row: Sequence[Any]) -> None:
    for value in row:
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"a weight is {value!r}: send a number, 0 where it is unknown")
        if not 0 <= float(value) < np.inf:
            raise ValueError(f"a weight is {value}: it must be finite and at least 0")
