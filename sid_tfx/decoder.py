"""From a history to ads: the recommender, the trie and the dense side in one graph."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from sid_tfx.decodable import Cached, Decodable
from sid_tfx.decoding import BeamResult, BeamState, PrefixTrie, beam_search
from sid_tfx.hybrid_terms import HybridTerms
from sid_tfx.layers.history import history_rows
from sid_tfx.retrieval import TopK
from sid_tfx.table_rows import gather_rows

DENSE_CANDIDATES = 50
"""Ads that the dense side contributes in hybrid mode, unless a decoder is told otherwise."""

SUCCESSOR_CANDIDATES = 50
"""Ads that the successors' memory contributes in hybrid mode, as `DENSE_CANDIDATES`."""


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """Keeps a Keras model out of sight of `tf.Module`, which would trace its `call` on export."""

    recommender: Any


class SidDecoder(tf.Module):
    """Recommends ads with a generative recommender; for use and for export (core ops only).

    Generative mode ranks by the log-probability of the semantic ID, found by beam search under
    the catalogue's trie. Hybrid mode joins the beam's ads with the ads of highest dense score and,
    where the model has a `SuccessorMemory`, with those that followed the newest ads of the history
    in training. It ranks all of them by

        log P(codes | history) + dense_weight * log softmax(dense score)
                               + successor_weight * log(1 + times that it followed)

    where both weights are the model's, chosen on validation data (LIGER, arXiv 2411.18814, joins
    the first two in the same way). Every candidate has every term, whichever side found it. The
    softmax is over all ads, with an index over the candidates: that moves all scores of a request
    by one number and changes no order. For a request without a history the results mean nothing:
    answer it otherwise, by popularity for one.

    Trie, ad vectors and live flags are variables of this module. The vectors are computed once:
    call `refresh` after further training.

    Args:
        recommender: A `Decodable`, a `SidRecommender` for one, with its catalogue set; if it is
            `Cached` too, it is decoded with its cache.
        beam_size: Beams kept per level; a request for more results widens it.
        dense_candidates: Ads that the dense side contributes in hybrid mode.
        index: Finds them; built with similarity `"dot_product"` over the recommender's
            `item_vectors`, int32 rows for identifiers. Without it all ads are scored.
        hybrid: Whether hybrid mode is answered; without it no ad vectors are held.
        successor_candidates: Ads that the successors' memory contributes in hybrid mode.

    Raises:
        ValueError: An argument is out of range, or the index does not fit.
        RuntimeError: Keras runs on another backend than TensorFlow.

    Example:

    >>> catalog = SidCatalog.build(["a", "b"], [[0], [1]], np.eye(2), codebook_size=2)
    >>> decoder = SidDecoder(SidRecommender.for_catalog(catalog), beam_size=2)
    >>> decoder.recommend(tf.constant([[1, 0]]), k=2, filter_seen=True).rows.numpy().tolist()
    [[1, -1]]
    """

    def __init__(
        self,
        recommender: Decodable,
        beam_size: int = 50,
        dense_candidates: int = DENSE_CANDIDATES,
        index: TopK | None = None,
        hybrid: bool = True,
        successor_candidates: int = SUCCESSOR_CANDIDATES,
    ) -> None:
        super().__init__(name="sid_decoder")
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                "SidDecoder runs on the TensorFlow backend; Keras runs on "
                f"{keras.backend.backend()!r}. Save the model and load it in a process with "
                "KERAS_BACKEND=tensorflow."
            )
        if min(beam_size, dense_candidates, successor_candidates) < 1:
            raise ValueError(
                "beam_size, dense_candidates and successor_candidates must be >= 1, got "
                f"{beam_size}, {dense_candidates} and {successor_candidates}."
            )
        self._hidden = _Hidden(recommender)
        self.beam_size = beam_size
        self.dense_candidates = dense_candidates
        self.successor_candidates = successor_candidates
        codes = keras.ops.convert_to_numpy(recommender.ad_codes)[1:]
        self.trie = PrefixTrie.build(codes, recommender.level_sizes)
        self.index = index
        self.hybrid = hybrid
        self.item_vectors: tf.Variable | None = None
        if index is not None:
            _check_index(index, self.trie.num_leaves, hybrid)
        elif hybrid:
            self.item_vectors = tf.Variable(
                recommender.item_vectors(), trainable=False, name="item_vectors"
            )
        # Session loaders restore only the variables that a module itself tracks.
        self.model_variables = [v.value for v in recommender.variables]

    @property
    def recommender(self) -> Decodable:
        """The model that this decoder asks."""
        return self._hidden.recommender

    def refresh(self) -> None:
        """Recomputes the ad vectors from the model's weights.

        Raises:
            RuntimeError: They are in an index, which can only be built anew.
        """
        if self.index is not None:
            raise RuntimeError(
                "This decoder's ad vectors are in an index. Build a new one over the recommender's "
                "item_vectors and make a new decoder with it."
            )
        if self.item_vectors is not None:
            self.item_vectors.assign(self.recommender.item_vectors())

    def recommend(
        self,
        histories: tf.Tensor,
        k: int,
        mode: str | tf.Tensor = "generative",
        excluded_rows: tf.Tensor | None = None,
        filter_seen: bool | tf.Tensor = False,
        dense_rows: tf.Tensor | None = None,
    ) -> BeamResult:
        """The `k` best ads of each request; eagerly or inside a `tf.function`.

        Args:
            histories: int32 `[B, T]` of row + 1, oldest first, 0 for padding; or `[B, T, 1 + C]`
                with the context that the recommender reads.
            k: Results per request.
            mode: `"generative"`, `"hybrid"`, or bool `[B]`: hybrid where true.
            excluded_rows: Optional int32 `[B, E]` catalogue rows (not + 1), -1 for padding.
            filter_seen: Whether to leave out the ads of the history; a bool, or bool `[B]`.
            dense_rows: Optional int32 `[B, C]` distinct catalogue rows, -1 for padding: the dense
                side's candidates, if the caller has found them already.

        Returns:
            A `BeamResult` of catalogue rows. `k` ads come back wherever `k` ads are live and not
            excluded.

        Raises:
            ValueError: `mode` is unknown or, for a decoder without it, hybrid.
        """
        if isinstance(mode, str) and mode not in ("generative", "hybrid"):
            raise ValueError(f"mode must be 'generative' or 'hybrid', got {mode!r}.")
        if not self.hybrid and not (isinstance(mode, str) and mode == "generative"):
            raise ValueError(
                "This decoder was made with hybrid=False and holds no ad vectors; ask it for mode "
                "'generative' or make it with hybrid=True."
            )
        histories = tf.cast(histories, tf.int32)
        excluded = self._excluded(history_rows(histories), excluded_rows, filter_seen)
        state, beam = self._search(histories, k, excluded)
        generative = BeamResult(beam.rows[:, :k], beam.scores[:, :k], tf.minimum(beam.count, k))
        if isinstance(mode, str) and mode == "generative":
            return generative
        model = self.recommender
        terms = self._terms(state, history_rows(histories), beam, excluded, dense_rows)
        weights = [tf.convert_to_tensor(w) for w in (model.dense_weight, model.successor_weight)]
        hybrid = _top(terms.rows, terms.scores(*weights), k)
        return hybrid if isinstance(mode, str) else _select(mode, hybrid, generative)

    def hybrid_terms(
        self, histories: tf.Tensor, k: int, filter_seen: bool | tf.Tensor = False
    ) -> HybridTerms:
        """What `recommend` ranks in hybrid mode, before any weight.

        Args:
            histories: As in `recommend`.
            k: Results that would be asked for: they widen the beam.
            filter_seen: As in `recommend`.

        Raises:
            ValueError: The decoder was made without hybrid mode.
        """
        if not self.hybrid:
            raise ValueError("This decoder was made with hybrid=False and has no hybrid scores.")
        histories = tf.cast(histories, tf.int32)
        rows = history_rows(histories)
        excluded = self._excluded(rows, None, filter_seen)
        state, beam = self._search(histories, k, excluded)
        return self._terms(state, rows, beam, excluded, None)

    def _search(
        self, histories: tf.Tensor, k: int, excluded: tf.Tensor | None
    ) -> tuple[Any, BeamResult]:
        """The state after each history, and what the beams find for it."""
        state = self.recommender.user_state(histories)
        width = max(self.beam_size, k)
        return state, self._beam(state, width, tf.shape(histories)[0], excluded)

    def _beam(
        self, state: Any, width: int, batch: tf.Tensor, excluded: tf.Tensor | None
    ) -> BeamResult:
        model = self.recommender

        def next_log_probs(level: int, prefix: tf.Tensor, cache: BeamState) -> Any:
            if isinstance(model, Cached):
                return model.cached_log_probs(state, prefix, cache)
            return model.next_log_probs(state, prefix), cache

        cache = model.initial_cache(state) if isinstance(model, Cached) else ()
        return beam_search(
            next_log_probs,
            self.trie,
            width,
            width,
            batch,
            excluded,
            cache,
            renormalize=model.catalog_softmax is not None,
        )

    def _excluded(
        self, rows: tf.Tensor, excluded_rows: tf.Tensor | None, filter_seen: bool | tf.Tensor
    ) -> tf.Tensor | None:
        parts = [] if excluded_rows is None else [tf.cast(excluded_rows, tf.int32)]
        if isinstance(filter_seen, bool | np.bool_):
            parts += [rows - 1] if filter_seen else []
        else:
            parts.append(tf.where(tf.cast(filter_seen, tf.bool)[:, None], rows - 1, -1))
        return tf.concat(parts, axis=1) if parts else None

    def _terms(
        self,
        state: Any,
        history: tf.Tensor,
        beam: BeamResult,
        excluded: tf.Tensor | None,
        dense_rows: tf.Tensor | None,
    ) -> HybridTerms:
        model = self.recommender
        query = model.dense_query(state)
        log_total = None
        if dense_rows is None and self.index is not None:
            dense_rows = self._retrieve(query, excluded)
        if dense_rows is None:
            scores = tf.matmul(query, self.item_vectors, transpose_b=True)
            log_total = tf.reduce_logsumexp(scores, axis=1, keepdims=True)
            extra, _ = self._best(scores, self.dense_candidates, excluded)
        else:
            extra = self._allowed(tf.cast(dense_rows, tf.int32), excluded)
        extra = _new(extra, beam.rows)
        memory, followed = model.successors, None
        if memory is not None:
            followers = memory.followers(history)
            known = tf.concat([beam.rows, extra], axis=1)
            fresh = self._allowed(_new(followers.rows, known), excluded)
            times = tf.where(fresh >= 0, memory(followers, fresh), float("-inf"))
            best = _top(fresh, times, self.successor_candidates)
            extra = tf.concat([extra, best.rows], axis=1)
            times = tf.where(best.rows >= 0, best.scores, 0.0)
            followed = tf.concat([memory(followers, known), times], axis=1)
        extra_sid = model.sid_log_probs(state, tf.maximum(extra, 0) + 1)
        candidates = tf.concat([beam.rows, extra], axis=1)
        sid = tf.concat([beam.scores, extra_sid], axis=1)
        rows = tf.maximum(candidates, 0)
        if self.index is None:
            vectors = gather_rows(self.item_vectors, rows)
        else:
            vectors = self.index.vectors(rows)
        dense = tf.einsum("bd,bcd->bc", query, vectors)
        valid = candidates >= 0
        if log_total is None:
            # Over the candidates alone; a constant per request, so the order is the same.
            masked = tf.where(valid, dense, float("-inf"))
            log_total = tf.reduce_logsumexp(masked, axis=1, keepdims=True)
        sid = tf.where(valid, sid, float("-inf"))
        # Where no ad may be returned the total is minus infinity, and so no number to subtract.
        dense = tf.where(valid, dense - log_total, 0.0)
        return HybridTerms(candidates, sid, dense, followed)

    def _retrieve(self, query: tf.Tensor, excluded: tf.Tensor | None) -> tf.Tensor:
        """The index's live, not excluded ads for queries `[B, D]`, -1 past the last."""
        assert self.index is not None
        live = self.trie.live_rows
        if excluded is None:
            return self.index(query, self.dense_candidates, live)[1]
        return self.index.query_with_exclusions(query, excluded, self.dense_candidates, live)[1]

    def _best(
        self, scores: tf.Tensor, k: int, excluded: tf.Tensor | None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """The `k` live, not excluded ads of highest `scores` `[B, N]`, -1 past the last."""
        slack = 0 if excluded is None else excluded.shape[1]
        if slack is None:
            raise ValueError("The number of excluded rows (and of history rows) must be static.")
        scores = tf.where(self.trie.live_rows[None, :], scores, float("-inf"))
        # Ranking k + E ads and dropping the excluded ones costs less than masking [B, N].
        best, rows = tf.math.top_k(scores, k=min(k + slack, self.trie.num_leaves))
        rows = self._allowed(tf.where(best > float("-inf"), rows, -1), excluded)
        best = tf.where(rows >= 0, best, float("-inf"))
        result = _top(rows, best, k)
        return result.rows, result.scores

    def _allowed(self, rows: tf.Tensor, excluded: tf.Tensor | None) -> tf.Tensor:
        """`rows` with -1 where an ad is off or excluded."""
        position = tf.clip_by_value(rows, 0, self.trie.num_leaves - 1)
        live = gather_rows(self.trie.live_rows, position) & (rows >= 0)
        rows = tf.where(live & (rows < self.trie.num_leaves), rows, -1)
        if excluded is None:
            return rows
        hit = tf.reduce_any(rows[:, :, None] == excluded[:, None, :], axis=2)
        return tf.where(hit, -1, rows)


def _check_index(index: TopK, ads: int, hybrid: bool) -> None:
    if not hybrid:
        raise ValueError("An index is for hybrid mode; leave it out or set hybrid=True.")
    if index.size != ads or index.similarity != "dot_product":
        raise ValueError(
            f"The index has {index.size} vectors and similarity {index.similarity!r}; it must be "
            f"over the recommender's {ads} item_vectors, similarity 'dot_product'."
        )
    if not index.identifiers.dtype.is_integer:
        raise ValueError(
            f"The index returns {index.identifiers.dtype.name}, it must return catalogue rows: "
            "build it without identifiers of your own."
        )


def _new(rows: tf.Tensor, known: tf.Tensor) -> tf.Tensor:
    """`rows` `[B, C]` with -1 where an ad is among `known` `[B, W]` or stands further left."""
    place = tf.range(tf.shape(rows)[1])
    twice = (rows[:, :, None] == rows[:, None, :]) & (place[:, None] > place)
    there = rows[:, :, None] == known[:, None, :]
    return tf.where(tf.reduce_any(twice, axis=2) | tf.reduce_any(there, axis=2), -1, rows)


def _top(rows: tf.Tensor, scores: tf.Tensor, k: int) -> BeamResult:
    """The `k` best of `[B, C]` candidates, padded; candidates scored minus infinity are none."""
    width = rows.shape[1]
    best, index = tf.math.top_k(scores, k=min(k, width))
    found = best > float("-inf")
    picked = tf.where(found, tf.gather(rows, index, batch_dims=1), -1)
    padding = [[0, 0], [0, max(0, k - width)]]
    return BeamResult(
        tf.pad(picked, padding, constant_values=-1),
        tf.pad(best, padding, constant_values=float("-inf")),
        tf.reduce_sum(tf.cast(found, tf.int32), axis=1),
    )


def _select(condition: tf.Tensor, first: BeamResult, second: BeamResult) -> BeamResult:
    """Per request, `first` where the condition `[B]` holds, else `second`."""
    condition = tf.cast(condition, tf.bool)
    return BeamResult(
        tf.where(condition[:, None], first.rows, second.rows),
        tf.where(condition[:, None], first.scores, second.scores),
        tf.where(condition, first.count, second.count),
    )
