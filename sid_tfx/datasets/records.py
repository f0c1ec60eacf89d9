"""Reads the pipeline's TFRecord files into NumPy arrays, in an order that does not depend on them.

Beam writes shards in no fixed order, so every reader here sorts by a stable key: a seed then gives
the same model whatever runner wrote the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from sid_tfx.features import AdSchema

_BATCH = 4096


class Sequences(NamedTuple):
    """User sequences of one split, sorted by user id.

    Attributes:
        user_ids: `[U]`, str.
        histories: One array of ad ids per user, oldest first.
        targets: `[U]`, str; "" where the split has no target.
        timestamps: Unix seconds of each ad, int64 per user; 0 where unknown.
        events: Event type of each ad, str per user; "" where unknown.
        weights: Weight of each ad, float32 per user; 0 where unknown.
    """

    user_ids: np.ndarray
    histories: list[np.ndarray]
    targets: np.ndarray
    timestamps: list[np.ndarray]
    events: list[np.ndarray]
    weights: list[np.ndarray]

    def users(self, rows: Sequence[int]) -> Sequences:
        """Some of the users."""
        chosen = list(rows)

        def some(values: list[np.ndarray]) -> list[np.ndarray]:
            return [values[row] for row in chosen]

        return Sequences(
            self.user_ids[chosen],
            some(self.histories),
            self.targets[chosen],
            some(self.timestamps),
            some(self.events),
            some(self.weights),
        )


class Pairs(NamedTuple):
    """Trigger and target ad ids with their Swing score, sorted by trigger, then target."""

    triggers: np.ndarray
    targets: np.ndarray
    scores: np.ndarray


def read_features(
    patterns: str | Sequence[str], schema: AdSchema
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Reads transformed ads.

    Args:
        patterns: Glob or globs of gzipped TFRecord files of transformed tf.Examples.
        schema: The features to read.

    Returns:
        Ad ids, `[N]` str, ascending; and feature name -> `[N, ...]` in the contract's dtype.
    """
    spec: dict[str, tf.io.FixedLenFeature] = {"ad_id": tf.io.FixedLenFeature([], tf.string)}
    for name, (dtype, shape) in schema.features().items():
        spec[name] = tf.io.FixedLenFeature(shape, dtype)
    columns = _read(patterns, spec)
    ad_ids = _text(columns.pop("ad_id"))
    order = np.argsort(ad_ids, kind="stable")
    return ad_ids[order], {name: values[order] for name, values in columns.items()}


def read_sequences(patterns: str | Sequence[str]) -> Sequences:
    """Reads user sequences (see `Sequences`) from gzipped TFRecord files."""
    per_event = {
        "history": tf.io.RaggedFeature(tf.string),
        "timestamps": tf.io.RaggedFeature(tf.int64),
        "events": tf.io.RaggedFeature(tf.string),
        "weights": tf.io.RaggedFeature(tf.float32),
    }
    spec = {
        "user_id": tf.io.FixedLenFeature([], tf.string),
        "target": tf.io.FixedLenFeature([], tf.string, default_value=""),
        **per_event,
    }
    parts: dict[str, list[np.ndarray]] = {name: [] for name in (*spec, "length")}
    for batch in _batches(patterns, spec):
        lengths = batch["history"].row_lengths()
        parts["length"].append(lengths.numpy())
        for name, values in batch.items():
            if name in per_event:
                values = _as_long(values, lengths)
            parts[name].append(values.numpy())
    if not parts["length"]:
        empty = np.array([], str)
        return Sequences(empty, [], empty, [], [], [])
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    user_ids = _text(columns["user_id"])
    order = np.argsort(user_ids, kind="stable")
    ends = np.cumsum(columns["length"])[:-1]

    def per_user(values: np.ndarray) -> list[np.ndarray]:
        users = np.split(values, ends)
        return [users[row] for row in order]

    return Sequences(
        user_ids[order],
        per_user(_text(columns["history"])),
        _text(columns["target"])[order],
        per_user(columns["timestamps"]),
        per_user(_text(columns["events"])),
        per_user(columns["weights"]),
    )


def _as_long(values: tf.RaggedTensor, lengths: tf.Tensor) -> tf.Tensor:
    """The flat values of rows that are `lengths` long; unknown ones of rows that have none."""
    width = tf.reduce_max(lengths)
    padding = tf.zeros([values.nrows(), width], values.dtype)
    padded = tf.concat([values.to_tensor(), padding], axis=1)[:, :width]
    return tf.boolean_mask(padded, tf.sequence_mask(lengths, width))


def read_pairs(patterns: str | Sequence[str]) -> Pairs:
    """Reads Swing pairs (see `Pairs`) from gzipped TFRecord files."""
    columns = _read(
        patterns,
        {
            "trigger": tf.io.FixedLenFeature([], tf.string),
            "target": tf.io.FixedLenFeature([], tf.string),
            "score": tf.io.FixedLenFeature([], tf.float32),
        },
    )
    triggers, targets = _text(columns["trigger"]), _text(columns["target"])
    order = np.lexsort((targets, triggers))
    return Pairs(triggers[order], targets[order], columns["score"][order])


def _read(
    patterns: str | Sequence[str], spec: dict[str, tf.io.FixedLenFeature]
) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in spec}
    for batch in _batches(patterns, spec):
        for name, values in batch.items():
            parts[name].append(values.numpy())
    return {
        name: np.concatenate(arrays)
        if arrays
        else np.zeros((0, *spec[name].shape), tf.as_dtype(spec[name].dtype).as_numpy_dtype)
        for name, arrays in parts.items()
    }


def _batches(patterns: str | Sequence[str], spec: dict) -> tf.data.Dataset:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    files = sorted(file for pattern in patterns for file in tf.io.gfile.glob(pattern))
    return (
        tf.data.TFRecordDataset(files, compression_type="GZIP")
        .batch(_BATCH)
        .map(lambda records: tf.io.parse_example(records, spec))
        .prefetch(1)
    )


def _text(values: np.ndarray) -> np.ndarray:
    """Bytes objects -> fixed-width str, for fast sorting and look-up."""
    return np.char.decode(values.astype(bytes), "utf-8") if len(values) else np.array([], str)
