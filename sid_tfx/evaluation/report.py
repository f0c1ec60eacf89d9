"""One flat record with everything that is said about a result."""

from __future__ import annotations

from typing import Any

import numpy as np

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.bootstrap import bootstrap_mean
from sid_tfx.evaluation.harness import Result
from sid_tfx.evaluation.slices import list_figures, user_slices
from sid_tfx.metrics.ranking import per_user_metrics

_INTERVALS = ("recall@10", "ndcg@10")


def full_record(
    result: Result, level: str, evaluation_set: EvaluationSet, popularity: np.ndarray
) -> dict[str, Any]:
    """`Result.record` with intervals, slices, coverage and popularity bias.

    Args:
        result: Of `evaluate`.
        level: `"item"`, the number that counts, or `"sid"`.
        evaluation_set: What the result is of.
        popularity: `(N,)` training events per catalogue row.

    Returns:
        Flat. Beside the record: `NAME_low` and `NAME_high`, the 95% bootstrap interval over users,
        of recall@10 and ndcg@10; `SLICE/users`, `SLICE/recall@10` and `SLICE/ndcg@10` for every
        slice of `user_slices`; and `list_figures`, which don't depend on the level.
    """
    record = result.record(level)
    per_user = per_user_metrics(result.ranks if level == "item" else result.sid_ranks)
    for metric in _INTERVALS if len(evaluation_set) else ():
        interval = bootstrap_mean(per_user[metric])
        record |= {f"{metric}_low": interval["low"], f"{metric}_high": interval["high"]}
    for name, users in user_slices(evaluation_set, popularity).items():
        part = result.record(level, users)
        record |= {f"{name}/{key}": part[key] for key in ("users", *_INTERVALS)}
    return {**record, **list_figures(result, popularity, evaluation_set.targets)}
