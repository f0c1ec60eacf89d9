"""The harness: every method, one protocol, records that people and scripts read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.decoder import SidDecoder
from sid_tfx.metrics.ranking import per_user_metrics, ranking_metrics, sid_ranks, target_ranks

MAX_HISTORY = 20
# Counts held at once by the bootstrap: 32 MB.
_BOOTSTRAP_DRAWS = 4_000_000


class Recommender(Protocol):
    """Anything that ranks ads for histories."""

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool) -> np.ndarray:
        """Ranks ads.

        Args:
            histories: int32 `(U, T)` of catalogue row + 1, oldest first, 0 for padding.
            k: Results per user.
            filter_seen: Whether to leave out the ads of the history.

        Returns:
            int32 `(U, k)` catalogue rows, best first, -1 past the last result.
        """
        ...


class GenerativeRecommender:
    """A `SidDecoder` as the harness wants it: batched, one graph per setting.

    Args:
        decoder: The decoder.
        mode: `"generative"` or `"hybrid"`.
        batch_size: Users per call.
    """

    def __init__(
        self, decoder: SidDecoder, mode: str = "generative", batch_size: int = 256
    ) -> None:
        self.decoder = decoder
        self.mode = mode
        self.batch_size = batch_size
        self._graphs: dict[tuple[int, bool, int], Callable[[tf.Tensor], tf.Tensor]] = {}

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """See `Recommender.recommend`."""
        key = (k, filter_seen, histories.shape[1])
        if key not in self._graphs:

            @tf.function(input_signature=[tf.TensorSpec([None, histories.shape[1]], tf.int32)])
            def graph(rows: tf.Tensor) -> tf.Tensor:
                return self.decoder.recommend(rows, k, self.mode, filter_seen=filter_seen).rows

            self._graphs[key] = graph
        graph = self._graphs[key]
        parts = [
            graph(tf.constant(histories[i : i + self.batch_size])).numpy()
            for i in range(0, len(histories), self.batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, k), np.int32)


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """What one method returned for one evaluation set under one setting.

    Args:
        method: Name of the method.
        mode: Its mode, `""` for methods that have one only.
        filtered: Whether ads of the history were left out.
        ranks: int `(U,)` item-level ranks, 0 where the target wasn't returned.
        sid_ranks: int `(U,)` semantic-ID-level ranks.
        recommended: int32 `(U, K)` catalogue rows.
    """

    method: str
    mode: str
    filtered: bool
    ranks: np.ndarray
    sid_ranks: np.ndarray
    recommended: np.ndarray

    def record(self, level: str = "item", users: np.ndarray | None = None) -> dict[str, Any]:
        """One flat record.

        Args:
            level: `"item"`, the number that counts, or `"sid"`.
            users: Optional bool `(U,)`: which users to average over.
        """
        if level not in ("item", "sid"):
            raise ValueError(f"level must be 'item' or 'sid', got {level!r}.")
        ranks = self.ranks if level == "item" else self.sid_ranks
        ranks = ranks if users is None else ranks[users]
        return {
            "method": self.method,
            "mode": self.mode,
            "filtered": self.filtered,
            "level": level,
            "users": len(ranks),
            **ranking_metrics(ranks),
        }


def evaluate(
    method: str,
    recommender: Recommender,
    evaluation_set: EvaluationSet,
    catalog: SidCatalog,
    filtered: bool = False,
    mode: str = "",
    k: int = 50,
) -> Result:
    """Ranks all ads for every user of a set: full ranking, no sampled negatives.

    Args:
        method: Name for the records.
        recommender: The method.
        evaluation_set: Users, histories (cut to the newest 20) and targets.
        catalog: For the semantic-ID level.
        filtered: Whether ads of the history are left out.
        mode: Name for the records.
        k: Length of the lists; `mrr` counts a target past it as 0.
    """
    recommended = np.asarray(
        recommender.recommend(evaluation_set.histories(MAX_HISTORY), k, filtered)
    )
    if recommended.shape != (len(evaluation_set), k):
        raise ValueError(
            f"{method} returned an array of shape {recommended.shape}; "
            f"({len(evaluation_set)}, {k}) is wanted, -1 past the last result."
        )
    return Result(
        method,
        mode,
        filtered,
        target_ranks(recommended, evaluation_set.targets),
        sid_ranks(recommended, evaluation_set.targets, catalog.codes),
        recommended,
    )


def user_slices(evaluation_set: EvaluationSet, popularity: np.ndarray) -> dict[str, np.ndarray]:
    """Groups of users, as bool `(U,)` by name, for `Result.record`.

    Args:
        evaluation_set: The users.
        popularity: `(N,)` training events per catalogue row.

    Returns:
        Slices by length of the history and by training events of the target; `cold` targets have
        none. Every user is in one slice of each kind.
    """
    lengths = evaluation_set.inputs.lengths
    events = np.asarray(popularity)[evaluation_set.targets]
    return {
        "history:1-4": lengths <= 4,
        "history:5-9": (lengths >= 5) & (lengths <= 9),
        "history:10+": lengths >= 10,
        "target:cold": events == 0,
        "target:1-9": (events >= 1) & (events <= 9),
        "target:10-49": (events >= 10) & (events <= 49),
        "target:50+": events >= 50,
    }


def list_figures(result: Result, popularity: np.ndarray, k: int = 10) -> dict[str, float]:
    """Coverage and popularity bias of the first `k` results.

    Args:
        result: Of `evaluate`.
        popularity: `(N,)` training events per catalogue row.
        k: Results looked at.

    Returns:
        `coverage@k`: share of the catalogue returned to anyone; `mean_popularity@k`: training
        events of a returned ad, on average.
    """
    shown = result.recommended[:, :k]
    shown = shown[shown >= 0]
    mean = float(np.asarray(popularity)[shown].mean()) if len(shown) else 0.0
    return {
        f"coverage@{k}": len(np.unique(shown)) / len(popularity),
        f"mean_popularity@{k}": mean,
    }


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

    Example:

    >>> bootstrap_mean(np.array([0.5, 0.5]))
    {'difference': 0.5, 'low': 0.5, 'high': 0.5}
    """
    # Few distinct differences occur, so draw how often each does instead of drawing users.
    distinct, counts = np.unique(differences, return_counts=True)
    users = len(differences)
    rng = np.random.default_rng(seed)
    block = max(1, _BOOTSTRAP_DRAWS // max(1, len(distinct)))
    means = [
        rng.multinomial(users, counts / users, size=min(block, resamples - start)) @ distinct
        for start in range(0, resamples, block)
    ]
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means) / users, [tail, 1 - tail])
    return {"difference": float(np.mean(differences)), "low": float(low), "high": float(high)}


def choose_dense_weight(
    decoder: SidDecoder,
    validation: EvaluationSet,
    weights: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0),
    filtered: bool = True,
    metric: str = "ndcg@10",
) -> Mapping[float, float]:
    """Sets the recommender's `dense_weight` to the best of `weights` on validation users.

    Args:
        decoder: Its recommender is changed.
        validation: Never the test set.
        weights: Tried in this order; the first of equals wins.
        filtered: Whether ads of the history are left out.
        metric: A metric of the records.

    Returns:
        The metric of every weight.
    """
    hybrid = GenerativeRecommender(decoder, "hybrid")
    found: dict[float, float] = {}
    for weight in weights:
        decoder.recommender.dense_weight.assign(weight)
        rows = hybrid.recommend(validation.histories(MAX_HISTORY), 10, filtered)
        found[weight] = ranking_metrics(target_ranks(rows, validation.targets))[metric]
    decoder.recommender.dense_weight.assign(max(found, key=lambda weight: found[weight]))
    return found
