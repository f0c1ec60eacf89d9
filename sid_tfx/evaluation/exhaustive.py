"""Ranking by the score of every ad, on any backend."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.hybrid_terms import HybridTerms
from sid_tfx.layers.history import history_rows
from sid_tfx.recommender import SidRecommender


class ExhaustiveRecommender:
    """Scores all ads of the catalogue for every history, instead of searching with beams.

    What a beam search that misses nothing would return, at the cost of every ad: for evaluation on
    the JAX backend, where `SidDecoder` does not run, and to see what a beam misses. On a GPU it
    ranks 12,000 ads for thousands of users in seconds.

    Args:
        recommender: Ranks with its current weights at each call.
        mode: `"generative"`, by the log-probability of the codes, or `"hybrid"`, as `SidDecoder`
            scores it.
        batch_size: Users per step; each takes about `num_ads * head_size * 4` bytes.

    Example:

    >>> catalog = SidCatalog.build(["a", "b"], [[0], [1]], np.eye(2), codebook_size=2)
    >>> ranked = ExhaustiveRecommender(SidRecommender.for_catalog(catalog))
    >>> ranked.recommend(np.array([[1, 0]]), k=2, filter_seen=True).tolist()
    [[1, -1]]
    """

    def __init__(
        self, recommender: SidRecommender, mode: str = "generative", batch_size: int = 32
    ) -> None:
        if mode not in ("generative", "hybrid"):
            raise ValueError(f"mode must be 'generative' or 'hybrid', got {mode!r}.")
        self.recommender = recommender
        self.mode = mode
        self.batch_size = batch_size
        # On JAX `predict` takes over the buffers of the variables that it reads, which an
        # optimizer's moving averages may share: a copy of the model gives up its own.
        self._copy = SidRecommender.from_config(recommender.get_config())
        self._models: dict[tuple[int, bool], keras.Model] = {}
        self._terms: dict[bool, keras.Model] = {}

    def recommend(self, histories: np.ndarray, k: int, filter_seen: bool = False) -> np.ndarray:
        """See `sid_tfx.evaluation.Recommender.recommend`."""
        if not len(histories):
            return np.zeros((0, k), np.int32)
        key = (k, filter_seen)
        if key not in self._models:
            self._models[key] = _Best(self._copy, self.mode == "hybrid", *key)
        self._copy.set_weights(self.recommender.get_weights())
        rows = self._models[key].predict(
            self._padded(histories), batch_size=self.batch_size, verbose=0
        )
        return rows[: len(histories)]

    def hybrid_terms(
        self, histories: np.ndarray, k: int, filter_seen: bool = False
    ) -> Iterator[HybridTerms]:
        """See `GenerativeRecommender.hybrid_terms`; here of every ad, whatever `k` is."""
        if filter_seen not in self._terms:
            self._terms[filter_seen] = _AllTerms(self._copy, filter_seen)
        self._copy.set_weights(self.recommender.get_weights())
        for begin in range(0, len(histories), self.batch_size):
            part = histories[begin : begin + self.batch_size]
            terms = self._terms[filter_seen].predict(
                self._padded(part), batch_size=self.batch_size, verbose=0
            )
            rows = np.arange(self.recommender.num_ads, dtype=np.int32)[None, :]
            yield HybridTerms(
                np.broadcast_to(rows, (len(part), rows.shape[1])),
                *[term[: len(part)] for term in terms],
            )

    def _padded(self, histories: np.ndarray) -> np.ndarray:
        """Whole batches only, so that there is one shape to compile."""
        padding = [(0, -len(histories) % self.batch_size)] + [(0, 0)] * (histories.ndim - 1)
        return np.pad(histories, padding)


class _AllTerms(keras.Model):
    """The terms of every ad; a Keras model, for `predict` compiles on every backend."""

    def __init__(self, recommender: SidRecommender, filter_seen: bool, name: str = "terms"):
        super().__init__(name=name)
        self.recommender = recommender
        self.filter_seen = filter_seen
        self.built = True

    def sid(self, histories: Any, state: Any) -> Any:
        """Log-probabilities `[B, N]`, minus infinity for ads that are left out."""
        model = self.recommender
        ads = ops.arange(model.num_ads, dtype="int32")
        shape = (ops.shape(histories)[0], model.num_ads)
        scores = model.sid_log_probs(state, ops.broadcast_to(ads[None, :] + 1, shape))
        if self.filter_seen:
            rows = ops.cast(history_rows(histories), "int32") - 1
            seen = ops.any(rows[:, :, None] == ads, axis=1)
            scores = ops.where(seen, -float("inf"), scores)
        return scores

    def call(self, histories: Any) -> list[Any]:
        model = self.recommender
        state = model.user_state(histories)
        terms = [self.sid(histories, state), ops.log_softmax(model.dense_scores(state))]
        if (memory := model.successors) is not None:
            terms.append(memory.all_scores(memory.followers(histories)))
        return terms


class _Best(_AllTerms):
    """The `k` best ads."""

    def __init__(self, recommender: SidRecommender, hybrid: bool, k: int, filter_seen: bool):
        super().__init__(recommender, filter_seen, "best_ads")
        self.hybrid = hybrid
        self.k = k

    def call(self, histories: Any) -> Any:
        model = self.recommender
        if self.hybrid:
            weights = [
                ops.convert_to_tensor(w) for w in (model.dense_weight, model.successor_weight)
            ]
            scores = HybridTerms(None, *super().call(histories)).scores(*weights)
        else:
            scores = self.sid(histories, model.user_state(histories))
        best, found = ops.top_k(scores, min(self.k, model.num_ads))
        found = ops.where(best > -float("inf"), ops.cast(found, "int32"), -1)
        missing = self.k - found.shape[1]
        return ops.pad(found, [[0, 0], [0, missing]], constant_values=-1)
