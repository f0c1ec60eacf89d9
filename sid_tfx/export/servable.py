"""The servable: one `tf.Module` with everything that a request needs."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.decoder import SidDecoder
from sid_tfx.decoding import BeamResult
from sid_tfx.export.context import histories_in_context
from sid_tfx.export.evaluation import newest_events, parse_users, sid_ranks, target_ranks
from sid_tfx.export.id_table import IdTable
from sid_tfx.export.popularity import Popularity
from sid_tfx.export.servable_set import ServableSet
from sid_tfx.layers.history import history_rows
from sid_tfx.recommender import SidRecommender
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, TopK
from sid_tfx.table_rows import gather_rows
from sid_tfx.tokenizer import SidTokenizer

Outputs = dict[str, tf.Tensor]
Preprocess = Callable[[tf.Tensor], dict[str, tf.Tensor]]

GENERATIVE, HYBRID = MODES = ("generative", "hybrid")

_SHOWN = 10  # Places of a list that coverage and popularity bias look at.
_LOOKED_UP = 2_000  # Newest events of a history to evaluate, unknown ads among them.


@dataclasses.dataclass(frozen=True)
class WireLimits:
    """Maxima of the fixed wire shapes.

    Attributes:
        max_history: T, newest ads of a history that are read.
        max_k: K, ads returned.
        max_exclude: E, ads that a request may exclude.
        beam_size: Prefixes kept while decoding; at least K.
    """

    max_history: int = 20
    max_k: int = 20
    max_exclude: int = 64
    beam_size: int = 50

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value < 1:
                raise ValueError(f"{field.name} must be at least 1, got {value}.")
        if self.beam_size < self.max_k:
            raise ValueError(
                f"beam_size={self.beam_size} must be at least max_k={self.max_k}: a narrower beam "
                "cannot hold as many ads as a request may ask for."
            )

    def to_dict(self) -> dict[str, int]:
        """Returns the fields as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """Keeps a Keras model out of `tf.Module`'s sight, which would trace its `call` anew."""

    tokenizer: SidTokenizer


class Servable(tf.Module):
    """Recommends, encodes and compares ads, inside one TensorFlow graph.

    Results past `count` are padding: ad id `""`, score `PADDING_SCORE` (the lowest float32, so
    that scores stay sorted and finite), codes -1.

    Args:
        recommender: The trained SidRecommender, its catalogue set.
        tokenizer: The trained SidTokenizer.
        preprocess: Serialized raw tf.Examples of ads, string [B] -> transformed features. A
            `tf.Module`, a layer or any other trackable callable, so that its tables are saved too.
        catalog: The ads that may be returned.
        popularity: Training events of each catalogue row, `(N,)`, to rank ads for a user without a
            known history.
        limits: Maxima of the wire shapes.
        index: Index over the catalogue's embeddings whose identifiers are int32 rows; None for
            brute force.
        default_mode: `"generative"` or `"hybrid"`: what `recommend` does, and
            `recommend_filtered` where a row's mode is neither.
        dense_index: Index over the recommender's `item_vectors`, similarity `"dot_product"`, that
            finds the dense candidates of hybrid mode; None to score all ads.
        sid_index: Index over what the ads' codes alone reconstruct (`sid_embeddings`), identifiers
            as in `index`; None leaves out the signature `similar_ads_by_sid`.

    Raises:
        ValueError: The parts do not belong together.

    Example:

    >>> servable = Servable(recommender, tokenizer, preprocess, catalog, popularity)
    >>> save(servable, "portable")
    """

    def __init__(
        self,
        recommender: SidRecommender,
        tokenizer: SidTokenizer,
        preprocess: Preprocess,
        catalog: SidCatalog,
        popularity: np.ndarray,
        limits: WireLimits | None = None,
        index: TopK | None = None,
        default_mode: str = GENERATIVE,
        dense_index: TopK | None = None,
        sid_index: TopK | None = None,
    ) -> None:
        super().__init__(name="servable")
        if default_mode not in MODES:
            raise ValueError(f"default_mode must be one of {MODES}, got '{default_mode}'.")
        codes = keras.ops.convert_to_numpy(recommender.ad_codes)[1:]
        if not np.array_equal(codes, catalog.full_codes):
            raise ValueError(
                f"the recommender's {len(codes)} ads are not this catalogue's {len(catalog)}, or "
                "have other codes; train it on this catalogue."
            )
        if index is None:
            index = BruteForce(similarity="cosine")
            index.index(catalog.embeddings)
        for name, given in (("index", index), ("sid_index", sid_index)):
            if given is not None and given.size != len(catalog):
                raise ValueError(
                    f"the {name} has {given.size} ads, the catalogue {len(catalog)}; build the "
                    "index over this catalogue's embeddings."
                )
        if len(popularity) != len(catalog):
            raise ValueError(
                f"popularity has {len(popularity)} counts, the catalogue {len(catalog)} ads; give "
                "one count per catalogue row."
            )
        self.limits = limits or WireLimits()
        self.default_mode = default_mode
        self.fingerprints = dict(catalog.fingerprints)
        self.levels = catalog.levels
        self.context = recommender.context
        self.embedding_dim = int(catalog.embeddings.shape[1])
        self.ads = IdTable(catalog.ad_ids)
        # A request excludes what it names and, if it wants, what its user has seen.
        most = self.limits.max_k + self.limits.max_exclude + self.limits.max_history
        self.popularity = Popularity(popularity, most)
        self.decoder = SidDecoder(recommender, self.limits.beam_size, index=dense_index)
        self.index = index
        self.sid_index = sid_index
        self.preprocess = preprocess
        self._hidden = _Hidden(tokenizer)
        # Session loaders, TF Serving's among them, restore only variables that a tf.Module tracks
        # itself; those inside a Keras 3 model they would not find.
        self._tokenizer_variables = [variable.value for variable in tokenizer.variables]
        self.servable_set = ServableSet(len(catalog), catalog.fingerprint, self._apply_live)
        self._servable_set_asset = self.servable_set.asset

    def set_live(self, live: np.ndarray) -> None:
        """Switches ads on and off, here and in what is saved from now on.

        A servable that is saved already is switched by its file, see `write_servable_set`.

        Args:
            live: bool `(N,)` by catalogue row: whether the ad may be returned.
        """
        self._apply_live(tf.convert_to_tensor(live))
        self.servable_set.write(np.asarray(live))

    def _apply_live(self, live: tf.Tensor) -> None:
        self.decoder.trie.set_live(live)
        self.popularity.set_live(live)

    def recommend(self, history: tf.Tensor) -> Outputs:
        """Signature `recommend`: string [B, T] -> the next ads."""
        return self._answer(self._ranked(self.ads.rows(history) + 1))

    def recommend_filtered(
        self,
        history: tf.Tensor,
        exclude_ad_ids: tf.Tensor,
        filter_seen: tf.Tensor,
        mode: tf.Tensor,
    ) -> Outputs:
        """Signature `recommend_filtered`: the next ads under a request's own rules."""
        rows = self.ads.rows(history) + 1
        return self._by_rules(rows, exclude_ad_ids, filter_seen, mode)

    def recommend_in_context(
        self,
        history: tf.Tensor,
        history_timestamps: tf.Tensor,
        history_events: tf.Tensor,
        history_weights: tf.Tensor,
        exclude_ad_ids: tf.Tensor,
        filter_seen: tf.Tensor,
        mode: tf.Tensor,
    ) -> Outputs:
        """Signature `recommend_in_context`: as `recommend_filtered`, with more of the history."""
        histories = self._in_context(
            self.ads.rows(history), history_timestamps, history_events, history_weights
        )
        return self._by_rules(histories, exclude_ad_ids, filter_seen, mode)

    def _in_context(
        self, rows: tf.Tensor, timestamps: tf.Tensor, events: tf.Tensor, weights: tf.Tensor
    ) -> tf.Tensor:
        """Histories of rows, -1 where unknown, as the recommender reads them."""
        return histories_in_context(
            self.context, rows, timestamps, events, weights, self.limits.max_history
        )

    def _by_rules(
        self,
        histories: tf.Tensor,
        exclude_ad_ids: tf.Tensor,
        filter_seen: tf.Tensor,
        mode: tf.Tensor,
    ) -> Outputs:
        seen = tf.where(filter_seen[:, None], history_rows(histories) - 1, -1)
        excluded = tf.concat([self.ads.rows(exclude_ad_ids), seen], axis=1)
        # A mode that is neither falls back to the default. An assertion would fail every other
        # request that the server has put into the same batch.
        hybrid = mode == HYBRID if self.default_mode == GENERATIVE else mode != GENERATIVE
        # Most batches need no dense side.
        found = tf.cond(
            tf.reduce_any(hybrid),
            lambda: self._ranked(histories, hybrid, excluded),
            lambda: self._ranked(histories, GENERATIVE, excluded),
        )
        return self._answer(found)

    def encode_ads(self, examples: tf.Tensor) -> Outputs:
        """Signature `encode_ads`: serialized raw ads, string [B] -> codes and embedding."""
        features = self.preprocess(examples)
        tokenizer = self._hidden.tokenizer
        wanted = tokenizer.schema.input_features()
        encoded = tokenizer({name: features[name] for name in wanted}, training=False)
        return {"sids": encoded["codes"], "embedding": encoded["embedding"]}

    def similar_ads(self, ad_ids: tf.Tensor) -> Outputs:
        """Signature `similar_ads`: string [B] -> the nearest other ads; none for an unknown ad.

        Near are ads whose joint embeddings are.
        """
        return self._similar(self.index, ad_ids)

    def similar_ads_by_sid(self, ad_ids: tf.Tensor) -> Outputs:
        """Signature `similar_ads_by_sid`: as `similar_ads`, by the SID embeddings.

        Ads with the same codes are equally near, with score 1.

        Raises:
            ValueError: The servable has no `sid_index`.
        """
        if self.sid_index is None:
            raise ValueError("This servable has no index over SID embeddings; give it `sid_index`.")
        return self._similar(self.sid_index, ad_ids)

    def _similar(self, index: TopK, ad_ids: tf.Tensor) -> Outputs:
        rows = self.ads.rows(ad_ids)
        queries = index.vectors(tf.maximum(rows, 0))
        scores, similar = index.query_with_exclusions(
            queries, rows[:, None], self.limits.max_k, self.decoder.trie.live_rows
        )
        return self._neighbours(scores, similar, rows >= 0)

    def similar_to_embedding(self, embedding: tf.Tensor) -> Outputs:
        """Signature `similar_to_embedding`: float [B, D] -> the nearest ads; none for NaN."""
        usable = tf.reduce_all(tf.math.is_finite(embedding), axis=1)
        queries = tf.where(usable[:, None], embedding, 0.0)
        scores, similar = self.index(queries, self.limits.max_k, self.decoder.trie.live_rows)
        return self._neighbours(scores, similar, usable)

    def evaluate(self, examples: tf.Tensor) -> Outputs:
        """Signature `evaluate`: serialized `history` and `target` -> the target's ranks.

        At item level (`rank`) and among semantic IDs (`sid_rank`), plain and with the ads of the
        history that is read left out (`filtered_rank`, `filtered_sid_rank`). With what coverage and
        popularity bias are made from: the first ten rows of the plain list and their training
        events.

        A history may be longer than T here; its newest known ads (of its 2,000 newest) are read,
        and `timestamps`, `events` and `weights` of them where the example has these and the
        recommender reads them.
        """
        users = parse_users(examples)
        recent = newest_events(users, max(_LOOKED_UP, self.limits.max_history))
        histories = self._in_context(
            self.ads.rows(recent["history"].to_tensor("")),
            *(recent[name].to_tensor() for name in ("timestamps", "events", "weights")),
        )
        target = self.ads.rows(users["target"])
        plain = self._ranked(histories).rows
        filtered = self._ranked(histories, excluded=history_rows(histories) - 1).rows
        popular, _ = self.popularity.top(tf.constant([[-1]]), self.limits.max_k)
        return {
            "rank": target_ranks(plain, target),
            "sid_rank": sid_ranks(self._sids(plain), self._sids(target)),
            "filtered_rank": target_ranks(filtered, target),
            "filtered_sid_rank": sid_ranks(self._sids(filtered), self._sids(target)),
            "popularity_rank": target_ranks(popular, target),
            "history_length": tf.cast(users["history"].row_lengths(), tf.float32),
            "target_popularity": self.popularity.of(target),
            "shown_rows": plain[:, :_SHOWN],
            "shown_popularity": self.popularity.of(plain[:, :_SHOWN]),
            "catalogue_size": tf.fill(tf.shape(target), float(len(self.popularity))),
        }

    def _ranked(
        self,
        histories: tf.Tensor,
        mode: str | tf.Tensor | None = None,
        excluded: tf.Tensor | None = None,
    ) -> BeamResult:
        """The decoder's ads, or the most popular ones where a history is empty."""
        k = self.limits.max_k
        mode = self.default_mode if mode is None else mode
        found = self.decoder.recommend(histories, k, mode, excluded)
        empty = tf.reduce_all(history_rows(histories) == 0, axis=1)
        none = tf.fill([tf.shape(histories)[0], 1], -1)

        def popular() -> BeamResult:
            ads, scores = self.popularity.top(none if excluded is None else excluded, k)
            return BeamResult(
                tf.where(empty[:, None], ads, found.rows),
                tf.where(empty[:, None], scores, found.scores),
                tf.where(empty, tf.reduce_sum(tf.cast(ads >= 0, tf.int32), axis=1), found.count),
            )

        return tf.cond(tf.reduce_any(empty), popular, lambda: found)

    def _answer(self, found: BeamResult) -> Outputs:
        return {
            "ad_ids": self.ads.ids(found.rows),
            "scores": tf.where(found.rows >= 0, found.scores, PADDING_SCORE),
            "sids": self._sids(found.rows),
            "count": found.count,
        }

    def _sids(self, rows: tf.Tensor) -> tf.Tensor:
        """Codes of int32 rows [...] without de-dup token, int32 [..., L]; -1 where a row is."""
        codes = gather_rows(self.decoder.recommender.ad_codes, rows + 1)
        return tf.where(rows[..., None] >= 0, codes[..., : self.levels], -1)

    def _neighbours(self, scores: tf.Tensor, rows: tf.Tensor, usable: tf.Tensor) -> Outputs:
        rows = tf.where(usable[:, None], rows, -1)
        return {
            "ad_ids": self.ads.ids(rows),
            "scores": tf.where(rows >= 0, scores, PADDING_SCORE),
            "count": tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1),
        }
