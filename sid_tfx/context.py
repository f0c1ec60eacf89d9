"""The context of an event, beside its ad: time, event type and weight, as small ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sid_tfx.datasets.sequences import Sequences

FIELDS = ("time", "event", "weight")
"""What can be read, in the order of the ids."""

TIME_EDGES = 2 ** np.arange(28, dtype=np.int64)
"""Gaps in seconds, from one to four years, where the next id begins."""

WEIGHT_EDGES = (2.0 ** (np.arange(1, 31) / 2) - 1).astype(np.float32)
"""Weights where the next id begins: even steps of log(1 + weight)."""

MAX_EVENT_TYPES = 64
"""Event types that are told apart: the most frequent ones."""


@dataclasses.dataclass(frozen=True)
class EventContext:
    """What a recommender reads of an event beside its ad, and how it is made into ids.

    An id of 0 is an unknown value, whatever the field. Time is the gap to the event before it *in
    the history that is read*, on a logarithmic scale from a second to four years; the first event
    has none. A weight is put on the scale of log(1 + weight).

    Args:
        time: Whether gaps of time are read.
        events: The event types that are read, in the order of their ids; others are unknown.
        weight: Whether weights are read.

    Raises:
        ValueError: An event type is empty or given twice, or there are too many.

    Example:

    >>> context = EventContext(time=True, events=("click",))
    >>> context.encode(np.array([[100, 104]]), np.array([["click", "view"]])).tolist()
    [[[0, 1], [4, 0]]]
    """

    time: bool = False
    events: tuple[str, ...] = ()
    weight: bool = False

    def __post_init__(self) -> None:
        events = tuple(self.events)
        if "" in events or len(set(events)) < len(events) or len(events) > MAX_EVENT_TYPES:
            raise ValueError(
                f"events must be at most {MAX_EVENT_TYPES} different names, none empty, got "
                f"{list(events)}."
            )
        object.__setattr__(self, "events", events)

    @classmethod
    def of(cls, train: Sequences, fields: Sequence[str] | None = None) -> EventContext:
        """The context of a log.

        Args:
            train: Training histories with all that the log has.
            fields: Of `FIELDS`; None takes what the log has more than one value of.

        Raises:
            ValueError: A field is not known, or the log has no value of it.
        """
        types, counts = _known_types(train.events)
        weights = train.weights if train.weights is not None else np.zeros(0, np.float32)
        has = {
            "time": len(np.unique(train.timestamps)),
            "event": len(types),
            "weight": len(np.unique(weights[weights > 0])),
        }
        chosen = [name for name in FIELDS if has[name] > 1] if fields is None else list(fields)
        for name in chosen:
            if name not in FIELDS:
                raise ValueError(f"context must be of {list(FIELDS)}, got {name!r}.")
            if not has[name]:
                raise ValueError(
                    f"context names {name!r}, but no training event has a value of it; it has "
                    f"{[field for field in FIELDS if has[field]]}."
                )
        frequent = sorted(types[np.argsort(-counts, kind="stable")[:MAX_EVENT_TYPES]].tolist())
        return cls(
            "time" in chosen, tuple(frequent) if "event" in chosen else (), "weight" in chosen
        )

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that are read, in the order of the ids."""
        read = (self.time, bool(self.events), self.weight)
        return tuple(name for name, is_read in zip(FIELDS, read, strict=True) if is_read)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ids of each field that is read, 0 included."""
        sizes = {
            "time": len(TIME_EDGES) + 2,
            "event": len(self.events) + 1,
            "weight": len(WEIGHT_EDGES) + 2,
        }
        return tuple(sizes[name] for name in self.fields)

    def __bool__(self) -> bool:
        """Whether anything is read."""
        return bool(self.fields)

    def encode(
        self,
        timestamps: np.ndarray,
        events: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        segments: np.ndarray | None = None,
    ) -> np.ndarray:
        """The ids of histories.

        Args:
            timestamps: int64 `(S, T)`, Unix seconds, oldest first; 0 where unknown.
            events: str `(S, T)`, "" where unknown; None where none is known.
            weights: float32 `(S, T)`, 0 where unknown; None where none is known.
            segments: int32 `(S, T)`, equal where two events are of one history; None if a row is
                one.

        Returns:
            int32 `(S, T, C)`, the last axis in the order of `fields`.
        """
        shape = np.shape(timestamps)
        found = []
        if self.time:
            found.append(time_ids(np.asarray(timestamps), segments))
        if self.events:
            found.append(np.zeros(shape, int) if events is None else self._event_ids(events))
        if self.weight:
            found.append(np.zeros(shape, int) if weights is None else weight_ids(weights))
        return (
            np.stack(found, axis=-1).astype(np.int32) if found else np.zeros((*shape, 0), np.int32)
        )

    def _event_ids(self, events: np.ndarray) -> np.ndarray:
        order = np.argsort(self.events)
        names = np.asarray(self.events)[order]
        place = np.minimum(np.searchsorted(names, events), len(names) - 1)
        return np.where(names[place] == events, order[place] + 1, 0)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-able values."""
        return {**dataclasses.asdict(self), "events": list(self.events)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any] | None) -> EventContext:
        """Makes the context from `to_dict()`'s result; of None one that reads nothing."""
        return cls(**(fields or {}))


def time_ids(timestamps: np.ndarray, segments: np.ndarray | None = None) -> np.ndarray:
    """Ids of the gaps before each of the times `(S, T)`; 0 where either time is unknown.

    Nor has the first time of a segment a gap before it.
    """
    before, after = timestamps[:, :-1], timestamps[:, 1:]
    ids = 1 + np.searchsorted(TIME_EDGES, after - before, side="right")
    known = (before > 0) & (after > 0)
    if segments is not None:
        known &= segments[:, :-1] == segments[:, 1:]
    return np.pad(np.where(known, ids, 0), ((0, 0), (1, 0)))


def weight_ids(weights: np.ndarray) -> np.ndarray:
    """Ids of weights; 0 where one is unknown."""
    weights = np.asarray(weights, np.float32)
    return np.where(weights > 0, 1 + np.searchsorted(WEIGHT_EDGES, weights, side="right"), 0)


def _known_types(events: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The different event types of a log, sorted, and how often each occurs."""
    if events is None:
        return np.array([], str), np.array([], int)
    return np.unique(events[events != ""], return_counts=True)
