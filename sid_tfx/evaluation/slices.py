"""Groups of users, and what a method's lists look like as a whole."""

from __future__ import annotations

import numpy as np

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.harness import Result
from sid_tfx.metrics import lists
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
        `coverage@k`, `mean_popularity@k` and `popularity_bias@k`, as
        `sid_tfx.metrics.lists.list_figures` has them.
    """
    events = np.asarray(popularity)
    shown = result.recommended[:, :k]
    shown = shown[shown >= 0]
    return lists.list_figures(
        distinct=len(np.unique(shown)),
        catalogue=len(events),
        shown=len(shown),
        shown_events=events[shown].sum(),
        targets=len(targets),
        target_events=events[targets].sum(),
        k=k,
    )
