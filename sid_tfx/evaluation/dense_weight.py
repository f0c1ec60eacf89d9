"""The weight of hybrid scoring, chosen on validation users."""

from __future__ import annotations

from collections.abc import Mapping

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.exhaustive import ExhaustiveRecommender
from sid_tfx.evaluation.harness import MAX_HISTORY, GenerativeRecommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks


def choose_dense_weight(
    hybrid: GenerativeRecommender | ExhaustiveRecommender,
    validation: EvaluationSet,
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    filtered: bool = True,
    metric: str = "ndcg@10",
) -> Mapping[float, float]:
    """Sets the recommender's `dense_weight` to the best of `weights` on validation users.

    Args:
        hybrid: Ranks in mode `"hybrid"`; its recommender is changed.
        validation: Never the test set.
        weights: Tried in this order; the first of equals wins.
        filtered: Whether ads of the history are left out.
        metric: A metric of the records.

    Returns:
        The metric of every weight.

    Raises:
        ValueError: The mode is another, which no weight changes.
    """
    if hybrid.mode != "hybrid":
        raise ValueError(f"The weight is of hybrid scoring; what ranks has mode {hybrid.mode!r}.")
    found: dict[float, float] = {}
    for weight in weights:
        hybrid.recommender.dense_weight.assign(weight)
        rows = hybrid.recommend(validation.histories(MAX_HISTORY), 10, filtered)
        found[weight] = ranking_metrics(target_ranks(rows, validation.targets))[metric]
    hybrid.recommender.dense_weight.assign(max(found, key=lambda weight: found[weight]))
    return found
