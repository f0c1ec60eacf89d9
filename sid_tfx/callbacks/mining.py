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
            encoded = self.model.encode(self.batches.features, self.batch_size)
            groups = conflict_groups(encoded["codes"], encoded["z"])
            self.batches.regroup(groups, self.replay)


def conflict_groups(codes: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Groups ads that share their codes and that repulsion can part.

    Ads of equal vectors, such as one ad under two ids, have no direction to be parted in. They
    would take the place of the others in every batch, so a group of nothing else is dissolved.

    Args:
        codes: int `[N, L]`.
        vectors: float `[N, D]`, before quantization.

    Returns:
        int `[N]`, equal for ads of one group; an ad that needs no parting has a number of its own.
    """
    ads = len(codes)
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    scale = np.abs(vectors).max() + 1e-12
    # Batches round differently, so vectors are equal to three digits.
    content = np.unique(np.round(vectors / scale, 3), axis=0, return_inverse=True)[1].reshape(-1)
    distinct = np.unique(np.stack([group, content]), axis=1)[0]
    parted = np.bincount(distinct, minlength=ads) > 1
    return np.where(parted[group], group, ads + np.arange(ads))
