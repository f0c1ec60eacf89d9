"""The harness: every method, one protocol, records that people and scripts read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.decodable import Decodable
from sid_tfx.hybrid_terms import HybridTerms
from sid_tfx.metrics.ranking import ranking_metrics, sid_ranks, target_ranks

# Only decoding needs TensorFlow: on JAX a recommender is evaluated where it is not installed.
if TYPE_CHECKING:
    import tensorflow as tf

    from sid_tfx.decoder import SidDecoder

MAX_HISTORY = 20
"""Newest ads of a history that every method is given, unless `evaluate` is told otherwise."""


class Recommender(Protocol):
    """Anything that ranks ads for histories."""

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool) -> np.ndarray:
        """Ranks ads.

        Args:
            histories: int32 `(U, T)` of catalogue row + 1, oldest first, 0 for padding; or
                `(U, T, 1 + C)`, see `EvaluationSet.in_context`.
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
        self._graphs: dict[tuple[Any, ...], Callable[[tf.Tensor], Any]] = {}

    @property
    def recommender(self) -> Decodable:
        """The model that ranks."""
        return self.decoder.recommender

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """See `Recommender.recommend`."""

        def recommend(rows: tf.Tensor) -> tf.Tensor:
            return self.decoder.recommend(rows, k, self.mode, filter_seen=filter_seen).rows

        parts = [
            rows.numpy() for rows in self._batches("rows", recommend, histories, k, filter_seen)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, k), np.int32)

    def hybrid_terms(
        self, histories: np.ndarray, k: int, filter_seen: bool = False
    ) -> Iterator[HybridTerms]:
        """What hybrid mode ranks by, in batches of users; NumPy arrays.

        Args:
            histories: As in `Recommender.recommend`.
            k: Results that would be asked for.
            filter_seen: As in `Recommender.recommend`.
        """

        def find(rows: tf.Tensor) -> tf.Tensor:
            return self.decoder.hybrid_terms(rows, k, filter_seen)

        for terms in self._batches("terms", find, histories, k, filter_seen):
            yield HybridTerms(*[None if term is None else term.numpy() for term in terms])

    def _batches(
        self,
        what: str,
        answer: Callable[[tf.Tensor], Any],
        histories: np.ndarray,
        *setting: Any,
    ) -> Iterator[Any]:
        """What a function answers to each batch; as a graph, one for each setting."""
        import tensorflow as tf

        key = (what, *setting, histories.shape[1:])
        if key not in self._graphs:
            wanted = tf.TensorSpec([None, *histories.shape[1:]], tf.int32)
            self._graphs[key] = tf.function(answer, input_signature=[wanted])
        graph = self._graphs[key]
        for begin in range(0, len(histories), self.batch_size):
            yield graph(tf.constant(histories[begin : begin + self.batch_size]))


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
    max_history: int = MAX_HISTORY,
) -> Result:
    """Ranks all ads for every user of a set: full ranking, no sampled negatives.

    Args:
        method: Name for the records.
        recommender: The method.
        evaluation_set: Users, histories and targets.
        catalog: For the semantic-ID level.
        filtered: Whether ads of the history are left out.
        mode: Name for the records.
        k: Length of the lists; `mrr` counts a target past it as 0.
        max_history: Newest ads of a history that the method is given.
    """
    recommended = np.asarray(
        recommender.recommend(evaluation_set.histories(max_history), k, filtered)
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
