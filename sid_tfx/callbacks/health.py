"""Callbacks that report on semantic IDs while a tokenizer trains, and act on a collapse."""

import warnings
from typing import Any

import keras
import numpy as np

from sid_tfx.callbacks.order import LogWriter
from sid_tfx.metrics.sid_quality import sid_quality


class CollapseGuard(keras.callbacks.Callback):
    """Warns or stops when few of a batch's ads have a semantic ID of their own.

    Codebooks are set from data before the first step, so the first epoch is judged like any other.
    `collapsed` keeps the share of each epoch below the limit, by its number from 1 on.

    Args:
        distinct_share: Least share of distinct SIDs among a batch's ads, averaged over an epoch.
        after: Epochs before the first look.
        stop: Whether training stops; else a warning is given.

    Raises:
        ValueError: `distinct_share` is not in (0, 1], or `after` is negative.
    """

    def __init__(self, distinct_share: float = 0.5, after: int = 0, stop: bool = False) -> None:
        super().__init__()
        if not 0.0 < distinct_share <= 1.0:
            raise ValueError(f"distinct_share must be in (0, 1], got {distinct_share}.")
        if after < 0:
            raise ValueError(f"after must not be negative, got {after}.")
        self.distinct_share = distinct_share
        self.after = after
        self.stop = stop
        self.collapsed: dict[int, float] = {}

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forgets what another training did."""
        self.collapsed = {}

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at the epoch's share of distinct SIDs."""
        share = (logs or {}).get("distinct_share")
        if share is None or epoch < self.after or share >= self.distinct_share:
            return
        self.collapsed[epoch + 1] = float(share)
        warnings.warn(
            f"Codebook collapse: after epoch {epoch + 1} only {share:.1%} of a batch's ads have a "
            f"semantic ID of their own, the limit is {self.distinct_share:.1%}. Check that dead "
            "codes are revived, lower the learning rate or raise loss_weights['repulsion_full'].",
            stacklevel=2,
        )
        if self.stop:
            self.model.stop_training = True


class SidHealth(LogWriter):
    """Adds the quality of all ads' semantic IDs to the epoch's logs.

    They show in the progress bar, and in TensorBoard and what else reads logs where that comes
    later among the callbacks (`writers_first`).

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
