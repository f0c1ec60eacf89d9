"""Callbacks that keep codebooks alive: revival of dead codes and refits by k-means."""

import math
from typing import Any

import keras
import numpy as np


def sync(model: keras.Model) -> None:
    """Brings variables up to date where the backend trains on a copy of them (JAX).

    Without it, what a callback assigns within an epoch is lost at the next step.
    """
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()


class DeadCodeRevival(keras.callbacks.Callback):
    """Revives dead codes of `model.quantizer` every few batches.

    Args:
        every: Batches between two revivals.
        threshold: A code used less than this share of even use is dead.
        until: Share of the epochs after which codes stay as they are, so that they settle.
        seed: Seed of the revived codes' positions.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self, every: int = 10, threshold: float = 0.1, until: float = 0.8, seed: int = 0
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        if not 0.0 < threshold < 1.0:
            raise ValueError(f"threshold must be in (0, 1), got {threshold}.")
        if not 0.0 < until <= 1.0:
            raise ValueError(f"until must be in (0, 1], got {until}.")
        self.every = every
        self.threshold = threshold
        self.until = until
        self.seed = seed
        self.revived = 0
        self._batches = 0
        self._active = True

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops reviving in the last epochs."""
        self._active = epoch < self.until * self.params["epochs"]

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Revives after every `every` batches."""
        self._batches += 1
        if self._active and self._batches % self.every == 0:
            sync(self.model)
            self.revived += self.model.quantizer.revive(self.threshold, self.seed + self._batches)


class CodebookRefit(keras.callbacks.Callback):
    """Sets the codebooks by k-means anew at a few points of training.

    K-means before the first step sees an untrained encoder; what the encoder makes of ads moves
    most in the first epochs, and codebooks that learn by gradient alone trail behind it.

    Args:
        features: Feature name -> array `[N, ...]`, ads to fit to; a few thousand are enough.
        at: Shares of the epochs after which to refit, each in (0, 1].

    Raises:
        ValueError: A share is not in (0, 1].
    """

    def __init__(
        self, features: dict[str, np.ndarray], at: tuple[float, ...] = (0.2, 0.5, 0.8)
    ) -> None:
        super().__init__()
        if not all(0.0 < share <= 1.0 for share in at):
            raise ValueError(f"at must hold shares of the epochs in (0, 1], got {at}.")
        self.features = features
        self.at = at

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Refits where the epoch is one of the points."""
        points = {math.ceil(share * self.params["epochs"]) for share in self.at}
        if epoch + 1 in points:
            self.model.initialize(self.features)
