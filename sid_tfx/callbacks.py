"""Callbacks that keep codebooks alive and report on their health while a tokenizer trains."""

import math
import warnings
from typing import Any

import keras
import numpy as np

from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.metrics.sid_quality import sid_quality


def _sync(model: keras.Model) -> None:
    """Brings variables up to date where the backend trains on a copy of them (JAX)."""
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
            _sync(self.model)
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


class ConflictMining(keras.callbacks.Callback):
    """Lets ads whose semantic IDs collide meet in one batch, where HaMR can part them.

    Two given ads of a catalogue of N meet in a random batch of B once in N / B epochs, so without
    this HaMR hardly ever sees a collision that is left.

    Args:
        batches: What `fit` trains on.
        every: Epochs between two looks at all ads' codes.
        batch_size: Ads encoded at a time.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(self, batches: PairBatches, every: int = 1, batch_size: int = 1024) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.batches = batches
        self.every = every
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Groups the next epochs' batches by this epoch's codes."""
        if (epoch + 1) % self.every == 0 and epoch + 1 < self.params["epochs"]:
            codes = self.model.encode(self.batches.features, self.batch_size)["codes"]
            self.batches.regroup(np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1))


class CollapseGuard(keras.callbacks.Callback):
    """Warns or stops when few of a batch's ads have a semantic ID of their own.

    Args:
        distinct_sids: Least share of distinct SIDs among a batch's ads, averaged over an epoch.
        after: Epochs before the first look.
        stop: Whether training stops; else a warning is given.

    Raises:
        ValueError: `distinct_sids` is not in (0, 1].
    """

    def __init__(self, distinct_sids: float = 0.5, after: int = 1, stop: bool = False) -> None:
        super().__init__()
        if not 0.0 < distinct_sids <= 1.0:
            raise ValueError(f"distinct_sids must be in (0, 1], got {distinct_sids}.")
        self.distinct_sids = distinct_sids
        self.after = after
        self.stop = stop

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch's share of distinct SIDs."""
        share = (logs or {}).get("distinct_sids")
        if share is None or epoch < self.after or share >= self.distinct_sids:
            return
        warnings.warn(
            f"Codebook collapse: after epoch {epoch + 1} only {share:.1%} of a batch's ads have a "
            f"semantic ID of their own, the limit is {self.distinct_sids:.1%}. Check that dead "
            "codes are revived, lower the learning rate or raise loss_weights['repulsion_full'].",
            stacklevel=2,
        )
        if self.stop:
            self.model.stop_training = True


class SidHealth(keras.callbacks.Callback):
    """Adds the quality of all ads' semantic IDs to the epoch's logs.

    Args:
        features: Feature name -> array `[N, ...]`, the ads to look at.
        every: Epochs between two looks.
        batch_size: Ads encoded at a time.

    Raises:
        ValueError: `every` is below 1.
    """

    def __init__(
        self, features: dict[str, np.ndarray], every: int = 1, batch_size: int = 1024
    ) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.features = features
        self.every = every
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes `collision_share`, `largest_group` and `entropy_nats` into the logs."""
        if logs is None or (epoch + 1) % self.every:
            return
        codes = self.model.encode(self.features, self.batch_size)["codes"]
        quality = sid_quality(codes, self.model.codebook_size)
        for name in ("collision_share", "largest_group", "entropy_nats"):
            logs[name] = quality[name]
