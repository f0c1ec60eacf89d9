"""TokenizerTrainer's `run_fn`: transformed ads and Swing pairs in, a trained SidTokenizer out."""

import os
import time

import keras
import numpy as np
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from pipeline.config import TokenizerConfig
from pipeline.preprocessing import feature_sizes
from pipeline.training import history_summary, make_deterministic, progress
from sid_tfx import presets
from sid_tfx.bundle import save_bundle
from sid_tfx.callbacks import CollapseGuard
from sid_tfx.datasets.collaborative import collaborative_vectors
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.datasets.records import read_features, read_pairs
from sid_tfx.features import COLLABORATIVE, AdSchema
from sid_tfx.tokenizer import SidTokenizer


def run_fn(fn_args: FnArgs) -> None:
    """Trains the tokenizer and writes `model.keras` and `metadata.json`.

    Args:
        fn_args: Stock TFX arguments; `custom_config` holds `schema` (JSON of the AdSchema), `seed`,
            `tokenizer` (TokenizerConfig as a dict) and `inputs["pairs"]`.
    """
    settings = TokenizerConfig(**fn_args.custom_config["tokenizer"])
    seed = fn_args.custom_config["seed"]
    schema = AdSchema.from_json(fn_args.custom_config["schema"])
    make_deterministic(seed)

    ad_ids, features = read_features(fn_args.train_files, schema)
    pairs = read_pairs(os.path.join(fn_args.custom_config["inputs"]["pairs"], "Split-train", "*"))
    rows = np.searchsorted(ad_ids, np.stack([pairs.triggers, pairs.targets], axis=1))
    sizes = feature_sizes(tft.TFTransformOutput(fn_args.transform_graph_path), schema)
    tokenizer = SidTokenizer.from_preset(
        settings.preset,
        schema,
        sizes,
        **settings.build_arguments(),
        seed=seed,
    )
    if "alignment" in tokenizer.objective.terms:
        features[COLLABORATIVE] = collaborative_vectors(rows, pairs.scores, len(ad_ids))
    training = presets.preset(settings.preset)
    begin = time.monotonic()
    history = tokenizer.fit(
        PairBatches(
            features, rows, pairs.scores, settings.batch_pairs or training.batch_pairs, seed
        ),
        epochs=settings.epochs or training.epochs,
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir), CollapseGuard()],
        verbose=progress(),
    )
    save_bundle(
        tokenizer,
        fn_args.serving_model_dir,
        {
            "summary": f"{len(ad_ids):,} ads, {len(rows):,} pairs, {history_summary(history)}",
            "train_seconds": time.monotonic() - begin,
            "history": {
                name: [float(v) for v in values] for name, values in history.history.items()
            },
            "preset": settings.preset,
            "levels": tokenizer.levels,
            "codebook_size": tokenizer.codebook_size,
            "embedding_dim": tokenizer.embedding_dim,
            "schema": schema.to_dict(),
            "sizes": sizes.to_dict(),
        },
    )
