"""Training batches of user sequences: whole histories packed into rows, or one target each."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from sid_tfx.datasets.pairs import WORKERS
from sid_tfx.datasets.sequences import Sequences

# The longer a row, the smaller the rest at its end where no further history fits, but attention's
# cost grows with it.
_LONGEST_PER_ROW = 4
# Deletion varies the rows that an epoch needs by far less than this share.
_SLACK = 0.02


class _Batches(keras.utils.PyDataset, abc.ABC):
    """Pieces of histories in an order that depends on seed and epoch only."""

    def __init__(
        self,
        pieces: Sequences,
        max_history: int,
        positions: int,
        seed: int,
        deletion: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{"workers": WORKERS, **kwargs})
        if not 0 <= deletion < 1:
            raise ValueError(f"deletion must be in [0, 1), got {deletion}.")
        if max_history < 2 or positions < max_history:
            raise ValueError(
                "max_history must be >= 2 and positions >= max_history, got "
                f"max_history={max_history}, positions={positions}."
            )
        if not len(pieces):
            raise ValueError("No training history has 2 ads or more: nothing to learn from.")
        self.pieces = pieces
        self.max_history = max_history
        self.positions = positions
        self.seed = seed
        self.deletion = deletion
        self.epoch = 0

    @abc.abstractmethod
    def _shuffle(self) -> None:
        """Makes the batches of the epoch."""

    def on_epoch_end(self) -> None:
        """Shuffles anew; Keras calls it."""
        self.epoch += 1
        self._shuffle()


class SequenceBatches(_Batches):
    """Training batches of whole histories, several in a row, so that next to nothing is padding.

    Every batch is `{"histories": int32 [B, T], "segments": int32 [B, T]}` of one shape, `B * T` at
    most `positions`: row + 1 of the ads, and the number of the history within the row, from 1;
    zeros at the end of a row are padding. With a context (`Sequences.in_context`) the histories
    are `[B, T, 1 + C]`, its ids after the row. A model attends within segments only and takes a
    loss at every ad that has one before it in its segment, so one pass over the batches trains on
    every event but the first of each segment, each once. Histories of fewer than 2 ads are left
    out; longer ones than `max_history` are cut into segments of at most that length, the newest
    full.

    Args:
        sequences: Training histories.
        max_history: Longest history.
        positions: Positions per batch, at least `max_history`.
        seed: The order depends on it and on the epoch only. `fit` of `SidRecommender` and `SasRec`
            keeps it; to that of another model pass `shuffle=False`, for Keras reorders batches by
            Python's global random state.
        deletion: Share of the ads that each history lacks at random, others in every epoch. What
            is left stands together, so an ad is also the target of ads two or three before it:
            in a short log, where the next ad is partly chance, that is what item kNN counts, too.
        **kwargs: As `keras.utils.PyDataset`.

    Example:

    >>> log = Sequences(np.array([0, 2, 5]), np.arange(5, dtype=np.int32), np.zeros(5))
    >>> batches = SequenceBatches(log, max_history=3, positions=6)
    >>> batches[0][0]["histories"].shape
    (1, 6)
    >>> sorted(batches[0][0]["segments"][0].tolist())[:3]
    [0, 1, 1]
    """

    def __init__(
        self,
        sequences: Sequences,
        max_history: int = 50,
        positions: int = 2048,
        seed: int = 0,
        deletion: float = 0.0,
        **kwargs: Any,
    ) -> None:
        row_length = min(_LONGEST_PER_ROW * max_history, positions)
        super().__init__(
            _pieces(sequences, max_history),
            max_history,
            positions,
            seed,
            deletion,
            **kwargs,
        )
        # Neighbours in a row vary with the seed; rows meet others in their batch in every epoch.
        order = np.random.default_rng(seed).permutation(len(self.pieces))
        self.pieces = self.pieces.ranges(
            self.pieces.offsets[:-1][order], self.pieces.offsets[1:][order]
        )
        self._owner = np.repeat(np.arange(len(self.pieces)), self.pieces.lengths)
        self.row_length = row_length
        # An epoch of a few short histories may lose them all to deletion.
        rows = max(1, len(self._packed()))
        if deletion:
            rows = int(np.ceil(rows * (1 + _SLACK)))
        # A log that fills less than a batch makes a smaller one.
        self.batch_rows = min(positions // row_length, rows)
        self._count = -(-rows // self.batch_rows)
        self._shuffle()

    def _packed(self) -> np.ndarray:
        """Places in the flat arrays `[R, row_length]` of this epoch's events; -1 is padding."""
        rng = np.random.default_rng([self.seed, self.epoch, 1])
        kept = rng.random(len(self._owner)) >= self.deletion
        lengths = np.bincount(self._owner[kept], minlength=len(self.pieces))
        # A single ad is nobody's target.
        kept &= (lengths >= 2)[self._owner]
        lengths = lengths[lengths >= 2]
        row = _rows_of(lengths, self.row_length)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        first = starts[np.searchsorted(row, row)]
        place = np.flatnonzero(kept)
        row = np.repeat(row, lengths)
        column = np.arange(len(place)) - np.repeat(first, lengths)
        packed = np.full((int(row[-1]) + 1 if len(row) else 0, self.row_length), -1)
        packed[row, column] = place
        return packed

    def _shuffle(self) -> None:
        packed = self._packed()
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(packed))
        # Keras wants as many batches in every epoch: in the rare case that deletion leaves more
        # rows than they hold, the last ones have to wait for the next.
        rows = packed[order[: self._count * self.batch_rows]]
        free = self._count * self.batch_rows - len(rows)
        rows = np.concatenate([rows, np.full((free, self.row_length), -1)])
        # Empty rows are spread over the batches.
        self._places = rows.reshape(self.batch_rows, self._count, self.row_length)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> tuple[dict[str, np.ndarray]]:
        place = self._places[:, index]
        inside = place >= 0
        owner = np.where(inside, self._owner[place], -1)
        begins = np.diff(owner, axis=1, prepend=-1) != 0
        segments = np.where(inside, np.cumsum(begins, axis=1), 0).astype(np.int32)
        # Read here, after deletion: the gap of time is the one to the ad that is left before.
        histories = self.pieces.at(place, inside, segments)
        return ({"histories": histories, "segments": segments},)


class TargetBatches(_Batches):
    """Training batches of one target per example, as TIGER (arXiv 2305.05065) trains.

    A history of `n` ads makes `n - 1` examples: each ad after the first is the target of the ads
    before it, cut to the newest `max_history`. Every ad is thus read again for each later target;
    `SequenceBatches` trains on the same targets in one pass, but for the first ad of each piece
    of a history longer than `max_history`.

    Every batch is `(int32 [B, T], int32 [B])`: histories, zeros on the right, and targets, both
    row + 1; with a context the histories are `[B, T, 1 + C]`. `T` is one of a few lengths, so that
    little padding is computed and a graph is traced a few times only.

    Args:
        sequences: Training histories.
        max_history: Longest history.
        positions: Positions per batch, at least `max_history`.
        seed: As `SequenceBatches`.
        deletion: As `SequenceBatches`, of the ads before the target; the newest of them stays, so
            that no history is empty.
        lengths: Lengths of the batches; None for a dozen up to `max_history`. XLA compiles every
            shape anew: on the JAX backend one length saves more than its padding costs.
        **kwargs: As `keras.utils.PyDataset`.
    """

    def __init__(
        self,
        sequences: Sequences,
        max_history: int = 50,
        positions: int = 2048,
        seed: int = 0,
        deletion: float = 0.0,
        lengths: Sequence[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            _windows(sequences, max_history + 1),
            max_history,
            positions,
            seed,
            deletion,
            **kwargs,
        )
        if lengths is None:
            steps = [4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
            lengths = [*(s for s in steps if 1.2 * s < max_history), max_history]
        elif list(lengths) != sorted(set(lengths)) or max(lengths, default=0) != max_history:
            raise ValueError(f"lengths must rise to max_history={max_history}, got {lengths}.")
        self.lengths = np.array(lengths)
        self._bucket = np.searchsorted(self.lengths, self.pieces.lengths - 1)
        self._shuffle()

    def _shuffle(self) -> None:
        rng = np.random.default_rng([self.seed, self.epoch])
        batches: list[tuple[int, np.ndarray]] = []
        for bucket, length in enumerate(self.lengths):
            members = rng.permutation(np.flatnonzero(self._bucket == bucket))
            size = max(1, self.positions // int(length))
            batches += [(int(length), members[i : i + size]) for i in range(0, len(members), size)]
        self._batches = [batches[i] for i in rng.permutation(len(batches))]
        # In every epoch, for any may be the first that a further `fit` sees.
        self._vary_first_shapes()

    def _vary_first_shapes(self) -> None:
        """Makes the first two batches differ in rows and in columns, where batches do."""
        # Keras takes the shape of all batches from the first two: a size that these share is one
        # that it holds all others to.
        shapes = np.array([(length, len(members)) for length, members in self._batches])
        columns, rows = (shapes != shapes[0]).T
        both = np.flatnonzero(columns & rows)[:1].tolist()
        # Without a batch that differs from the first in both, those that differ in one do so
        # from each other.
        other = np.flatnonzero(columns)[:1].tolist() + np.flatnonzero(rows)[:1].tolist()
        lead = [0, *both] if both else other
        rest = [place for place in range(len(shapes)) if place not in lead]
        self._batches = [self._batches[place] for place in [*lead, *rest]]

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        length, members = self._batches[index]
        position, inside = self.pieces.newest(length + 1, members)
        targets = self.pieces.rows[self.pieces.offsets[members + 1] - 1] + 1
        # Ads that have one after them: the last one is the target.
        position, inside = self._thinned(position[:, :length], inside[:, 1:], index)
        return self.pieces.at(position, inside), targets.astype(np.int32)

    def _thinned(
        self, position: np.ndarray, inside: np.ndarray, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Places of a batch without the ads that this epoch leaves out, moved to the left."""
        if not self.deletion:
            return position, inside
        rng = np.random.default_rng([self.seed, self.epoch, index])
        kept = rng.random(inside.shape) >= self.deletion
        kept[np.arange(len(kept)), inside.sum(axis=1) - 1] = True
        kept &= inside
        order = np.argsort(~kept, axis=1, kind="stable")
        return np.take_along_axis(position, order, 1), np.take_along_axis(kept, order, 1)


def _rows_of(lengths: np.ndarray, row_length: int) -> np.ndarray:
    """The row of each piece: one after the other, a new row where the next doesn't fit."""
    ends = np.cumsum(lengths)
    firsts: list[int] = []
    used = 0
    # One search a row.
    while not firsts or firsts[-1] < len(lengths):
        firsts.append(int(np.searchsorted(ends, used + row_length, side="right")))
        used = int(ends[firsts[-1] - 1]) if firsts[-1] else 0
    return np.searchsorted(np.array(firsts), np.arange(len(lengths)), side="right")


def _pieces(sequences: Sequences, max_history: int) -> Sequences:
    """Histories cut from the newest end into pieces; pieces of one ad are dropped."""
    counts = -(-sequences.lengths // max_history)
    owner = np.repeat(np.arange(len(sequences)), counts)
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    back = np.arange(len(owner)) - first[owner]
    ends = sequences.offsets[1:][owner] - back * max_history
    starts = np.maximum(sequences.offsets[:-1][owner], ends - max_history)
    kept = ends - starts >= 2
    return sequences.ranges(starts[kept], ends[kept])


def _windows(sequences: Sequences, length: int) -> Sequences:
    """For every ad after the first of its history, the `length` newest ads up to it."""
    position = np.arange(len(sequences.rows))
    starts = np.repeat(sequences.offsets[:-1], sequences.lengths)
    ends = position[position > starts] + 1
    starts = np.maximum(starts[position > starts], ends - length)
    return sequences.ranges(starts, ends)
