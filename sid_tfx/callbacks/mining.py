"""Conflict mining: colliding ads meet in one batch, and get free codes to move to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from keras import ops

from sid_tfx.datasets.pairs import PairBatches
from sid_tfx.features import ESCAPE_CODE

if TYPE_CHECKING:
    from sid_tfx.tokenizer import SidTokenizer

_CHOICES = 32
"""Nearest codes of the last level among which a free one is looked for."""


class ConflictMining(keras.callbacks.Callback):
    """Lets ads whose semantic IDs collide meet in one batch, where HaMR can part them.

    Two given ads of a catalogue of N meet in a random batch of B once in N / B epochs, so without
    this HaMR hardly ever sees a collision that is left. Where the tokenizer has the term `escape`
    (`CollisionEscape`), all but the best-placed ad of a collision also get a free code to move to.

    Args:
        batches: What `fit` trains on.
        replay: Share of each batch given to ads that collide, so that HaMR sees each several times
            in an epoch.
        every: Epochs between two looks at all ads' codes.
        batch_size: Ads encoded at a time.

    Raises:
        ValueError: `every` or `batch_size` is below 1, or `replay` is not in [0, 1).
    """

    def __init__(
        self,
        batches: PairBatches,
        replay: float = 0.25,
        every: int = 1,
        batch_size: int = 1024,
    ) -> None:
        super().__init__()
        if not 0.0 <= replay < 1.0:
            raise ValueError(f"replay must be in [0, 1), got {replay}.")
        for name, value in {"every": every, "batch_size": batch_size}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.batches = batches
        self.replay = replay
        self.every = every
        self.batch_size = batch_size
        self.escapes = False

    def prepare(self, tokenizer: SidTokenizer) -> None:
        """Gives the batches what the tokenizer's terms read; `SidTokenizer.fit` calls it.

        Batches must have one structure from the first on, and Keras looks at the first before any
        callback runs.
        """
        self.escapes = "escape" in tokenizer.objective.terms
        if self.escapes:
            self._want(np.full(self.batches.rows, -1, np.int32))

    def _want(self, codes: np.ndarray) -> None:
        self.batches.features[ESCAPE_CODE] = codes

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Groups the next epochs' batches by this epoch's codes."""
        if (epoch + 1) % self.every == 0 and epoch + 1 < self.params["epochs"]:
            encoded = self.model.encode(self.batches.features, self.batch_size)
            groups = conflict_groups(encoded["codes"], encoded["z"])
            self.batches.regroup(groups, self.replay)
            if self.escapes:
                self._want(self._escape_codes(encoded, groups))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leaves the batches as they came: random, and no ad has to move."""
        self.batches.regroup(np.arange(self.batches.rows))
        if self.escapes:
            self._want(np.full(self.batches.rows, -1, np.int32))

    def _escape_codes(self, encoded: dict[str, np.ndarray], groups: np.ndarray) -> np.ndarray:
        """Returns the last code that each ad shall move to, int32 `[N]`, -1 for none."""
        crowded = np.flatnonzero(np.bincount(groups)[groups] > 1)
        own, nearest = [], []
        for start in range(0, len(crowded), self.batch_size):
            rows = crowded[start : start + self.batch_size]
            quantized = self.model.quantizer(encoded["z"][rows])
            fits = ops.convert_to_numpy(self.model.quantizer.last_fits(quantized.inputs[:, -1]))
            own.append(fits[np.arange(len(rows)), encoded["codes"][rows, -1]])
            nearest.append(np.argsort(-fits, axis=1)[:, :_CHOICES])
        wanted = np.full(len(groups), -1, np.int32)
        if len(crowded):
            order = crowded[np.lexsort((-np.concatenate(own), groups[crowded]))]
            first = np.append(True, groups[order][1:] != groups[order][:-1])
            moving = np.isin(crowded, order[~first])
            wanted[crowded[moving]] = free_codes(
                encoded["codes"], crowded[moving], np.concatenate(nearest)[moving]
            )
        return wanted


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


def free_codes(codes: np.ndarray, rows: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Finds a last code for each ad that no ad with its other codes has.

    Args:
        codes: int `[N, L]`, the codes of all ads.
        rows: int `[M]`, the ads that look for a code.
        choices: int `[M, C]`, last codes that an ad may take, best first.

    Returns:
        int32 `[M]`, all different among ads with the same other codes; -1 where none is free. Of
        two ads that want the same code the one that comes first in `rows` gets it.
    """
    size = int(max(codes[:, -1].max(), choices.max(initial=0))) + 1
    prefix = np.unique(codes[:, :-1], axis=0, return_inverse=True)[1].reshape(-1)
    taken = np.unique(prefix * size + codes[:, -1])
    keys = prefix[rows][:, None] * size + choices
    found = np.full(len(rows), -1, np.int32)
    looking = np.arange(len(rows))
    while len(looking):
        free = ~np.isin(keys[looking], taken)
        looking, free = looking[free.any(axis=1)], free[free.any(axis=1)]
        best = free.argmax(axis=1)
        wanted = keys[looking, best]
        first = np.unique(wanted, return_index=True)[1]
        found[looking[first]] = choices[looking[first], best[first]]
        taken = np.union1d(taken, wanted)
        looking = np.delete(looking, first)
    return found
