"""Batches of co-engaged ad pairs for training a tokenizer."""

import math
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

WORKERS = 2
"""Threads that make batches, unless a `PyDataset` is told otherwise.

With a single one Keras leaves tf.data's autotuning on, and on TensorFlow 2.16 the end of an epoch
then waits for the next turn of its thread, which comes after as much time again as the training has
taken so far, up to a minute.
"""


class PairBatches(keras.utils.PyDataset):
    """Stacks B trigger ads on their B target ads, 2B rows a batch (QuaSID's batch).

    An epoch goes once through every ad that triggers a pair, with one of its targets drawn by
    weight, and through every ad without a pair, paired with itself: a second view of it where the
    encoder has dropout (`unisid`), an exact copy where it has none (`joint`). An ad with a pair has
    its second view in a batch only by chance, as the target of a third. So an epoch costs the same
    however many pairs there are, and no ad is left out. The order and the draws depend on `seed`
    and the epoch alone.

    Args:
        features: Feature name -> array `[N, ...]` of all ads.
        pairs: int `[P, 2]`, catalogue rows of trigger and target; may be empty.
        weights: float `[P]` above 0, such as Swing scores; None for equal ones.
        batch_size: B, pairs per batch. Smaller catalogues make smaller batches.
        seed: Seed of order and draws.

    Raises:
        ValueError: Arrays of different lengths, a pair that names no row, or a bad weight.

    Example:

    >>> batches = PairBatches({"advertiser": np.array([2, 3, 4])}, np.array([[0, 1]]), batch_size=2)
    >>> (features,) = batches[0]
    >>> features["advertiser"].shape, features["ad_row"].dtype
    ((4,), dtype('int32'))
    """

    def __init__(
        self,
        features: Mapping[str, np.ndarray],
        pairs: np.ndarray,
        weights: np.ndarray | None = None,
        batch_size: int = 256,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"workers": WORKERS, **kwargs})
        lengths = {name: len(values) for name, values in features.items()}
        if not lengths or len(set(lengths.values())) > 1 or not min(lengths.values()):
            raise ValueError(f"features need arrays of one length above 0, got {lengths}.")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.features = dict(features)
        self.rows = next(iter(lengths.values()))
        pairs = np.asarray(pairs, np.int64).reshape(-1, 2)
        weights = np.ones(len(pairs)) if weights is None else np.asarray(weights, np.float64)
        if len(pairs) and (pairs.min() < 0 or pairs.max() >= self.rows):
            raise ValueError(
                f"pairs name rows from {pairs.min()} to {pairs.max()}; there are {self.rows} ads."
            )
        if weights.shape != (len(pairs),) or not (np.isfinite(weights) & (weights > 0)).all():
            raise ValueError(
                f"weights must be {len(pairs)} finite numbers above 0, one per pair, got shape "
                f"{weights.shape}."
            )
        self.batch_size = min(batch_size, self.rows)
        self.seed = seed
        self.epoch = 0
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        self._targets = pairs[order, 1]
        self._starts = np.searchsorted(pairs[order, 0], np.arange(self.rows + 1))
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights[order])])
        self._groups = np.arange(self.rows)
        self._replay = 0.0
        self._draw()

    def regroup(self, groups: np.ndarray, replay: float = 0.0) -> None:
        """Puts ads of one group into one batch from here on, as far as it holds them.

        Losses over pairs of rows see two given ads together once in many epochs; grouped by
        semantic ID, ads that collide meet in every epoch. Order and members stay random otherwise.

        Args:
            groups: int `[N]`, the group of each ad; an ad alone in its group is placed freely.
            replay: Share of each batch given to ads that are not alone, so that they come several
                times in an epoch; the ads that they displace, others each time, come in a later
                one.

        Raises:
            ValueError: Not one group per ad, or `replay` is not in [0, 1).
        """
        if np.shape(groups) != (self.rows,):
            raise ValueError(f"groups must be [{self.rows}], got {np.shape(groups)}.")
        if not 0.0 <= replay < 1.0:
            raise ValueError(f"replay must be in [0, 1), got {replay}.")
        self._groups = np.unique(groups, return_inverse=True)[1].reshape(-1)
        self._replay = replay
        self._draw()

    def _draw(self) -> None:
        """Draws this epoch's target of every ad and the order of the ads."""
        rng = np.random.default_rng([self.seed, self.epoch])
        low, high = self._cumulative[self._starts[:-1]], self._cumulative[self._starts[1:]]
        point = low + rng.random(self.rows) * (high - low)
        drawn = np.searchsorted(self._cumulative, point, side="right") - 1
        drawn = np.clip(drawn, self._starts[:-1], np.maximum(self._starts[1:] - 1, 0))
        rows = np.arange(self.rows)
        paired = self._starts[1:] > self._starts[:-1]
        targets = np.append(self._targets, 0)[drawn]
        self._epoch_targets = np.where(paired, targets, rows)
        place = rng.random(self.rows)
        order = np.lexsort((rng.random(self.rows), place[self._groups]))
        # Every batch is full, so that one traced graph serves all: the last is filled up from the
        # front of the order.
        self._order = np.resize(order, len(self) * self.batch_size)
        crowded = order[np.bincount(self._groups)[self._groups[order]] > 1]
        places = int(self._replay * self.batch_size)
        if places and len(crowded):
            batches = self._order.reshape(len(self), self.batch_size)
            batches[:, -places:] = np.resize(crowded, (len(self), places))

    def __len__(self) -> int:
        return math.ceil(self.rows / self.batch_size)

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        start = index * self.batch_size
        triggers = self._order[start : start + self.batch_size]
        rows = np.concatenate([triggers, self._epoch_targets[triggers]])
        batch = {name: values[rows] for name, values in self.features.items()}
        batch["ad_row"] = rows.astype(np.int32)
        return (batch,)

    def on_epoch_end(self) -> None:
        """Moves to the next epoch's order and draws."""
        self.epoch += 1
        self._draw()
