"""Groups of users, and what a method's lists look like as a whole."""

from __future__ import annotations

import numpy as np

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.harness import Result

SLICES = (
    "history:1-4", "history:5-9", "history:10+",
    "target:cold", "target:1-9", "target:10-49", "target:50+",
)  # fmt: skip
"""By length of the history and by training events of the target; `cold` targets have none."""


def slice_masks(history_lengths: np.ndarray, target_events: np.ndarray) -> dict[str, np.ndarray]:
    """Which users are in which slice; the TFX Evaluator slices by it too.

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
        "target:cold": events == 0,
        "target:1-9": (events >= 1) & (events <= 9),
        "target:10-49": (events >= 10) & (events <= 49),
        "target:50+": events >= 50,
    }


def user_slices(evaluation_set: EvaluationSet, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """`slice_masks` of an evaluation set, for `Result.record`.

    Args:
        evaluation_set: The users.
        popularity: `(N,)` training events per catalogue row.
    """
    events = np.asarray(popularity)[evaluation_set.targets]
    return slice_masks(evaluation_set.inputs.lengths, events)


def list_figures(
    result: Result, popularity: np.ndarray, targets: np.ndarray, k: int = 10
) -> dict[str, float]:
    """Coverage and popularity bias of the first `k` results.

    Args:
        result: Of `evaluate`.
        popularity: `(N,)` training events per catalogue row.
        targets: `(U,)` rows that the users chose.
        k: Results looked at.

    Returns:
        `coverage@k`: share of the catalogue returned to anyone; `mean_popularity@k`: training
        events of a returned ad, on average; `popularity_bias@k`: that over the same of the
        targets, so that above 1 the lists are more popular than what users choose.
    """
    events = np.asarray(popularity)
    shown = result.recommended[:, :k]
    shown = shown[shown >= 0]
    mean = float(events[shown].mean()) if len(shown) else 0.0
    chosen = float(events[targets].mean()) if len(targets) else 0.0
    return {
        f"coverage@{k}": len(np.unique(shown)) / len(events),
        f"mean_popularity@{k}": mean,
        # Where all targets are cold, one event among them stands in for none.
        f"popularity_bias@{k}": mean / max(chosen, 1.0 / max(len(targets), 1)),
    }
