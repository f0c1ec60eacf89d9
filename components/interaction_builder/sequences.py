"""One user's events to training, validation and test examples."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

Event = tuple[int, bytes, bytes, float]
"""Timestamp, ad id, event type (empty where unknown), weight (0 where unknown)."""

SPLITS = ("leave_one_out", "global_time", "all")
"""Ways to hold events out."""

_LEAST_EVENTS = 3


@dataclasses.dataclass(frozen=True)
class Sequence:
    """A history, and in validation and test the ad that came next.

    Attributes:
        user_id: The user.
        history: Ad ids, oldest first.
        timestamps: Unix seconds of each.
        events: Event type of each, empty where unknown.
        weights: Weight of each, 0 where unknown.
        target: The next ad, or `None` in training.
        target_timestamp: Its Unix seconds.
    """

    user_id: bytes
    history: tuple[bytes, ...]
    timestamps: tuple[int, ...]
    events: tuple[bytes, ...]
    weights: tuple[float, ...]
    target: bytes | None = None
    target_timestamp: int = 0

    def to_example(self) -> bytes:
        """Serializes to a tf.Example."""
        example = tf.train.Example()
        feature = example.features.feature
        feature["user_id"].bytes_list.value.append(self.user_id)
        feature["history"].bytes_list.value.extend(self.history)
        feature["timestamps"].int64_list.value.extend(self.timestamps)
        if any(self.events):
            feature["events"].bytes_list.value.extend(self.events)
        if any(self.weights):
            feature["weights"].float_list.value.extend(self.weights)
        if self.target is not None:
            feature["target"].bytes_list.value.append(self.target)
            feature["target_timestamp"].int64_list.value.append(self.target_timestamp)
        return example.SerializeToString(deterministic=True)


def ordered_events(events: Iterable[Event]) -> list[Event]:
    """Sorts by time, then ad id; of one ad at one time the event of the largest weight is kept."""
    # The later of equal keys stays: with equal weights, the last event type by name.
    ranked = sorted(events, key=lambda event: (event[3], event[2]))
    return sorted({event[:2]: event for event in ranked}.values())


def split_user(
    user_id: bytes,
    events: list[Event],
    split: str,
    boundaries: tuple[int, int] | None = None,
) -> dict[str, Sequence]:
    """Cuts one user's events.

    Args:
        user_id: The user.
        events: From `ordered_events`.
        split: `"leave_one_out"`: the last event is the test target, the one before it the
            validation target, the rest is training; users of fewer than 3 events train wholly.
            `"all"`: the same targets, but every event trains too, so they are **not** held out.
            `"global_time"`: training ends at the first boundary; a window's target is the user's
            first event in it, after the whole history before.
        boundaries: Start of the validation and of the test window, Unix seconds; `global_time`
            only.

    Returns:
        `train`, `validation`, `test` -> sequence, those that the user has.
    """
    sequences: dict[str, Sequence] = {}
    if split == "global_time":
        assert boundaries is not None
        times = [event[0] for event in events]
        edges = [int(np.searchsorted(times, boundary)) for boundary in boundaries]
        trained = edges[0]
        targets = {"validation": (edges[0], edges[1]), "test": (edges[1], len(events))}
        held_out = {name: first for name, (first, end) in targets.items() if 0 < first < end}
    else:
        enough = len(events) >= _LEAST_EVENTS
        trained = len(events) - 2 if enough and split == "leave_one_out" else len(events)
        held_out = {"validation": len(events) - 2, "test": len(events) - 1} if enough else {}
    if trained:
        sequences["train"] = _sequence(user_id, events[:trained])
    for name, position in held_out.items():
        time, ad_id, *_ = events[position]
        history = _sequence(user_id, events[:position])
        sequences[name] = dataclasses.replace(history, target=ad_id, target_timestamp=time)
    return sequences


def _sequence(user_id: bytes, events: list[Event]) -> Sequence:
    times, ads, types, weights = zip(*events, strict=True)
    return Sequence(user_id, ads, times, types, weights)
