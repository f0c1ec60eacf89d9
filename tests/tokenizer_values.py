"""Losses of a tokenizer's training and what callbacks assign, on the backend in use."""

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.callbacks import CodebookRefit, DeadCodeRevival
from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.tokenizer import SidTokenizer
from tests.ad_fixtures import SCHEMA, SIZES, SMALL_TOWER, catalogue, pairs, small_tokenizer

STEPS = 6


class Watch(keras.callbacks.Callback):
    """Notes the codebooks after the callbacks before it, at the end of batches and epochs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[np.ndarray] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(ops.convert_to_numpy(self.model.quantizer.codebooks))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seen.append(ops.convert_to_numpy(self.model.quantizer.codebooks))


def codebook_moves() -> list[float]:
    """Fits two epochs of four batches without learning, so that only callbacks move codebooks.

    Returns:
        The largest move up to the end of each batch and of each epoch: ten numbers.
    """
    schema = AdSchema(dense={"vector": 8})
    model = SidTokenizer.from_preset(
        "rq_vae", schema, FeatureSizes(), codebook_size=16, encoder={"hidden": (), "code_dim": 4}
    )
    model.compile(keras.optimizers.SGD(0.0))
    vectors = np.random.default_rng(0).normal(size=(200, 8)).astype("float32")
    features = {"vector": vectors}
    model.initialize(features)
    before, watch = ops.convert_to_numpy(model.quantizer.codebooks), Watch()
    revival = DeadCodeRevival(every=2, threshold=0.95, until=0.5)
    refit = CodebookRefit({"vector": vectors[:100]}, at=(0.5,))
    data = PairBatches(features, np.zeros((0, 2)), batch_size=64)
    model.fit(data, epochs=2, verbose=0, callbacks=[revival, refit, watch])
    moves = np.abs(np.diff([before, *watch.seen], axis=0)).max(axis=(1, 2, 3))
    return [float(move) for move in moves]


def tower_losses() -> list[float]:
    """Trains `quasid` on a tower for two steps, from weights that no backend's generator drew."""
    tower = {"kind": "tower", **SMALL_TOWER, "layers": 1, "code_dim": 8, "hidden": (16,)}
    model = SidTokenizer.from_preset(
        "quasid", dataclasses.replace(SCHEMA, dense={}), SIZES, codebook_size=16, encoder=tower
    )
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(scale=0.2, size=weight.shape))
    features = catalogue(60)
    batch = PairBatches(features, pairs(features, 40), batch_size=30)[0][0]
    losses = []
    for _ in range(2):
        losses.append(float(model.train_on_batch(batch, return_dict=True)["loss"]))
        model.reset_metrics()
    return losses


def values(weights_path: str | Path) -> dict[str, object]:
    """Trains from given weights with the default optimizer; returns losses and codebook moves."""
    features = catalogue(200)
    with np.load(weights_path) as weights:
        start = [weights[name] for name in weights.files]
    model = small_tokenizer()
    model.set_weights(start)
    model.compile()
    data = PairBatches(features, pairs(features, 100), batch_size=64)
    steps = []
    for step in range(STEPS):
        logs = model.train_on_batch(data[step % len(data)][0], return_dict=True)
        model.reset_metrics()
        steps.append({name: float(value) for name, value in logs.items()})
    # From the start again: rounding flips a code sooner or later, and losses part.
    model.set_weights(start)
    model.compile()
    history = model.fit(data, epochs=2, verbose=0).history
    return {
        "steps": steps,
        "fit": history["loss"],
        "distinct": history["distinct_share"],
        "codes_shape": list(model.encode(features)["codes"].shape),
        "moves": codebook_moves(),
        "tower": tower_losses(),
    }
