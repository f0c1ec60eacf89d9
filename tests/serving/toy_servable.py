"""A small servable that honours the wire contract: real lookups, top-k and asset files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

ADS, LEVELS, DIM = 20, 3, 8
HISTORY, EXCLUDE, K = 5, 3, 4
AD_IDS = [f"ad{i:02d}" for i in range(ADS)]


class ToyServable(tf.Module):
    """Scores every ad by the dot product with the mean of the history; scores start at `offset`."""

    def __init__(self, folder: Path, offset: float) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = folder / "ads.txt"
        vocabulary.write_text("".join(f"{ad}\n" for ad in AD_IDS))
        self.asset = tf.saved_model.Asset(str(vocabulary))
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                self.asset.asset_path,
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
                vocab_size=ADS,
            ),
            default_value=-1,
        )
        self.ad_ids = tf.Variable(AD_IDS, trainable=False)
        values = tf.random.stateless_normal([ADS, DIM], [1, 2])
        self.embeddings = tf.Variable(tf.math.l2_normalize(values, axis=1))
        self.codes = tf.Variable(
            [[i // 9 % 3, i // 3 % 3, i % 3] for i in range(ADS)], dtype=tf.int32
        )
        self.offset = tf.Variable(offset)

    def _top(self, query: tf.Tensor, blocked: tf.Tensor) -> dict[str, tf.Tensor]:
        scores = tf.matmul(query, self.embeddings, transpose_b=True) + self.offset
        scores = tf.where(blocked, tf.float32.min, scores)
        values, index = tf.math.top_k(scores, k=K)
        real = values > tf.float32.min
        return {
            "ad_ids": tf.where(real, tf.gather(self.ad_ids, index), ""),
            "scores": tf.where(real, values, 0.0),
            "sids": tf.gather(self.codes, index),
            "count": tf.reduce_sum(tf.cast(real, tf.int32), axis=1),
        }

    def _mask(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.reduce_any(tf.one_hot(self.table.lookup(ids), ADS) > 0, axis=1)

    def _query(self, history: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(tf.one_hot(self.table.lookup(history), ADS), axis=1) @ self.embeddings

    def recommend(self, history: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._top(self._query(history), tf.zeros([tf.shape(history)[0], ADS], tf.bool))

    def recommend_filtered(
        self, history: tf.Tensor, exclude_ad_ids: tf.Tensor, filter_seen: tf.Tensor, mode: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        blocked = self._mask(exclude_ad_ids)
        blocked |= self._mask(history) & filter_seen[:, tf.newaxis]
        # The mode has to show in the answer, or a test could not see that it arrived.
        bonus = tf.cast(tf.equal(mode, "hybrid"), tf.float32)[:, tf.newaxis]
        out = self._top(self._query(history), blocked)
        return {**out, "scores": out["scores"] + bonus}

    def recommend_in_context(
        self,
        history: tf.Tensor,
        history_timestamps: tf.Tensor,
        history_events: tf.Tensor,
        history_weights: tf.Tensor,
        exclude_ad_ids: tf.Tensor,
        filter_seen: tf.Tensor,
        mode: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        out = self.recommend_filtered(history, exclude_ad_ids, filter_seen, mode)
        # Every value has to show, at its place.
        seconds = tf.cast(history_timestamps, tf.float32)
        length = tf.cast(tf.strings.length(history_events), tf.float32)
        said = seconds + 100.0 * length + 10_000.0 * history_weights
        bonus = tf.linalg.matvec(said, tf.range(1.0, HISTORY + 1.0))[:, tf.newaxis]
        return {**out, "scores": out["scores"] + bonus}

    def encode_ads(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {
            "title": tf.io.FixedLenFeature([], tf.string, ""),
            "price": tf.io.FixedLenFeature([], tf.float32, -1.0),
            "category_path": tf.io.VarLenFeature(tf.string),
        }
        parsed = tf.io.parse_example(examples, spec)
        depth = tf.sparse.to_dense(parsed["category_path"], default_value="")
        levels = tf.reduce_sum(tf.cast(tf.not_equal(depth, ""), tf.int32), axis=1)
        length = tf.strings.length(parsed["title"])
        price = tf.cast(parsed["price"], tf.int32)
        embedding = tf.gather(self.embeddings, tf.math.floormod(length, ADS))
        return {"sids": tf.stack([length, price, levels], axis=1), "embedding": embedding}

    def _similar(self, query: tf.Tensor, blocked: tf.Tensor) -> dict[str, tf.Tensor]:
        out = self._top(query, blocked)
        return {name: out[name] for name in ("ad_ids", "scores", "count")}

    def similar_ads(self, ad_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        one_hot = tf.one_hot(self.table.lookup(ad_ids), ADS)
        return self._similar(one_hot @ self.embeddings, one_hot > 0)

    def similar_to_embedding(self, embedding: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._similar(embedding, tf.zeros([tf.shape(embedding)[0], ADS], tf.bool))

    def evaluate(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        spec = {
            "history": tf.io.VarLenFeature(tf.string),
            "target": tf.io.FixedLenFeature([], tf.string),
        }
        parsed = tf.io.parse_example(examples, spec)
        history = tf.sparse.to_dense(parsed["history"], default_value="")
        length = tf.reduce_sum(tf.cast(tf.not_equal(history, ""), tf.float32), axis=1)
        seen = self._mask(history)
        # No two ads have the same codes, and all are equally popular.
        plain = self._rank(history, tf.zeros_like(seen), parsed["target"])
        filtered = self._rank(history, seen, parsed["target"])
        return {
            "rank": plain,
            "sid_rank": plain,
            "filtered_rank": filtered,
            "filtered_sid_rank": filtered,
            "popularity_rank": tf.zeros_like(length),
            "history_length": length,
            "target_popularity": tf.zeros_like(length),
            "shown_rows": tf.fill([tf.size(length), K], -1),
            "shown_popularity": tf.zeros([tf.size(length), K]),
            "catalogue_size": tf.fill(tf.shape(length), float(ADS)),
        }

    def _rank(self, history: tf.Tensor, blocked: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        hit = tf.equal(self._top(self._query(history), blocked)["ad_ids"], target[:, tf.newaxis])
        place = tf.range(1.0, K + 1.0)
        return tf.reduce_sum(tf.where(hit, place, 0.0), axis=1)


def save_toy(version_dir: Path, scratch: Path, offset: float) -> Path:
    """Writes the toy servable; `offset` is added to every score, so an answer names its version."""
    module = ToyServable(scratch, offset)

    def concrete(
        method: Callable, **specs: tf.TensorSpec
    ) -> tf.types.experimental.ConcreteFunction:
        return tf.function(method).get_concrete_function(**specs)

    def spec(name: str, dtype: tf.DType, *shape: int) -> tf.TensorSpec:
        return tf.TensorSpec([None, *shape], dtype, name=name)

    history = spec("history", tf.string, HISTORY)
    rules = {
        "exclude_ad_ids": spec("exclude_ad_ids", tf.string, EXCLUDE),
        "filter_seen": spec("filter_seen", tf.bool),
        "mode": spec("mode", tf.string),
    }
    recommend = concrete(module.recommend, history=history)
    signatures = {
        "serving_default": recommend,
        "recommend": recommend,
        "recommend_filtered": concrete(module.recommend_filtered, history=history, **rules),
        "recommend_in_context": concrete(
            module.recommend_in_context,
            history=history,
            history_timestamps=spec("history_timestamps", tf.int64, HISTORY),
            history_events=spec("history_events", tf.string, HISTORY),
            history_weights=spec("history_weights", tf.float32, HISTORY),
            **rules,
        ),
        "encode_ads": concrete(module.encode_ads, examples=spec("examples", tf.string)),
        "similar_ads": concrete(module.similar_ads, ad_ids=spec("ad_ids", tf.string)),
        "similar_to_embedding": concrete(
            module.similar_to_embedding, embedding=spec("embedding", tf.float32, DIM)
        ),
        "evaluate": concrete(module.evaluate, examples=spec("examples", tf.string)),
    }
    tf.saved_model.save(module, str(version_dir), signatures=signatures)
    return version_dir
