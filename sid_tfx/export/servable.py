"""The servable: one `tf.Module` with everything that a request needs."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from sid_tfx.catalog import SidCatalog
from sid_tfx.export.ad_table import AdTable
from sid_tfx.export.history import newest
from sid_tfx.export.popularity import Popularity
from sid_tfx.retrieval import PADDING_SCORE, BruteForce, TopK

Outputs = dict[str, tf.Tensor]
Preprocess = Callable[[tf.Tensor], dict[str, tf.Tensor]]

GENERATIVE, HYBRID = MODES = ("generative", "hybrid")


@dataclasses.dataclass(frozen=True)
class WireLimits:
    """Maxima of the fixed wire shapes.

    Attributes:
        max_history: T, newest ads of a history that are read.
        max_k: K, ads returned.
        max_exclude: E, ads that a request may exclude.
        beam_size: Prefixes kept while decoding; at least K, or K ads might not come back.
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
class _Models:
    """Keeps Keras models out of `tf.Module`'s sight, which would trace their `call` anew."""

    recommender: keras.Model
    tokenizer: keras.Model


class Servable(tf.Module):
    """Recommends, encodes and compares ads, inside one TensorFlow graph.

    Args:
        recommender: The trained SidRecommender.
        tokenizer: The trained SidTokenizer.
        preprocess: Serialized raw tf.Examples of ads, string [B] -> transformed features. A
            `tf.Module`, Keras layer or any trackable callable, so that its tables are saved too.
        catalog: The ads that may be returned.
        popularity: Training events of each catalogue row, `(N,)`; ranks the ads for users without
            a known history.
        limits: Maxima of the wire shapes.
        index: Index over the catalogue's embeddings whose identifiers are int32 rows; None for
            brute force.
        default_mode: `"generative"` or `"hybrid"`: what `recommend` does, and
            `recommend_filtered` where a row's mode is neither.

    Raises:
        ValueError: The parts do not belong together.

    Example:

    >>> servable = Servable(recommender, tokenizer, preprocess, catalog, popularity)
    >>> save(servable, "portable")
    """

    def __init__(
        self,
        recommender: keras.Model,
        tokenizer: keras.Model,
        preprocess: Preprocess,
        catalog: SidCatalog,
        popularity: np.ndarray,
        limits: WireLimits | None = None,
        index: TopK | None = None,
        default_mode: str = GENERATIVE,
    ) -> None:
        super().__init__(name="servable")
        if default_mode not in MODES:
            raise ValueError(f"default_mode must be one of {MODES}, got '{default_mode}'.")
        if len(popularity) != len(catalog):
            raise ValueError(
                f"popularity has {len(popularity)} counts, the catalogue {len(catalog)} ads; give "
                "one count per catalogue row."
            )
        if index is None:
            index = BruteForce(similarity="cosine")
            index.index(catalog.embeddings)
        if index.size != len(catalog):
            raise ValueError(
                f"the index has {index.size} ads, the catalogue {len(catalog)}; build the index "
                "over this catalogue's embeddings."
            )
        self.limits = limits or WireLimits()
        self.default_mode = default_mode
        self.fingerprints = dict(catalog.fingerprints)
        self.levels = catalog.levels
        self.embedding_dim = int(catalog.embeddings.shape[1])
        self.ads = AdTable(catalog.ad_ids)
        self.popularity = Popularity(popularity)
        self.codes = tf.Variable(catalog.codes, trainable=False, name="codes")
        self.index = index
        self.preprocess = preprocess
        self._models = _Models(recommender, tokenizer)
        # Session loaders, TF Serving's among them, restore only variables that the module itself
        # tracks; those of a Keras 3 model it would not find.
        self._variables = [v.value for m in (recommender, tokenizer) for v in m.variables]

    def recommend(self, history: tf.Tensor) -> Outputs:
        """Signature `recommend`: string [B, T] -> the next ads."""
        rows = newest(self.ads.rows(history), self.limits.max_history)
        return self._answer(*self._ranked(rows, None, self.default_mode))

    def recommend_filtered(
        self,
        history: tf.Tensor,
        exclude_ad_ids: tf.Tensor,
        filter_seen: tf.Tensor,
        mode: tf.Tensor,
    ) -> Outputs:
        """Signature `recommend_filtered`: the next ads under a request's own rules."""
        seen = self.ads.rows(history)
        rows = newest(seen, self.limits.max_history)
        seen = tf.where(filter_seen[:, None], seen, -1)
        excluded = tf.concat([self.ads.rows(exclude_ad_ids), seen], axis=1)
        # A mode that is neither falls back to the default. An assertion would fail every other
        # request that the server has put into the same batch.
        other = HYBRID if self.default_mode == GENERATIVE else GENERATIVE
        in_other = mode == other
        per_mode = {
            name: tf.cond(
                tf.reduce_any(chosen),
                lambda name=name: self._ranked(rows, excluded, name),
                lambda: self._nothing(tf.shape(rows)[0]),
            )
            for name, chosen in ((other, in_other), (self.default_mode, ~in_other))
        }
        ranked = [
            tf.where(in_other[:, None], one, two)
            for one, two in zip(per_mode[other], per_mode[self.default_mode], strict=True)
        ]
        return self._answer(*ranked)

    def encode_ads(self, examples: tf.Tensor) -> Outputs:
        """Signature `encode_ads`: serialized raw ads, string [B] -> codes and embedding."""
        encoded = self._models.tokenizer(self.preprocess(examples), training=False)
        return {"sids": encoded["codes"], "embedding": encoded["embedding"]}

    def similar_ads(self, ad_ids: tf.Tensor) -> Outputs:
        """Signature `similar_ads`: string [B] -> the nearest other ads; none for an unknown ad."""
        rows = self.ads.rows(ad_ids)
        queries = self.index.vectors(tf.maximum(rows, 0))
        scores, similar = self.index.query_with_exclusions(
            queries, rows[:, None], self.limits.max_k
        )
        return self._neighbours(scores, similar, rows >= 0)

    def similar_to_embedding(self, embedding: tf.Tensor) -> Outputs:
        """Signature `similar_to_embedding`: float [B, D] -> the nearest ads."""
        usable = tf.reduce_all(tf.math.is_finite(embedding), axis=1)
        queries = tf.where(usable[:, None], embedding, 0.0)
        scores, similar = self.index(queries, self.limits.max_k)
        return self._neighbours(scores, similar, usable)

    def evaluate(self, examples: tf.Tensor) -> Outputs:
        """Signature `evaluate`: serialized `history` and `target` -> the target's rank."""
        parsed = tf.io.parse_example(
            examples,
            {
                "history": tf.io.RaggedFeature(tf.string),
                "target": tf.io.FixedLenFeature([], tf.string),
            },
        )
        # One column more, so that there is one where every history of the batch is empty.
        seen = tf.pad(
            self.ads.rows(parsed["history"].to_tensor("")), [[0, 0], [0, 1]], constant_values=-1
        )
        target = self.ads.rows(parsed["target"])
        rows = newest(seen, self.limits.max_history)
        ranked, _ = self._ranked(rows, None, self.default_mode)
        hits = (ranked == target[:, None]) & (target[:, None] >= 0)
        rank = tf.where(
            tf.reduce_any(hits, axis=1), tf.argmax(tf.cast(hits, tf.int32), axis=1) + 1, 0
        )
        return {
            "rank": tf.cast(rank, tf.float32),
            "history_length": tf.cast(parsed["history"].row_lengths(), tf.float32),
            "target_popularity": self.popularity.of(target),
        }

    def _ranked(
        self, rows: tf.Tensor, excluded: tf.Tensor | None, mode: str
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Catalogue rows [B, K], -1 past the last, and scores for histories of row + 1."""
        k = self.limits.max_k
        found = self._models.recommender.recommend(
            rows, k=k, mode=mode, beam_size=self.limits.beam_size, excluded_rows=excluded
        )
        empty = tf.reduce_all(rows == 0, axis=1)
        batch = tf.shape(rows)[0]
        none = tf.fill([batch, 0], -1) if excluded is None else excluded
        popular, shares = tf.cond(
            tf.reduce_any(empty),
            lambda: self.popularity.top(none, k, self.trie.live_rows()),
            lambda: self._nothing(batch),
        )
        scores = tf.where(found.rows >= 0, found.scores, PADDING_SCORE)
        empty = empty[:, None]
        return tf.where(empty, popular, found.rows), tf.where(empty, shares, scores)

    def _nothing(self, batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        shape = tf.stack([batch, self.limits.max_k])
        return tf.fill(shape, -1), tf.fill(shape, PADDING_SCORE)

    def _answer(self, rows: tf.Tensor, scores: tf.Tensor) -> Outputs:
        found = rows >= 0
        sids = tf.gather(self.codes, tf.maximum(rows, 0))
        return {
            "ad_ids": self.ads.ids(rows),
            "scores": scores,
            "sids": tf.where(found[:, :, None], sids, -1),
            "count": tf.reduce_sum(tf.cast(found, tf.int32), axis=1),
        }

    def _neighbours(self, scores: tf.Tensor, rows: tf.Tensor, usable: tf.Tensor) -> Outputs:
        rows = tf.where(usable[:, None], rows, -1)
        return {
            "ad_ids": self.ads.ids(rows),
            "scores": tf.where(rows >= 0, scores, PADDING_SCORE),
            "count": tf.reduce_sum(tf.cast(rows >= 0, tf.int32), axis=1),
        }
