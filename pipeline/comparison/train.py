"""Trains one cell: `python -m pipeline.comparison.train JOB.json`, a process of its own."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from joblib import Memory

import sid_tfx
from pipeline.collaborative import ad_vectors
from pipeline.comparison.budget import Budget
from pipeline.comparison.data import read_files
from pipeline.comparison.process import end_with_parent
from pipeline.comparison.records import FinishedCell, Record, save_cell
from sid_tfx.catalog import DEFAULT_MAX_DEDUP, SidCatalog
from sid_tfx.datasets.ads import AdTable
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.datasets.sequences import EvaluationSet, SequenceSplits
from sid_tfx.datasets.swing import SwingPairs, swing_pairs
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import GenerativeRecommender, Result, evaluate
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM, AdSchema, FeatureSizes
from sid_tfx.metrics.hit_rate import embedding_hit_rate
from sid_tfx.metrics.sid_quality import group_sizes, prefix_purity, sid_quality
from sid_tfx.recommender import SidRecommender
from sid_tfx.tokenizer import SidTokenizer

_K = 10
_HIT_RATE_TRIGGERS = 4096
# The pairs depend on the data alone, so one cell mines them for all.
_cached = Memory(Path("runs") / "comparison_cache", verbose=0).cache


class Data(NamedTuple):
    """Both files as the models read them."""

    ads: AdTable
    features: dict[str, np.ndarray]
    sizes: FeatureSizes
    pairs: SwingPairs
    splits: SequenceSplits


def main(path: str) -> None:
    """Reads a job, trains its cell and writes the result.

    Args:
        path: A JSON file with `key` and `spec` of the cell, paths `ads` and `events`, `dataset`,
            the name of both, and `out`, the path to write to, without suffix.
    """
    job = json.loads(Path(path).read_text())
    data = load_data(job["ads"], job["events"])
    record, ranks = train_cell(job["spec"], data)
    record = {"dataset": job["dataset"], **record}
    save_cell(
        FinishedCell(job["key"], job["spec"], source_fingerprint(), record, ranks),
        Path(job["out"]),
    )


def load_data(ads_path: str, events_path: str) -> Data:
    """Reads ads and events; whatever learns from events will see the training events only."""
    ads, splits = read_files(ads_path, events_path)
    preprocessor = AdPreprocessor(ads.schema).adapt(ads)
    users = np.repeat(np.arange(len(splits.train)), splits.train.lengths)
    # With the pairs of single users, as the pipeline has them: without, methods that quantize
    # collaborative vectors would have none for a third of the ads.
    pairs = SwingPairs(*_cached(swing_pairs)(users, splits.train.rows, single_users=True))
    return Data(ads, preprocessor.transform(ads), preprocessor.sizes, pairs, splits)


def train_cell(spec: dict[str, Any], data: Data) -> tuple[Record, dict[str, np.ndarray]]:
    """Trains tokenizer and recommender and measures both.

    Args:
        spec: `Cell.spec`.
        data: The data.

    Returns:
        The record, and the arrays that `records.RANKS` names.
    """
    budget = Budget(**spec["budget"])
    # Fixes dropout and whatever else has no seed of its own.
    keras.utils.set_random_seed(spec["seed"])
    begin, begin_cpu = time.monotonic(), time.process_time()
    encoded = tokenize(spec, data)
    codes = encoded["codes"]
    train_seconds = time.monotonic() - begin
    train_cpu_seconds = time.process_time() - begin_cpu
    tokenizer_peak = _peak_rss_mb()

    catalog = SidCatalog.build(
        data.ads.ad_ids,
        codes,
        # No content: two cells may differ in their codes alone.
        np.zeros((len(codes), 1), np.float32),
        spec["codebook_size"],
        # As many tokens as it takes: an ad moved to another SID would hide a collision.
        max_dedup=max(DEFAULT_MAX_DEDUP, int(group_sizes(codes).max())),
    )
    begin = time.monotonic()
    recommender = train_recommender(catalog, data.splits, budget, spec["seed"])
    recommender_seconds = time.monotonic() - begin

    method = GenerativeRecommender(SidDecoder(recommender, budget.beam_size))
    begin = time.monotonic()
    test = evaluate("sid", method, data.splits.test, catalog, k=_K)
    validation = evaluate("sid", method, data.splits.validation, catalog, k=_K)
    evaluate_seconds = time.monotonic() - begin

    record = {
        "preset": spec["preset"],
        "ablation": spec["ablation"],
        "seed": spec["seed"],
        **quality_figures(codes, spec["codebook_size"], data),
        "embedding_hit_rate": hit_rate(encoded["sid_embedding"], data.splits.validation),
        **ranking_figures(test, validation),
        "users": len(test.ranks),
        "train_seconds": round(train_seconds, 2),
        "train_cpu_seconds": round(train_cpu_seconds, 2),
        "recommender_seconds": round(recommender_seconds, 2),
        "evaluate_seconds": round(evaluate_seconds, 2),
        "peak_rss_mb": _peak_rss_mb(),
        "tokenizer_peak_rss_mb": tokenizer_peak,
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
    }
    return record, {
        "test": test.ranks.astype(np.uint8),
        "test_sid": test.sid_ranks.astype(np.uint8),
        "validation": validation.ranks.astype(np.uint8),
        "validation_sid": validation.sid_ranks.astype(np.uint8),
    }


def tokenize(spec: dict[str, Any], data: Data) -> dict[str, np.ndarray]:
    """Trains the preset's tokenizer; returns what it makes of all ads."""
    settings, schema, features = spec["settings"], data.ads.schema, dict(data.features)
    rows = np.stack([data.pairs.trigger, data.pairs.target], axis=1)
    weights = {**settings["loss_weights"], **spec["overrides"].get("loss_weights", {})}
    if settings["collaborative"] or weights.get("alignment"):
        features[COLLABORATIVE] = ad_vectors(data.pairs, len(data.ads), spec["seed"])
    if settings["collaborative"]:
        schema = with_collaborative(schema)
    tokenizer = SidTokenizer.from_preset(
        spec["preset"],
        schema,
        data.sizes,
        levels=spec["levels"],
        codebook_size=spec["codebook_size"],
        seed=spec["seed"],
        **spec["overrides"],
    )
    batches = PairBatches(
        features, rows, data.pairs.score, settings["batch_pairs"], seed=spec["seed"]
    )
    tokenizer.fit(batches, epochs=settings["epochs"], verbose=2)
    return tokenizer.encode(features)


def with_collaborative(schema: AdSchema) -> AdSchema:
    """Returns the schema with the dense column of collaborative vectors, as a model input."""
    dense = {**schema.dense, COLLABORATIVE: COLLABORATIVE_DIM}
    return AdSchema.from_dict({**schema.to_dict(), "dense": dense})


def train_recommender(
    catalog: SidCatalog, splits: SequenceSplits, budget: Budget, seed: int
) -> SidRecommender:
    """Trains the budget's recommender on every position of every training history."""
    recommender = SidRecommender.for_catalog(catalog, **budget.recommender_arguments(), seed=seed)
    batches = SequenceBatches(splits.train, budget.max_history, budget.positions, seed)
    steps = budget.epochs * len(batches)
    warmup_steps = max(1, int(budget.warmup_share * steps))
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        warmup_target=budget.learning_rate,
        warmup_steps=warmup_steps,
    )
    recommender.compile(
        keras.optimizers.AdamW(rate, weight_decay=budget.weight_decay, global_clipnorm=1.0),
        # XLA on a CPU hardly uses a second core.
        jit_compile=False,
    )
    recommender.fit(batches, epochs=budget.epochs, shuffle=False, verbose=2)
    return recommender


def quality_figures(codes: np.ndarray, codebook_size: int, data: Data) -> Record:
    """SID quality before de-dup; lists have a value a level."""
    names = None
    if data.ads.schema.category_depth:
        names = data.ads.frame["category_path"].map(" > ".join).to_numpy(dtype=str)
    quality = sid_quality(codes, codebook_size, names)
    return {
        **quality,
        "v_measure": quality.get("v_measure", []),
        "prefix_purity": [] if names is None else prefix_purity(codes, names),
    }


def hit_rate(sid_embeddings: np.ndarray, validation: EvaluationSet) -> float:
    """Whether what the codes stand for finds the next ad near the newest one, without training.

    Validation pairs: a tokenizer that was trained on co-engaged pairs has not seen them.
    """
    newest = validation.inputs.rows[validation.inputs.offsets[1:] - 1]
    pairs = np.unique(np.stack([newest, validation.targets], axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return embedding_hit_rate(sid_embeddings, pairs, k=_K, max_triggers=_HIT_RATE_TRIGGERS)


def ranking_figures(test: Result, validation: Result) -> Record:
    """The figures of the table, plain; test at both levels, validation at item level."""
    item, sid = test.record(), test.record("sid")
    chosen = validation.record()
    return {
        "recall@10": item["recall@10"],
        "ndcg@10": item["ndcg@10"],
        "sid_recall@10": sid["recall@10"],
        "sid_ndcg@10": sid["ndcg@10"],
        "validation_recall@10": chosen["recall@10"],
        "validation_ndcg@10": chosen["ndcg@10"],
    }


def source_fingerprint() -> str:
    """12 hex digits of the library's source files: whether two cells ran the same code."""
    root = Path(sid_tfx.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _peak_rss_mb() -> float:
    # getrusage would also count the peak of the process that started this one.
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return round(int(lines["VmHWM"].split()[0]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2, 1)


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
