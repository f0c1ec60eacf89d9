"""TokenizerTrainer's `run_fn`: transformed ads and Swing pairs in, a trained SidTokenizer out."""

import json
import os
import time

import keras
import numpy as np
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs
from tfx.dsl.io import fileio

from pipeline.feature_sizes import feature_sizes
from pipeline.training_log import history_summary, make_deterministic
from sid_tfx.datasets.records import read_features, read_pairs
from sid_tfx.features import AdSchema
from sid_tfx.tokenizer import fit_tokenizer, save_tokenizer


def run_fn(fn_args: FnArgs) -> None:
    """Trains the tokenizer and writes `model.keras` and `metadata.json`.

    Args:
        fn_args: Stock TFX arguments; `custom_config` holds `schema` (JSON of the AdSchema), `seed`,
            `tokenizer` (TokenizerConfig as a dict) and `inputs["pairs"]`.
    """
    settings = fn_args.custom_config["tokenizer"]
    seed = fn_args.custom_config["seed"]
    schema = AdSchema.from_json(fn_args.custom_config["schema"])
    make_deterministic(seed)

    ad_ids, features = read_features(fn_args.train_files, schema)
    pairs = read_pairs(os.path.join(fn_args.custom_config["inputs"]["pairs"], "Split-train", "*"))
    pair_rows = np.stack(
        [np.searchsorted(ad_ids, pairs.triggers), np.searchsorted(ad_ids, pairs.targets)], axis=1
    )
    started = time.monotonic()
    tokenizer, history = fit_tokenizer(
        features,
        pair_rows,
        schema=schema,
        sizes=feature_sizes(tft.TFTransformOutput(fn_args.transform_graph_path), schema),
        levels=settings["levels"],
        codebook_size=settings["codebook_size"],
        epochs=settings["epochs"],
        batch_pairs=settings["batch_pairs"],
        learning_rate=settings["learning_rate"],
        max_pairs_per_epoch=settings["max_pairs_per_epoch"],
        seed=seed,
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir)],
        **settings["arguments"],
    )
    seconds = time.monotonic() - started
    save_tokenizer(
        tokenizer,
        fn_args.serving_model_dir,
        {
            "summary": f"{len(ad_ids):,} ads, {len(pair_rows):,} pairs, {history_summary(history)}",
            "train_seconds": seconds,
        },
    )
    with fileio.open(os.path.join(fn_args.model_run_dir, "history.json"), "w") as file:
        json.dump(history.history, file)
