"""RecommenderTrainer's `run_fn`: user sequences and a catalogue in, a SidRecommender out."""

import time
from collections.abc import Mapping

import keras
from tfx.components.trainer.fn_args_utils import FnArgs

from components.refusal import Refused
from pipeline.splits import evaluation_set, flat_sequences
from pipeline.training import history_summary, make_deterministic, progress
from sid_tfx.bundle import save_bundle
from sid_tfx.catalog import SidCatalog
from sid_tfx.datasets import records
from sid_tfx.datasets.sequences import SequenceBatches
from sid_tfx.decoder import SidDecoder
from sid_tfx.evaluation import choose_dense_weight
from sid_tfx.recommender import SidRecommender
from sid_tfx.validation import RankingValidation

_FINAL_RATE_SHARE = 0.02


def run_fn(fn_args: FnArgs) -> None:
    """Trains the recommender and writes `model.keras` and `metadata.json`.

    The epoch kept and the weight of hybrid scoring are chosen on validation users.

    Args:
        fn_args: Stock TFX arguments; `custom_config` holds `seed`, `recommender`
            (RecommenderConfig as a dict) and `inputs["catalog"]`.
    """
    settings = fn_args.custom_config["recommender"]
    seed = fn_args.custom_config["seed"]
    make_deterministic(seed)

    catalog = SidCatalog.load(fn_args.custom_config["inputs"]["catalog"])
    train = records.read_sequences(fn_args.train_files)
    if not any(len(history) > 1 for history in train.histories):
        raise Refused(
            f"none of the {len(train.histories):,} training histories has 2 ads, the least there "
            "is a next ad to learn from; give a longer event log, or data.split=all, which holds "
            "no events back."
        )
    validation = evaluation_set(records.read_sequences(fn_args.eval_files), catalog)
    validation = validation.sample(settings["validation_users"])
    recommender = SidRecommender.for_catalog(
        catalog, max_history=settings["max_history"], seed=seed, **settings["arguments"]
    )
    batches = SequenceBatches(
        flat_sequences(train, catalog),
        settings["max_history"],
        settings["batch_positions"],
        seed,
    )
    steps = settings["epochs"] * len(batches)
    warmup_steps = int(settings["warmup_share"] * steps)
    recommender.compile(
        keras.optimizers.AdamW(
            keras.optimizers.schedules.CosineDecay(
                0.0,
                max(1, steps - warmup_steps),
                alpha=_FINAL_RATE_SHARE,
                warmup_target=settings["learning_rate"],
                warmup_steps=warmup_steps,
            )
            if warmup_steps
            else settings["learning_rate"],
            weight_decay=settings["weight_decay"],
            global_clipnorm=1.0,
        ),
        # XLA on a CPU hardly uses a second core.
        jit_compile=False,
    )
    callbacks: list[keras.callbacks.Callback] = [keras.callbacks.TensorBoard(fn_args.model_run_dir)]
    # A log in which nobody has three events has nobody to validate on; the last epoch is kept.
    if len(validation):
        callbacks = [
            RankingValidation(validation),
            keras.callbacks.EarlyStopping(
                "val_ndcg@10",
                mode="max",
                patience=settings["patience"],
                restore_best_weights=True,
            ),
            *callbacks,
        ]
    begin = time.monotonic()
    history = recommender.fit(
        batches,
        epochs=settings["epochs"],
        callbacks=callbacks,
        shuffle=False,
        verbose=progress(),
    )
    dense_weights: Mapping[float, float] = {}
    if len(validation):
        dense_weights = choose_dense_weight(SidDecoder(recommender), validation)
    best = max(history.history.get("val_ndcg@10", [float("nan")]))
    save_bundle(
        recommender,
        fn_args.serving_model_dir,
        {
            "summary": f"{len(train.histories):,} users, {history_summary(history)}, "
            f"validation N@10 {best:.4f}",
            "train_seconds": time.monotonic() - begin,
            "history": {
                name: [float(value) for value in values] for name, values in history.history.items()
            },
            "dense_weights": {str(weight): ndcg for weight, ndcg in dense_weights.items()},
            "fingerprints": {"catalog": catalog.fingerprint},
        },
    )
