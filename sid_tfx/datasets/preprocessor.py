"""Ads to transformed features without TFX: what TF Transform makes, from a table in memory."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import tensorflow as tf

from sid_tfx.datasets import fields
from sid_tfx.datasets.ads import AdTable
from sid_tfx.datasets.vocabulary import Vocabulary
from sid_tfx.features import AdSchema, FeatureSizes

_BATCH = 4_096


class AdPreprocessor:
    """Learns vocabularies and scales from ads, then turns ads into model input.

    It gives the same arrays as the pipeline's `preprocessing_fn`, from the same string operations.

    Args:
        schema: The columns.
        limits: Sizes of the vocabularies.

    Example:

    >>> ads = load_ads("ads.parquet")                                      # doctest: +SKIP
    >>> preprocessor = AdPreprocessor(ads.schema).adapt(ads)               # doctest: +SKIP
    >>> features = preprocessor.transform(ads)                             # doctest: +SKIP
    >>> features["title_tokens"].shape                                     # doctest: +SKIP
    (2000, 24)
    """

    def __init__(self, schema: AdSchema, limits: fields.VocabularyLimits | None = None) -> None:
        self.schema = schema
        self.limits = limits or fields.VocabularyLimits()
        self.words: Vocabulary | None = None
        self.category: Vocabulary | None = None
        self.categorical: dict[str, Vocabulary] = {}
        self._mean = np.zeros(len(schema.numeric))
        self._deviation = np.ones(len(schema.numeric))
        self._adapted = False

    def adapt(self, ads: AdTable) -> "AdPreprocessor":
        """Learns from ads; what was learned before is forgotten.

        Args:
            ads: The ads to learn from: those that run while the training events happen.

        Returns:
            The preprocessor itself.
        """
        schema, limits = self.schema, self.limits
        if schema.text or schema.summary_tokens:
            self.words = Vocabulary(limits.text, limits.text_min_count)
        if schema.category_depth:
            self.category = Vocabulary(limits.category)
        self.categorical = {name: Vocabulary(limits.categorical) for name in schema.categorical}
        for batch in self._string_fields(ads):
            for vocabulary, strings in self._lookups(batch):
                vocabulary.count(strings)
        for vocabulary in filter(None, [self.words, self.category, *self.categorical.values()]):
            vocabulary.freeze()

        values = self._numbers(ads)
        present = np.maximum(np.isfinite(values).sum(axis=0), 1)
        self._mean = np.nansum(values, axis=0) / present
        self._deviation = np.sqrt(np.nansum((values - self._mean) ** 2, axis=0) / present)
        self._adapted = True
        return self

    @property
    def sizes(self) -> FeatureSizes:
        """Vocabulary sizes, for the models; a `RuntimeError` before `adapt`."""
        self._check_adapted()
        return FeatureSizes(
            text=self.words.size if self.words else 0,
            category=self.category.size if self.category else 0,
            categorical={name: vocab.size for name, vocab in self.categorical.items()},
        )

    def transform(self, ads: AdTable) -> dict[str, np.ndarray]:
        """Returns the transformed features, row `i` for `ads.ad_ids[i]`.

        Args:
            ads: Any ads with the schema's columns, unseen ones too.

        Returns:
            Feature name -> array `[ads, ...]`, as `AdSchema.features()` declares them.

        Raises:
            RuntimeError: `adapt` was not called.
        """
        self._check_adapted()
        batches = [self._ids(batch) for batch in self._string_fields(ads)]
        features = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        if self.schema.numeric:
            features |= self._scores(self._numbers(ads))
        for column, size in self.schema.dense.items():
            features[column] = _vectors(ads.frame[column], size)
        return {name: features[name] for name in self.schema.features()}

    def _check_adapted(self) -> None:
        if not self._adapted:
            raise RuntimeError("The preprocessor knows no ads yet: call adapt(ads) first.")

    def _string_fields(self, ads: AdTable) -> Iterator[fields.StringFields]:
        wanted = {*self.schema.text, *self.schema.categorical, fields.SUMMARY, fields.ADVERTISER}
        for start in range(0, len(ads), _BATCH):
            frame = ads.frame.iloc[start : start + _BATCH]
            strings = {
                column: tf.constant(_strings(frame[column]))
                for column in sorted(wanted & set(frame.columns))
            }
            yield fields.string_fields(self.schema, strings, _paths(frame))

    def _lookups(self, batch: fields.StringFields) -> Iterator[tuple[Vocabulary, np.ndarray]]:
        if self.words and batch.words is not None:
            yield self.words, batch.words.numpy()
        if self.category and batch.category is not None:
            yield self.category, batch.category.numpy()
        for name, vocabulary in self.categorical.items():
            yield vocabulary, batch.categorical[name].numpy()

    def _ids(self, batch: fields.StringFields) -> dict[str, np.ndarray]:
        features: dict[str, np.ndarray] = {}
        if self.words and batch.words is not None:
            ids = self.words.lookup(batch.words.numpy())
            features |= fields.split_word_features(self.schema, ids)
        if self.category and batch.category is not None:
            features["category"] = self.category.lookup(batch.category.numpy())
        for name, vocabulary in self.categorical.items():
            features[name] = vocabulary.lookup(batch.categorical[name].numpy())
        return {name: np.asarray(values) for name, values in features.items()}

    def _numbers(self, ads: AdTable) -> np.ndarray:
        """Returns the numeric columns, float64 `[ads, columns]`, NaN where there is no number."""
        columns = [pd.to_numeric(ads.frame[c], errors="coerce") for c in self.schema.numeric]
        if not columns:
            return np.zeros((len(ads), 0))
        # By way of float32: the pipeline's raw examples hold that.
        values = np.stack([c.to_numpy(np.float32) for c in columns], axis=1).astype(np.float64)
        values[~np.isfinite(values)] = np.nan
        return values

    def _scores(self, values: np.ndarray) -> dict[str, np.ndarray]:
        present = np.isfinite(values)
        deviation = np.where(self._deviation > 0, self._deviation, 1.0)
        scores = np.where(present, (values - self._mean) / deviation, 0.0)
        bounded = np.clip(scores, -fields.MAX_Z_SCORE, fields.MAX_Z_SCORE)
        return {
            "numeric": bounded.astype(np.float32),
            "numeric_present": present.astype(np.float32),
        }


def _strings(values: pd.Series) -> np.ndarray:
    return values.where(values.notna(), "").astype(str).to_numpy(dtype=object)


def _paths(frame: pd.DataFrame) -> tf.RaggedTensor:
    if fields.CATEGORY_PATH not in frame:
        return tf.RaggedTensor.from_row_lengths(
            tf.constant([], tf.string), tf.zeros([len(frame)], tf.int64)
        )
    paths = frame[fields.CATEGORY_PATH].tolist()
    flat = [part for path in paths for part in path]
    return tf.RaggedTensor.from_row_lengths(
        tf.constant(flat, tf.string), np.array([len(path) for path in paths], np.int64)
    )


def _vectors(values: pd.Series, size: int) -> np.ndarray:
    vectors = np.zeros((len(values), size), np.float32)
    present = np.flatnonzero(values.notna())
    if len(present):
        vectors[present] = np.stack([np.asarray(values.iloc[row]) for row in present])
    return np.where(np.isfinite(vectors), vectors, 0.0).astype(np.float32)
