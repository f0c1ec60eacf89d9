"""Choosing on validation users while a recommender trains: epochs, and the hybrid weight."""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from sid_tfx.datasets.sequences import EvaluationSet
from sid_tfx.decoder import SidDecoder
from sid_tfx.metrics.ranking import ndcg_at, target_ranks
from sid_tfx.recommender import SidRecommender

DENSE_WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
_K = 10


class RankingValidation(keras.callbacks.Callback):
    """Adds `val_ndcg@10` to every epoch's logs, for `EarlyStopping` to look at.

    The loss is a poor guide to when to stop: label smoothing and the dense term keep it moving
    after the ranking has stopped improving.

    Args:
        validation: One target per user.
        max_history: Newest ads of a history that are read, as in the servable.
        users: Users that are looked at, spread evenly; all where there are fewer.
        beam_size: Beams; fewer than in serving, since only the order of epochs is wanted.
        batch_size: Users decoded at a time.

    Example:

    >>> ranking = RankingValidation(splits.validation)
    >>> best = keras.callbacks.EarlyStopping("val_ndcg@10", mode="max", restore_best_weights=True)
    >>> recommender.fit(SequenceBatches(splits.train), epochs=50, callbacks=[ranking, best])
    """

    def __init__(
        self,
        validation: EvaluationSet,
        max_history: int = 20,
        users: int = 3000,
        beam_size: int = 20,
        batch_size: int = 256,
    ) -> None:
        super().__init__()
        chosen = np.unique(
            np.linspace(0, len(validation) - 1, min(users, len(validation)), dtype=int)
        )
        self.histories = validation.inputs.padded(max_history, chosen)
        self.targets = validation.targets[chosen]
        self.beam_size = beam_size
        self.batch_size = batch_size
        self._decoder: SidDecoder | None = None

    def ndcg(self, model: SidRecommender, mode: str = "generative") -> float:
        """Returns NDCG@10 of the validation users in a scoring mode."""
        if self._decoder is None:
            self._decoder = SidDecoder(model, beam_size=self.beam_size)
            self._recommend = tf.function(
                lambda rows, mode: self._decoder.recommend(rows, _K, mode=mode).rows,
                reduce_retracing=True,
            )
        self._decoder.refresh()
        ranks = []
        for start in range(0, len(self.targets), self.batch_size):
            rows = self.histories[start : start + self.batch_size]
            found = self._recommend(tf.constant(rows), mode).numpy()
            ranks.append(target_ranks(found, self.targets[start : start + self.batch_size]))
        return float(np.mean(ndcg_at(np.concatenate(ranks), _K)))

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Ranks for the validation users."""
        if logs is not None:
            logs["val_ndcg@10"] = self.ndcg(self.model)


def choose_dense_weight(
    model: SidRecommender,
    ranking: RankingValidation,
    weights: Sequence[float] = DENSE_WEIGHTS,
) -> dict[float, float]:
    """Sets the model's `dense_weight` to the one with the best hybrid NDCG@10.

    Args:
        model: A trained recommender; its `dense_weight` is assigned.
        ranking: The validation users.
        weights: What is tried.

    Returns:
        Weight -> NDCG@10, in the order tried.
    """
    tried = {}
    for weight in weights:
        model.dense_weight.assign(weight)
        tried[weight] = ranking.ndcg(model, mode="hybrid")
    model.dense_weight.assign(max(tried, key=lambda weight: tried[weight]))
    return tried
