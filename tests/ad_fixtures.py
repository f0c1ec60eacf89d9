"""A small synthetic catalogue whose ads have something to tell apart."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from sid_tfx.features import AdSchema, FeatureSizes, empty_features
from sid_tfx.tokenizer import SidTokenizer

SCHEMA = AdSchema(
    text={"title": 6},
    categorical=("advertiser",),
    category_depth=2,
    numeric=("price",),
    dense={"image_embedding": 8},
    summary_tokens=4,
)
SIZES = FeatureSizes(text=60, categorical={"advertiser": 12}, category=14)
SMALL_TOWER: dict[str, Any] = {"dim": 16, "heads": 2, "word_dim": 8}
SMALL_ENCODER: dict[str, Any] = {**SMALL_TOWER, "embedding_dim": 16, "detail_dim": 8}


def small_tokenizer(encoder: Mapping[str, Any] | None = None, **arguments: Any) -> SidTokenizer:
    """Returns an untrained `joint` tokenizer that trains in seconds."""
    encoder = {**SMALL_ENCODER, **(encoder or {})}
    arguments = {"schema": SCHEMA, "sizes": SIZES, "codebook_size": 16, **arguments}
    return SidTokenizer.from_preset("joint", encoder=encoder, **arguments)


def catalogue(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns the features of `rows` ads: titles, vectors and summaries follow the category."""
    rng = np.random.default_rng(seed)
    features = empty_features(SCHEMA, rows)
    root = rng.integers(0, 3, rows)
    leaf = root * 3 + rng.integers(0, 3, rows)
    features["category"] = np.stack([2 + root, 5 + leaf], axis=1)
    features["advertiser"] = 2 + (leaf + rng.integers(0, 2, rows)) % 10
    features["title_tokens"] = 2 + (leaf[:, None] * 5 + rng.integers(0, 10, (rows, 6))) % 58
    features["title_tokens"][:, 4:] *= rng.random((rows, 2)) < 0.5
    features["summary_tokens"] = 2 + (leaf[:, None] + np.arange(4)) % 58
    features["numeric"] = rng.normal(size=(rows, 1)).astype("float32")
    features["numeric_present"] = np.ones((rows, 1), "float32")
    centers = np.random.default_rng(99).normal(size=(9, 8))
    vectors = centers[leaf] + rng.normal(size=(rows, 8))
    features["image_embedding"] = vectors.astype("float32")
    return features


def pairs(features: dict[str, np.ndarray], count: int, seed: int = 0) -> np.ndarray:
    """Returns pairs of ads of one leaf category, int `[count, 2]`."""
    rng = np.random.default_rng(seed)
    leaf = features["category"][:, 1]
    triggers = rng.integers(0, len(leaf), count)
    targets = [rng.choice(np.flatnonzero(leaf == leaf[trigger])) for trigger in triggers]
    return np.stack([triggers, targets], axis=1)
