"""Groups of users that ranking metrics are also given for."""

from __future__ import annotations

import numpy as np

COLD = "target:cold"
SLICES = (
    "history:1-4", "history:5-9", "history:10+",
    COLD, "target:1-9", "target:10-49", "target:50+",
)  # fmt: skip
"""By length of the history and by training events of the target; `cold` targets have none."""


def slice_masks(history_lengths: np.ndarray, target_events: np.ndarray) -> dict[str, np.ndarray]:
    """Which users are in which slice; for the harness and for the TFX Evaluator.

    Args:
        history_lengths: `(U,)` ads that a user met before the target.
        target_events: `(U,)` training events of the target.

    Returns:
        bool `(U,)` by name, in the order of `SLICES`. Every user with a history is in one slice of
        each kind.

    Example:

    >>> masks = slice_masks(np.array([3]), np.array([0]))
    >>> [name for name, mask in masks.items() if mask[0]]
    ['history:1-4', 'target:cold']
    """
    lengths, events = np.asarray(history_lengths), np.asarray(target_events)
    return {
        "history:1-4": (lengths >= 1) & (lengths <= 4),
        "history:5-9": (lengths >= 5) & (lengths <= 9),
        "history:10+": lengths >= 10,
        COLD: events == 0,
        "target:1-9": (events >= 1) & (events <= 9),
        "target:10-49": (events >= 10) & (events <= 49),
        "target:50+": events >= 50,
    }
