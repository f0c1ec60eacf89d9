"""A servable of generated ads, for sizes that no sample has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from benchmarks.serving_load import request_bytes
from serving.warmup import WARMUP_FILE
from sid_tfx import export
from sid_tfx.catalog import SidCatalog
from sid_tfx.export import Servable, WireLimits
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.recommender import SidRecommender
from sid_tfx.tokenizer import SidTokenizer

_COLUMN = "text_embedding"
_COLUMN_SIZE = 16


class RawAds(tf.Module):
    """Raw examples to the one column that the tokenizer here reads."""

    def __call__(self, examples: tf.Tensor) -> dict[str, tf.Tensor]:
        """Parses serialized tf.Examples, string [B]."""
        zeros = [0.0] * _COLUMN_SIZE
        spec = {_COLUMN: tf.io.FixedLenFeature([_COLUMN_SIZE], tf.float32, zeros)}
        return tf.io.parse_example(examples, spec)


def save_servable(catalog: SidCatalog, folder: Path, seed: int) -> None:
    """Writes a servable of generated ads; its models have default sizes and are untrained."""
    schema = AdSchema(dense={_COLUMN: _COLUMN_SIZE})
    tokenizer = SidTokenizer.from_preset(
        "rq_vae", schema, FeatureSizes(), levels=catalog.levels,
        codebook_size=catalog.codebook_size, seed=seed,
    )  # fmt: skip
    recommender = SidRecommender.for_catalog(catalog, seed=seed)
    popularity = np.random.default_rng(seed).permutation(len(catalog))
    limits = WireLimits()
    servable = Servable(recommender, tokenizer, RawAds(), catalog, popularity, limits)
    export.save(servable, folder)
    # As the pipeline's servables have it: a version is warm before it serves.
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.ParseFromString(
        request_bytes([str(catalog.ad_ids[0])], limits.max_history)
    )
    with tf.io.TFRecordWriter(str(folder / WARMUP_FILE)) as writer:
        writer.write(log.SerializeToString())
