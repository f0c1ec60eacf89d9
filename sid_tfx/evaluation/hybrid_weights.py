"""The weights of hybrid scoring, chosen on validation users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.exhaustive import ExhaustiveRecommender
from sid_tfx.evaluation.harness import MAX_HISTORY, GenerativeRecommender
from sid_tfx.metrics.ranking import ranking_metrics, target_ranks

DENSE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
SUCCESSOR_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)


def choose_hybrid_weights(
    hybrid: GenerativeRecommender | ExhaustiveRecommender,
    validation: EvaluationSet,
    dense_weights: Sequence[float] = DENSE_WEIGHTS,
    successor_weights: Sequence[float] = SUCCESSOR_WEIGHTS,
    filtered: bool = True,
    metric: str = "ndcg@10",
) -> list[dict[str, float]]:
    """Sets the recommender's hybrid weights to those that rank validation users best.

    One after the other: first the weight of the successors' memory, if there is one, then that of
    the dense score.

    Args:
        hybrid: Ranks in mode `"hybrid"`; its recommender is changed.
        validation: Never the test set.
        dense_weights: Tried in this order; the first of equals wins.
        successor_weights: As `dense_weights`.
        filtered: Whether ads of the history are left out.
        metric: A metric of the records.

    Returns:
        A record of every trial: `dense_weight`, `successor_weight` and the metric.

    Raises:
        ValueError: The mode is another, which no weight changes.
    """
    if hybrid.mode != "hybrid":
        raise ValueError(f"The weights are of hybrid scoring; what ranks has mode {hybrid.mode!r}.")
    model = hybrid.recommender
    # Where the search begins must not depend on what was chosen before.
    model.dense_weight.assign(1.0)
    model.successor_weight.assign(1.0)
    histories = validation.histories(MAX_HISTORY)
    trials: list[dict[str, float]] = []

    def choose(variable: Any, weights: Sequence[float]) -> None:
        found = []
        for weight in weights:
            variable.assign(weight)
            ranks = target_ranks(hybrid.recommend(histories, 10, filtered), validation.targets)
            found.append(ranking_metrics(ranks)[metric])
            trials.append(
                {
                    "dense_weight": float(model.dense_weight),
                    "successor_weight": float(model.successor_weight),
                    metric: found[-1],
                }
            )
        variable.assign(weights[found.index(max(found))])

    if model.successors is not None:
        choose(model.successor_weight, successor_weights)
    choose(model.dense_weight, dense_weights)
    return trials
