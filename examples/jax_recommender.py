"""A larger recommender on a GPU: Keras on the JAX backend, no TensorFlow and no pipeline.

    pip install "jax[cuda12]" keras numpy pandas pyarrow scipy scikit-learn
    pip install --no-deps -e .
    KERAS_BACKEND=jax python examples/jax_recommender.py --ads ads.parquet \\
        --events events.parquet --codes codes.npz --json out.json

`--codes` has the arrays `codes` (N, levels) and `embedding` (N, D) of the ads in ad-id order, as
`pipeline.py evaluate recommender` keeps them beside its cells. The epoch and the weight of hybrid
scoring are chosen on validation users; the test users are ranked once, over all ads.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets.ads import load_ads, load_events
from sid_tfx.datasets.batches import SequenceBatches
from sid_tfx.datasets.sequences import SequenceSplits, leave_one_out
from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.evaluation import ExhaustiveRecommender, choose_hybrid_weights, evaluate
from sid_tfx.metrics.sid_quality import group_sizes
from sid_tfx.recommender import SidRecommender
from sid_tfx.validation import RankingValidation

_MAX_HISTORY = 50


def read(settings: argparse.Namespace) -> tuple[SidCatalog, SequenceSplits]:
    """The catalogue of the given codes, and leave-one-out splits of the log."""
    ads = load_ads(settings.ads)
    events = load_events(settings.events, ads)
    rows = np.searchsorted(ads.ad_ids, events["ad_id"].to_numpy(dtype=str))
    splits = leave_one_out(events["user_id"].to_numpy(), rows, events["timestamp"].to_numpy())
    with np.load(settings.codes) as arrays:
        codes, embedding = arrays["codes"], arrays["embedding"]
    largest = int(group_sizes(codes).max())
    catalog = SidCatalog.build(
        ads.ad_ids, codes, embedding, settings.codebook_size, max_dedup=max(32, largest)
    )
    return catalog, splits


def train(
    recommender: SidRecommender, splits: SequenceSplits, settings: argparse.Namespace
) -> keras.callbacks.History:
    """Trains as the pipeline does."""
    batches = SequenceBatches(
        splits.train, _MAX_HISTORY, settings.batch_positions, settings.seed, deletion=0.2
    )
    steps = settings.epochs * len(batches)
    warmup = steps // 20
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        steps - warmup,
        alpha=0.02,
        warmup_target=settings.learning_rate,
        warmup_steps=warmup,
    )
    recommender.compile(
        keras.optimizers.AdamW(
            rate, weight_decay=0.01, global_clipnorm=1.0, use_ema=True, ema_momentum=0.99
        )
    )
    validation = splits.validation.sample(settings.validation_users)
    return recommender.fit(
        batches,
        epochs=settings.epochs,
        callbacks=[
            # The first of all: what is validated and kept are the averages.
            keras.callbacks.SwapEMAWeights(swap_on_epoch=True),
            RankingValidation(validation, ranked=ExhaustiveRecommender(recommender)),
            keras.callbacks.EarlyStopping(
                "val_ndcg@10", mode="max", patience=12, restore_best_weights=True
            ),
        ],
        shuffle=False,
        verbose=2,
    )


def measure(
    recommender: SidRecommender,
    catalog: SidCatalog,
    splits: SequenceSplits,
    validation_users: int,
) -> list[dict[str, Any]]:
    """A record per mode and filter, at item level."""
    ranked = {mode: ExhaustiveRecommender(recommender, mode) for mode in ("generative", "hybrid")}
    choose_hybrid_weights(ranked["hybrid"], splits.validation.sample(validation_users))
    return [
        evaluate("item_level", method, splits.test, catalog, filtered, mode).record()
        for mode, method in ranked.items()
        for filtered in (False, True)
    ]


def main() -> None:
    """Trains, chooses, measures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ads", type=Path, required=True)
    parser.add_argument("--events", type=Path, required=True)
    parser.add_argument("--codes", type=Path, required=True)
    parser.add_argument("--codebook-size", type=int, default=256)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--dropout", type=float, default=0.3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-positions", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--validation-users", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--model", type=Path, help="a .keras file to save the recommender to")
    settings = parser.parse_args()

    keras.utils.set_random_seed(settings.seed)
    catalog, splits = read(settings)
    recommender = SidRecommender.for_catalog(
        catalog,
        SuccessorTable.count(splits.train, len(catalog)),
        hidden_size=settings.hidden_size,
        mlp_size=4 * settings.hidden_size,
        head_size=2 * settings.hidden_size,
        num_layers=settings.layers,
        dropout=settings.dropout,
        max_history=_MAX_HISTORY,
        seed=settings.seed,
    )
    begin = time.monotonic()
    history = train(recommender, splits, settings)
    figures = {
        "train_seconds": round(time.monotonic() - begin, 1),
        "epochs": len(history.epoch),
        "parameters": sum(int(np.prod(v.shape)) for v in recommender.trainable_variables),
        "seed": settings.seed,
        "backend": keras.backend.backend(),
    }
    records = [
        record | figures
        for record in measure(recommender, catalog, splits, settings.validation_users)
    ]
    for record in records:
        print(json.dumps(record))
    if settings.model:
        recommender.save(settings.model)
    if settings.json:
        settings.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
