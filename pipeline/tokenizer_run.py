"""TokenizerTrainer's `run_fn`: transformed ads and Swing pairs in, a trained SidTokenizer out."""

import os
import time

import keras
import numpy as np
import tensorflow_transform as tft
from tfx.components.trainer.fn_args_utils import FnArgs

from components.refusal import Refused
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

    Raises:
        Refused: The codebooks collapsed, and `stop_on_collapse` is set.
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
    guard = CollapseGuard(stop=settings.stop_on_collapse)
    begin = time.monotonic()
    history = tokenizer.fit(
        PairBatches(
            features, rows, pairs.scores, settings.batch_pairs or training.batch_pairs, seed
        ),
        epochs=settings.epochs or training.epochs,
        callbacks=[keras.callbacks.TensorBoard(fn_args.model_run_dir), guard],
        verbose=progress(),
    )
    if settings.stop_on_collapse and guard.collapsed:
        raise Refused(
            f"codebook collapse: {collapse_of(guard)}. Lower tokenizer.learning_rate, raise "
            "tokenizer.codebook_size, set tokenizer.repulsion=true or take another "
            "tokenizer.preset; tokenizer.stop_on_collapse=false trains on."
        )
    save_bundle(
        tokenizer,
        fn_args.serving_model_dir,
        {
            "summary": f"{len(ad_ids):,} ads, {len(rows):,} pairs, {history_summary(history)}"
            + collapse_summary(guard, history),
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


def collapse_summary(guard: CollapseGuard, history: keras.callbacks.History) -> str:
    """Says whether the codebooks collapsed, for the end of the stage line; "" if they did not.

    Args:
        guard: What watched the training.
        history: Of that training.
    """
    if not guard.collapsed:
        return ""
    last = max(guard.collapsed) == len(history.history["loss"])
    return f", {'COLLAPSED' if last else 'recovered from a collapse'}: {collapse_of(guard)}"


def collapse_of(guard: CollapseGuard) -> str:
    """The last epoch that a guard found wanting, in words."""
    epoch = max(guard.collapsed)
    return (
        f"after epoch {epoch} only {guard.collapsed[epoch]:.1%} of a batch's ads have a semantic "
        f"ID of their own, the limit is {guard.distinct_share:.0%}"
    )
