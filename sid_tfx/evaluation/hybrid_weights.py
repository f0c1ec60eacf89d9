"""The weights of hybrid scoring, chosen on validation users."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.evaluation.exhaustive import ExhaustiveRecommender
from sid_tfx.evaluation.harness import MAX_HISTORY, GenerativeRecommender
from sid_tfx.hybrid_terms import HybridTerms
from sid_tfx.metrics.ranking import ranking_metrics

DENSE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0)
SUCCESSOR_WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)

_BEGIN = 1.0
_LISTED = 10


def choose_hybrid_weights(
    hybrid: GenerativeRecommender | ExhaustiveRecommender,
    validation: EvaluationSet,
    dense_weights: Sequence[float] = DENSE_WEIGHTS,
    successor_weights: Sequence[float] = SUCCESSOR_WEIGHTS,
    filtered: bool = True,
    metric: str = "ndcg@10",
    max_history: int = MAX_HISTORY,
) -> list[dict[str, float]]:
    """Sets the recommender's hybrid weights to those that rank validation users best.

    One after the other: first the weight of the successors' memory, if there is one, then that of
    the dense score. The users are decoded once, for neither weight changes what there is to rank.

    Args:
        hybrid: Ranks in mode `"hybrid"`; its recommender is changed.
        validation: Never the test set.
        dense_weights: Tried in this order; the first of equals wins.
        successor_weights: As `dense_weights`.
        filtered: Whether ads of the history are left out.
        metric: A metric of the records.
        max_history: Newest ads of a history that are read: as many as where the model will rank.

    Returns:
        A record of every trial: `dense_weight`, `successor_weight` and the metric.

    Raises:
        ValueError: The mode is another, which no weight changes.
    """
    if hybrid.mode != "hybrid":
        raise ValueError(f"The weights are of hybrid scoring; what ranks has mode {hybrid.mode!r}.")
    model = hybrid.recommender
    remembers = model.successors is not None
    # Where the search begins does not depend on what was chosen before; a dense weight that is not
    # to be chosen is the one to begin at.
    begin = _BEGIN if _BEGIN in dense_weights else dense_weights[0]
    first = [(begin, weight) for weight in successor_weights] if remembers else []
    followed = successor_weights if remembers else (_BEGIN,)
    second = [(dense, weight) for weight in followed for dense in dense_weights]
    histories = validation.histories(max_history)
    pairs = dict.fromkeys(first + second)
    figures = _figures(hybrid, histories, validation.targets, pairs, filtered, metric)
    successor_weight = max(first, key=lambda pair: figures[pair])[1] if remembers else _BEGIN
    last = [pair for pair in second if pair[1] == successor_weight]
    dense_weight = max(last, key=lambda pair: figures[pair])[0]
    model.dense_weight.assign(dense_weight)
    model.successor_weight.assign(successor_weight)
    return [
        {"dense_weight": float(pair[0]), "successor_weight": float(pair[1]), metric: figures[pair]}
        for pair in first + last
    ]


def _figures(
    hybrid: GenerativeRecommender | ExhaustiveRecommender,
    histories: np.ndarray,
    all_targets: np.ndarray,
    pairs: Iterable[tuple[float, float]],
    filtered: bool,
    metric: str,
) -> dict[tuple[float, float], float]:
    """The metric under pairs of dense and successor weight. Decodes once: no term has a weight."""
    ranks = {pair: [np.zeros(0, np.int64)] for pair in pairs}
    begin = 0
    for terms in hybrid.hybrid_terms(histories, _LISTED, filtered):
        targets = all_targets[begin : begin + len(terms.rows)]
        begin += len(terms.rows)
        for pair, found in ranks.items():
            found.append(_ranks(terms, targets, *pair))
    return {pair: ranking_metrics(np.concatenate(found))[metric] for pair, found in ranks.items()}


def _ranks(
    terms: HybridTerms, targets: np.ndarray, dense_weight: float, successor_weight: float
) -> np.ndarray:
    """Rank of each target among the candidates, 0 where it is none; the further left wins ties."""
    scores = terms.scores(np.float32(dense_weight), np.float32(successor_weight))
    hits = terms.rows == targets[:, None]
    place = hits.argmax(axis=1)[:, None]
    own = np.take_along_axis(scores, place, axis=1)
    before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < place))
    rank = 1 + before.sum(axis=1)
    there = hits.any(axis=1) & (own[:, 0] > -np.inf) & (rank <= _LISTED)
    return np.where(there, rank, 0)
