"""User sequences, and splits of a log without leakage."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from sid_tfx.context import EventContext

_NO_CONTEXT = EventContext()


@dataclasses.dataclass(frozen=True, eq=False)
class Sequences:
    """Histories of different lengths in one flat array.

    Args:
        offsets: int64 `(S + 1,)`; history `i` is `rows[offsets[i]:offsets[i + 1]]`.
        rows: int32 `(E,)` catalogue rows, oldest first within a history.
        timestamps: int64 `(E,)`, Unix seconds, 0 where unknown.
        events: str `(E,)` event types, "" where unknown; None where the log has none.
        weights: float32 `(E,)`, 0 where unknown; None where the log has none.
        context: What `padded` gives beside the rows.
    """

    offsets: np.ndarray
    rows: np.ndarray
    timestamps: np.ndarray
    events: np.ndarray | None = None
    weights: np.ndarray | None = None
    context: EventContext = _NO_CONTEXT

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 `(S,)`."""
        return np.diff(self.offsets)

    def in_context(self, context: EventContext) -> Sequences:
        """The same histories, `padded` with this context."""
        return dataclasses.replace(self, context=context)

    def padded(self, length: int, index: np.ndarray | None = None) -> np.ndarray:
        """The newest `length` ads as int32 `(S, length)` of row + 1, zeros on the right.

        Args:
            length: Columns.
            index: Which histories; all by default.

        Returns:
            The rows; with a context `(S, length, 1 + C)`, its ids after the row.
        """
        return self.at(*self.newest(length, index))

    def at(
        self, position: np.ndarray, inside: np.ndarray, segments: np.ndarray | None = None
    ) -> np.ndarray:
        """The events at some places of the flat arrays, as histories.

        Gaps of time are those between neighbours here, whatever lay between them in the log.

        Args:
            position: int64 `(S, T)`, places in `rows`, rising within a history.
            inside: bool `(S, T)`; False is padding, whatever its place.
            segments: int32 `(S, T)`, equal where two events are of one history; None if a row is
                one.

        Returns:
            int32 `(S, T)` of row + 1, 0 for padding; with a context `(S, T, 1 + C)`, its ids after
            the row.
        """
        rows = np.where(inside, _picked(self.rows, position, inside) + 1, 0).astype(np.int32)
        if not self.context:
            return rows
        events, weights = self.events, self.weights
        ids = self.context.encode(
            _picked(self.timestamps, position, inside),
            None if events is None else _picked(events, position, inside),
            None if weights is None else _picked(weights, position, inside),
            segments,
        )
        return np.concatenate([rows[..., None], ids * inside[..., None]], axis=-1, dtype=np.int32)

    def newest(self, length: int, index: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Places `(S, length)` of the newest events, and which of them there are.

        Args:
            length: Columns.
            index: Which histories; all by default.

        Returns:
            What `at` takes: int64 places, the oldest on the left, and bool, False past the newest.
        """
        chosen = np.arange(len(self)) if index is None else np.asarray(index)
        ends = self.offsets[chosen + 1]
        starts = np.maximum(self.offsets[chosen], ends - length)
        position = starts[:, None] + np.arange(length)
        return position, position < ends[:, None]

    def ranges(self, starts: np.ndarray, ends: np.ndarray) -> Sequences:
        """The slices `[start, end)` of the flat arrays as histories."""
        lengths = ends - starts
        offsets = _offsets(lengths)
        index = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Sequences(
            offsets,
            self.rows[index],
            self.timestamps[index],
            None if self.events is None else self.events[index],
            None if self.weights is None else self.weights[index],
            self.context,
        )

    def popularity(self, num_ads: int) -> np.ndarray:
        """int64 `(num_ads,)`: events per catalogue row; row -1, an ad not in it, counts nowhere."""
        return np.bincount(self.rows[self.rows >= 0], minlength=num_ads)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationSet:
    """One target per user, with everything the user did before it.

    Args:
        users: `(U,)` user ids, sorted.
        inputs: The `U` histories.
        targets: int32 `(U,)` catalogue rows.
        target_timestamps: int64 `(U,)`.
    """

    users: np.ndarray
    inputs: Sequences
    targets: np.ndarray
    target_timestamps: np.ndarray

    def __len__(self) -> int:
        return len(self.targets)

    def histories(self, max_history: int = 20) -> np.ndarray:
        """The newest `max_history` ads, int32 `(U, max_history)`, see `Sequences.padded`."""
        return self.inputs.padded(max_history)

    def in_context(self, context: EventContext) -> EvaluationSet:
        """The same users; their histories have this context."""
        return dataclasses.replace(self, inputs=self.inputs.in_context(context))

    def sample(self, users: int) -> EvaluationSet:
        """At most `users` users, spread evenly over the sorted user ids; the same every time."""
        if users >= len(self):
            return self
        kept = np.linspace(0, len(self) - 1, users).astype(np.int64)
        offsets = self.inputs.offsets
        return EvaluationSet(
            self.users[kept],
            self.inputs.ranges(offsets[kept], offsets[kept + 1]),
            self.targets[kept],
            self.target_timestamps[kept],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class SequenceSplits:
    """Training histories and two evaluation sets that training never sees."""

    train: Sequences
    validation: EvaluationSet
    test: EvaluationSet

    def in_context(self, context: EventContext) -> SequenceSplits:
        """The same events; all histories have this context."""
        return SequenceSplits(
            self.train.in_context(context),
            self.validation.in_context(context),
            self.test.in_context(context),
        )


def leave_one_out(
    user_ids: np.ndarray,
    rows: np.ndarray,
    timestamps: np.ndarray,
    min_events: int = 3,
    events: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> SequenceSplits:
    """Last event: test target; the one before: validation target; the rest: training.

    Users with fewer than `min_events` events only train. Events are ordered by timestamp, ties
    by catalogue row, which is ad-id order: the order of the input never matters. Events of one
    user, ad and time count once, or a target could be read from its own history: the one of the
    largest weight stays, of equal weights the one of the last event type by name.

    Args:
        user_ids: `(E,)` user of each event.
        rows: `(E,)` catalogue row of each event; events with -1 (unknown ad) are left out.
        timestamps: `(E,)` Unix seconds.
        min_events: Events that a user needs to be evaluated, at least 3.
        events: Optional str `(E,)`, event types; "" where unknown.
        weights: Optional float32 `(E,)`; 0 where unknown.

    Example:

    >>> splits = leave_one_out(np.array(["u"] * 4), np.array([5, 3, 8, 1]), np.arange(4))
    >>> splits.train.rows.tolist(), splits.validation.targets.tolist(), splits.test.targets.tolist()
    ([5, 3], [8], [1])
    """
    if min_events < 3:
        raise ValueError(
            f"min_events must be >= 3 (one event each to learn from, choose on and "
            f"test on), got {min_events}."
        )
    users, log = _ordered(user_ids, rows, timestamps, events, weights)
    judged = log.lengths >= min_events
    starts, ends = log.offsets[:-1], log.offsets[1:]
    train = log.ranges(starts, np.where(judged, ends - 2, ends))
    starts, ends = starts[judged], ends[judged]

    def held_out(target: np.ndarray) -> EvaluationSet:
        inputs = log.ranges(starts, target)
        return EvaluationSet(users[judged], inputs, log.rows[target], log.timestamps[target])

    return SequenceSplits(train, held_out(ends - 2), held_out(ends - 1))


def global_time(
    user_ids: np.ndarray,
    rows: np.ndarray,
    timestamps: np.ndarray,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    events: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> SequenceSplits:
    """Splits at two points in time that are the same for all users, as a live system would.

    Training sees only what happened before the first point. A user's first event between the two
    points is a validation target, the first one after the second point a test target, each with
    everything the user did before it; users without an earlier event are left out. Events are
    ordered and repeats dropped as by `leave_one_out`; `time_boundaries` of what stays gives the
    two points.

    Args:
        user_ids: As `leave_one_out`.
        rows: As `leave_one_out`.
        timestamps: As `leave_one_out`.
        validation_share: Share of events between the two points.
        test_share: Share of events after the second point.
        events: As `leave_one_out`.
        weights: As `leave_one_out`.

    Raises:
        ValueError: There are no events of known ads, or the shares leave none for training.
    """
    users, log = _ordered(user_ids, rows, timestamps, events, weights)
    timestamps = log.timestamps
    times, counts = np.unique(timestamps, return_counts=True)
    first, second = time_boundaries(times, counts, validation_share, test_share)
    starts, ends = log.offsets[:-1], log.offsets[1:]

    def events_before(point: int) -> np.ndarray:
        counts = np.concatenate([[0], np.cumsum(timestamps < point)])
        return starts + counts[ends] - counts[starts]

    def held_out(target: np.ndarray, end: np.ndarray) -> EvaluationSet:
        judged = (target < end) & (target > starts)
        chosen = target[judged]
        inputs = log.ranges(starts[judged], chosen)
        return EvaluationSet(users[judged], inputs, log.rows[chosen], timestamps[chosen])

    cut_first, cut_second = events_before(first), events_before(second)
    return SequenceSplits(
        log.ranges(starts, cut_first),
        held_out(cut_first, cut_second),
        held_out(cut_second, ends),
    )


def time_boundaries(
    times: np.ndarray, counts: np.ndarray, validation_share: float, test_share: float
) -> tuple[int, int]:
    """Where the validation and the test window of `global_time` begin.

    A boundary is the time of the event at index share * events of the log sorted by time, where
    share is that of training, or of training and validation. The events of one time stay together
    in the later part, so that ties never give training more than its share.

    Args:
        times: int64 `(T,)`, the distinct timestamps, rising.
        counts: int `(T,)`, how many events each has, at least 1.
        validation_share: Share of events between the two points.
        test_share: Share of events after the second point.

    Raises:
        ValueError: There are no events, or the shares leave none for training.

    Example:

    >>> time_boundaries(np.array([10, 20, 30]), np.array([5, 3, 2]), 0.3, 0.2)
    (20, 30)
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ValueError(
            "validation_share and test_share must be > 0 and sum to less than 1, got "
            f"{validation_share} and {test_share}."
        )
    if not len(times):
        raise ValueError("No events of known ads to split.")
    shares = np.array([1 - validation_share - test_share, 1 - test_share])
    last = np.cumsum(counts)
    # The small term keeps 0.6 * 10 at 6 whatever way the 0.6 was computed.
    index = np.minimum((shares * last[-1] + 1e-6).astype(np.int64), last[-1] - 1)
    first, second = times[np.searchsorted(last, index, side="right")].tolist()
    return first, second


def _ordered(
    user_ids: np.ndarray,
    rows: np.ndarray,
    timestamps: np.ndarray,
    events: np.ndarray | None,
    weights: np.ndarray | None,
) -> tuple[np.ndarray, Sequences]:
    """Users (sorted) and their distinct events of known ads, in order of time, then row."""
    given = {"user_ids": user_ids, "rows": rows, "timestamps": timestamps}
    given |= {} if events is None else {"events": events}
    given |= {} if weights is None else {"weights": weights}
    columns = {name: np.asarray(values) for name, values in given.items()}
    shapes = [values.shape for values in columns.values()]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1:
        raise ValueError(
            f"{', '.join(columns)} must be flat and equally long, got shapes "
            f"{', '.join(map(str, shapes))}."
        )
    known = columns["rows"] >= 0
    users, codes = np.unique(columns.pop("user_ids")[known], return_inverse=True)
    types = {"rows": np.int32, "timestamps": np.int64, "events": np.str_, "weights": np.float32}
    # Sorted as they are kept: weights that differ in the input may be equal here.
    log: dict[str, Any] = {
        name: values[known].astype(types[name]) for name, values in columns.items()
    }
    kept = _distinct((log["rows"], log["timestamps"], codes), log.get("weights"), log.get("events"))
    counts = np.bincount(codes[kept], minlength=len(users))
    return users, Sequences(_offsets(counts), **{name: log[name][kept] for name in log})


def _distinct(
    keys: tuple[np.ndarray, ...], weights: np.ndarray | None, events: np.ndarray | None
) -> np.ndarray:
    """Places of one event for each value of the keys, sorted by them, the last before the rest."""
    # Repeats become neighbours; their last has the largest weight, then the last event type.
    beside = [values for values in (events, weights) if values is not None]
    order = np.lexsort((*beside, *keys))
    last = np.ones(len(order), bool)
    last[:-1] = np.any([np.diff(values[order]) != 0 for values in keys], axis=0)
    return order[last]


def _offsets(lengths: np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _picked(values: np.ndarray, position: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """`values` at `position`; 0 or "" outside."""
    if not len(values):
        return np.zeros(position.shape, values.dtype)
    picked = values[np.minimum(position, len(values) - 1)]
    return np.where(inside, picked, np.zeros((), values.dtype))
