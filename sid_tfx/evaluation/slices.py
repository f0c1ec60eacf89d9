"""Groups of users, and what a method's lists look like as a whole."""

from __future__ import annotations

import numpy as np

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.harness import Result
from sid_tfx.metrics.slices import slice_masks


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
