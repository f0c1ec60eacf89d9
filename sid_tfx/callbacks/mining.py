"""Conflict mining: colliding ads meet in one batch."""

from typing import Any

import keras
import numpy as np

from sid_tfx.datasets.pairs import PairBatches


class ConflictMining(keras.callbacks.Callback):
    """Lets ads whose semantic IDs collide meet in one batch, where HaMR can part them.

    Two given ads of a catalogue of N meet in a random batch of B once in N / B epochs, so without
    this HaMR hardly ever sees a collision that is left.

    Args:
        batches: What `fit` trains on.
        replay: Share of each batch given to ads that collide, so that HaMR sees each several times
            in an epoch.
        every: Epochs between two looks at all ads' codes.
        batch_size: Ads encoded at a time.

    Raises:
        ValueError: `every` is below 1, or `replay` is not in [0, 1).
    """

    def __init__(
        self, batches: PairBatches, replay: float = 0.25, every: int = 1, batch_size: int = 1024
    ) -> None:
        super().__init__()
        if not 0.0 <= replay < 1.0:
            raise ValueError(f"replay must be in [0, 1), got {replay}.")
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}.")
        self.batches = batches
        self.replay = replay
        self.every = every
        self.batch_size = batch_size

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Groups the next epochs' batches by this epoch's codes."""
        if (epoch + 1) % self.every == 0 and epoch + 1 < self.params["epochs"]:
            codes = self.model.encode(self.batches.features, self.batch_size)["codes"]
            groups = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
            self.batches.regroup(groups, self.replay)
