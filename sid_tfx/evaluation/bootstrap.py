"""Bootstrap over users: how far a figure hangs on which users there are."""

from __future__ import annotations

import numpy as np

from sid_tfx.evaluation.harness import Result
from sid_tfx.metrics.ranking import per_user_metrics

# Counts held at once: 32 MB.
_DRAWS = 4_000_000


def paired_bootstrap(
    first: Result,
    second: Result,
    metric: str = "ndcg@10",
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """Interval of the difference `first - second` over users, both on the same users.

    Args:
        first: A result.
        second: Another, of the same evaluation set.
        metric: A metric of the records.
        resamples: Bootstrap samples.
        confidence: Of the interval.
        seed: Of the resampling.

    Returns:
        `difference` of the means, `low` and `high` ends of the percentile interval.
    """
    if len(first.ranks) != len(second.ranks) or not len(first.ranks):
        raise ValueError(
            f"Paired comparison needs the same users on both sides, at least one; got "
            f"{len(first.ranks)} and {len(second.ranks)}."
        )
    values = [per_user_metrics(result.ranks) for result in (first, second)]
    if metric not in values[0]:
        raise ValueError(f"metric must be one of {sorted(values[0])}, got {metric!r}.")
    difference = values[0][metric] - values[1][metric]
    return bootstrap_mean(difference, resamples, confidence, seed)


def bootstrap_mean(
    differences: np.ndarray, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """Interval of the mean of paired differences, one per user.

    For figures that no single result has, such as a metric averaged over seeds; two results are
    compared by `paired_bootstrap`.

    Args:
        differences: float `[U]`, at least one.
        resamples: Bootstrap samples.
        confidence: Of the interval.
        seed: Of the resampling.

    Returns:
        `difference`, the mean, `low` and `high` ends of the percentile interval.

    Raises:
        ValueError: There is no user, or the confidence is not in (0, 1).

    Example:

    >>> bootstrap_mean(np.array([0.5, 0.5]))
    {'difference': 0.5, 'low': 0.5, 'high': 0.5}
    """
    if not len(differences) or not 0 < confidence < 1:
        raise ValueError(
            f"An interval needs at least one user and a confidence in (0, 1); got "
            f"{len(differences)} users and confidence={confidence}."
        )
    # Few distinct differences occur, so draw how often each does instead of drawing users.
    distinct, counts = np.unique(differences, return_counts=True)
    users = len(differences)
    rng = np.random.default_rng(seed)
    block = max(1, _DRAWS // max(1, len(distinct)))
    means = [
        rng.multinomial(users, counts / users, size=min(block, resamples - start)) @ distinct
        for start in range(0, resamples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means) / users, [tail, 1 - tail])
    return {"difference": float(np.mean(differences)), "low": float(low), "high": float(high)}
