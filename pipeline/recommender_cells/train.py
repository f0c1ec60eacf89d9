"""Trains one cell: `python -m pipeline.recommender_cells.train JOB.json`, a process of its own."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from pipeline.comparison.data import read_files
from pipeline.comparison.process import end_with_parent
from pipeline.comparison.records import FinishedCell, Record, save_cell
from pipeline.comparison.train import Data, source_fingerprint, tokenize
from pipeline.config import PairsConfig, RecommenderConfig, TokenizerConfig
from pipeline.recommender_cells.methods import GENERATIVE, MODES, codes_key
from pipeline.recommender_training import set_hybrid_weights, train_recommender
from pipeline.training import make_deterministic
from sid_tfx.baselines import ItemKnn, Popularity, SasRec
from sid_tfx.catalog import SidCatalog
from sid_tfx.context import EventContext
from sid_tfx.datasets.ads import AdTable
from sid_tfx.datasets.preprocessor import AdPreprocessor
from sid_tfx.datasets.sequences import SequenceSplits
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.datasets.swing import swing_pairs
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import (
    ExhaustiveRecommender,
    GenerativeRecommender,
    Recommender,
    evaluate,
    full_record,
)
from sid_tfx.metrics.sid_quality import group_sizes
from sid_tfx.recommender import SidRecommender

LIST_LENGTH = 50
"""Ads returned to a user; the reciprocal rank of a target past it is 0."""

_CODES = "codes"
# A line an epoch: what this process prints goes to the cell's log.
_LOG_EPOCHS = 2


class Trained(NamedTuple):
    """A method ready to be measured.

    Attributes:
        modes: Mode -> what ranks.
        catalog: Its ads; with codes of its own for a generative method.
        levels: Levels of its records.
        figures: What to add to each record.
        context: What it reads beside the ads.
    """

    modes: Mapping[str, Recommender]
    catalog: SidCatalog
    levels: tuple[str, ...]
    figures: Record
    context: EventContext = EventContext()


def main(path: str) -> None:
    """Reads a job, trains its cell and writes the result.

    Args:
        path: A JSON file with `key` and `spec` of the cell, paths `ads` and `events`, `dataset`,
            the name of both, and `out`, the path to write to, without suffix.
    """
    job = json.loads(Path(path).read_text())
    out = Path(job["out"])
    records, ranks = run_cell(job["spec"], Path(job["ads"]), Path(job["events"]), out.parent)
    record = {"records": [{"dataset": job["dataset"], **record} for record in records]}
    save_cell(FinishedCell(job["key"], job["spec"], source_fingerprint(), record, ranks), out)


def run_cell(
    spec: dict[str, Any], ads_path: Path, events_path: Path, folder: Path
) -> tuple[list[Record], dict[str, np.ndarray]]:
    """Trains a method and measures it on the test users.

    Args:
        spec: `Cell.spec`.
        ads_path: The ads.
        events_path: The event log.
        folder: Keeps the codes of trained tokenizers, which several methods share.

    Returns:
        A record per mode, filter and level; and by `"MODE-plain"` or `"MODE-filtered"` the rank of
        each test user's target, uint8, 0 past the list.
    """
    make_deterministic(spec["seed"])
    ads, splits = read_files(ads_path, events_path, spec["split"], spec.get("shares", (0.1, 0.1)))
    if spec["method"] in GENERATIVE:
        trained = _generative(spec, ads, splits, folder)
    else:
        trained = _baseline(spec, splits, ads.ad_ids)
    popularity = splits.train.popularity(len(ads))
    records, ranks = [], {}
    for mode, method in trained.modes.items():
        for filtered in (False, True):
            begin = time.monotonic()
            result = evaluate(
                spec["method"],
                method,
                splits.test.in_context(trained.context),
                trained.catalog,
                filtered,
                mode,
                LIST_LENGTH,
            )
            seconds = time.monotonic() - begin
            chosen = _validation_figures(spec, method, splits, trained, filtered)
            for level in trained.levels:
                records.append(
                    {
                        **full_record(result, level, splits.test, popularity),
                        "split": spec["split"],
                        "seed": spec["seed"],
                        **trained.figures,
                        **chosen,
                        "evaluate_seconds": round(seconds, 2),
                        "cores": len(os.sched_getaffinity(0)),
                        "load_average": round(os.getloadavg()[0], 2),
                    }
                )
            ranks[f"{mode}-{'filtered' if filtered else 'plain'}"] = result.ranks.astype(np.uint8)
    return records, ranks


def _validation_figures(
    spec: dict[str, Any],
    method: Recommender,
    splits: SequenceSplits,
    trained: Trained,
    filtered: bool,
) -> Record:
    """What to choose by: figures on validation users, item level."""
    users = spec.get("recommender", spec)["validation_users"]
    validation = splits.validation.sample(users).in_context(trained.context)
    record = evaluate("", method, validation, trained.catalog, filtered, k=LIST_LENGTH).record()
    return {f"validation_{name}": record[name] for name in ("users", "recall@10", "ndcg@10")}


def _baseline(spec: dict[str, Any], splits: SequenceSplits, ad_ids: np.ndarray) -> Trained:
    begin = time.monotonic()
    figures: Record = {}
    method: Recommender
    if spec["method"] == "popularity":
        method = Popularity(splits.train, len(ad_ids))
    elif spec["method"] == "item_knn":
        method = ItemKnn(splits.train, len(ad_ids))
    else:
        settings = RecommenderConfig(**spec["recommender"])
        model = SasRec(len(ad_ids), max_history=settings.max_history, seed=spec["seed"])
        method = model
        history = train_recommender(
            model,
            splits.train,
            splits.validation.sample(settings.validation_users),
            settings,
            spec["seed"],
            ranked=model,
            verbose=_LOG_EPOCHS,
        )
        figures = {"epochs": len(history.epoch), "parameters": model.count_params()}
    # Every ad has a code of its own: a baseline knows no semantic IDs.
    catalog = SidCatalog.build(
        ad_ids, np.arange(len(ad_ids))[:, None], np.zeros((len(ad_ids), 1)), len(ad_ids)
    )
    figures["train_seconds"] = round(time.monotonic() - begin, 2)
    return Trained({"": method}, catalog, ("item",), figures)


def _generative(
    spec: dict[str, Any], ads: AdTable, splits: SequenceSplits, folder: Path
) -> Trained:
    encoded = _codes(spec, ads, splits, folder / f"{_CODES}-{codes_key(spec)}.npz")
    codes, embedding = encoded["codes"], encoded["embedding"]
    settings = RecommenderConfig(**spec["recommender"])
    catalog = SidCatalog.build(
        ads.ad_ids,
        codes,
        embedding,
        spec["tokenizer"]["codebook_size"],
        # As many tokens as it takes: an ad moved to another SID would hide a collision.
        max_dedup=max(spec["max_dedup"], int(group_sizes(codes).max())),
    )
    begin = time.monotonic()
    context = EventContext.of(splits.train, settings.context)
    splits = splits.in_context(context)
    model = SidRecommender.for_catalog(
        catalog,
        SuccessorTable.count(splits.train, len(ads), settings.successors),
        max_history=settings.max_history,
        context=context,
        seed=spec["seed"],
        **settings.model_arguments(),
    )
    validation = splits.validation.sample(settings.validation_users)
    on_tensorflow = keras.backend.backend() == "tensorflow"
    history = train_recommender(
        model,
        splits.train,
        validation,
        settings,
        spec["seed"],
        # Beams are TensorFlow's.
        ranked=None if on_tensorflow else ExhaustiveRecommender(model),
        verbose=_LOG_EPOCHS,
    )
    modes: dict[str, GenerativeRecommender | ExhaustiveRecommender]
    if on_tensorflow:
        decoder = SidDecoder(model, spec["beam_size"])
        modes = {mode: GenerativeRecommender(decoder, mode) for mode in MODES}
    else:
        modes = {mode: ExhaustiveRecommender(model, mode) for mode in MODES}
    set_hybrid_weights(modes["hybrid"], validation, settings)
    figures = {
        "train_seconds": round(time.monotonic() - begin, 2),
        "tokenizer_seconds": round(float(encoded["seconds"]), 2),
        "epochs": len(history.epoch),
        "parameters": int(sum(np.prod(v.shape) for v in model.trainable_variables)),
        "dense_weight": float(model.dense_weight),
        "successor_weight": float(model.successor_weight) if model.successors else 0.0,
        "collision_share": catalog.quality["collision_share"],
        "context": ",".join(context.fields),
    }
    return Trained(modes, catalog, ("item", "sid"), figures, context)


def _codes(
    spec: dict[str, Any], ads: AdTable, splits: SequenceSplits, path: Path
) -> Mapping[str, np.ndarray]:
    """Codes and embeddings of all ads, from the kept file or a tokenizer trained now."""
    with path.with_suffix(".lock").open("w") as lock:
        # Another architecture's cell may be training this tokenizer at this moment.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            begin = time.monotonic()
            encoded = _tokenize(spec, ads, splits)
            seconds = time.monotonic() - begin
            part = path.with_name(f"{path.name}.part")
            with part.open("wb") as file:
                np.savez_compressed(
                    file, codes=encoded["codes"], embedding=encoded["embedding"], seconds=seconds
                )
            part.replace(path)
    with np.load(path) as arrays:
        return {name: arrays[name] for name in ("codes", "embedding", "seconds")}


def _tokenize(
    spec: dict[str, Any], ads: AdTable, splits: SequenceSplits
) -> Mapping[str, np.ndarray]:
    """Trains the configured tokenizer on the training events of this split."""
    settings, pairs = TokenizerConfig(**spec["tokenizer"]), PairsConfig(**spec["pairs"])
    preset = spec["preset"]
    preprocessor = AdPreprocessor(ads.schema).adapt(ads)
    users = np.repeat(np.arange(len(splits.train)), splits.train.lengths)
    mined = swing_pairs(
        users,
        splits.train.rows,
        alpha=pairs.alpha,
        top_k=pairs.top_k,
        max_users_per_item=pairs.max_users_per_ad,
        single_users=pairs.single_users,
    )
    given = settings.build_arguments()
    sizes = {name: given.pop(name) for name in ("levels", "codebook_size")}
    return tokenize(
        {
            "preset": settings.preset,
            "seed": spec["seed"],
            **sizes,
            "overrides": {k: v for k, v in given.items() if v not in (None, {})},
            "settings": {
                **preset,
                "epochs": settings.epochs or preset["epochs"],
                "batch_pairs": settings.batch_pairs or preset["batch_pairs"],
            },
        },
        Data(ads, preprocessor.transform(ads), preprocessor.sizes, mined, splits),
    )


if __name__ == "__main__":
    end_with_parent()
    main(sys.argv[1])
