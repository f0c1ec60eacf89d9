"""What followed the newest ads of a history in training, as candidates and as a score."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from sid_tfx.datasets.successors import DECAY, NEWEST, SuccessorTable
from sid_tfx.embedding import look_up
from sid_tfx.layers.history import history_rows, pack_history


class Followers(NamedTuple):
    """What followed the ads of histories.

    Attributes:
        rows: int32 `[B, S]` catalogue rows (not + 1), -1 where there is none; an ad that followed
            several ads of a history stands there several times.
        weights: float32 `[B, S]`: times that it followed, less for older ads; 0 where none.
    """

    rows: Any
    weights: Any


@keras.saving.register_keras_serializable(package="sid_tfx")
class SuccessorMemory(keras.layers.Layer):
    """Remembers which ads followed which: item-to-item counts beside a trained model.

    A network that generalizes well keeps little of what it saw once or twice, and that is much of
    what a log of ads says: with `a_j` the newest ads of the history, newest first,

        score(b) = log(1 + sum over j < newest of decay^j * count(a_j -> b))

    Of every ad its most frequent successors are remembered, the others count 0; with all of them
    the order is that of item kNN. To add such a score to that of a network is in the spirit of
    kNN-LM (arXiv 1911.00172), which mixes the probabilities instead.

    Args:
        num_ads: Ads in the catalogue.
        pairs: Entries of the table.
        most: Successors of the ad that has the most of them.
        newest: Ads of the history that are used.
        decay: Weight of an ad relative to the next newer one.

    Raises:
        ValueError: An argument is out of range.

    Example:

    >>> table = SuccessorTable(np.array([0, 2, 2]), np.array([1, 0]), np.array([3.0, 1.0]))
    >>> memory = SuccessorMemory.of(table)
    >>> found = memory.followers(np.array([[1]]))
    >>> memory(found, np.array([[0, 1]])).numpy().round(2).tolist()
    [[0.69, 1.39]]
    """

    def __init__(
        self,
        num_ads: int,
        pairs: int,
        most: int,
        newest: int = NEWEST,
        decay: float = DECAY,
        **kwargs: Any,
    ) -> None:
        # Counts of a frequent ad are past what half precision holds.
        super().__init__(**{"dtype": "float32", **kwargs})
        if min(num_ads, pairs, most, newest) < 1 or not 0 < decay <= 1:
            raise ValueError(
                "num_ads, pairs, most and newest must be >= 1 and decay in (0, 1], got "
                f"num_ads={num_ads}, pairs={pairs}, most={most}, newest={newest}, decay={decay}."
            )
        self.num_ads, self.pairs, self.most = num_ads, pairs, most
        self.newest, self.decay = newest, decay
        # Row 0 is padding, which nothing follows.
        self.offsets = self._add_table(num_ads + 2, "int32", "offsets")
        self.rows = self._add_table(pairs, "int32", "rows")
        self.counts = self._add_table(pairs, "float32", "counts")
        self.built = True

    @classmethod
    def of(cls, table: SuccessorTable, **kwargs: Any) -> SuccessorMemory:
        """A memory of the sizes of `table`, and filled with it.

        Raises:
            ValueError: The table has no entries.
        """
        memory = cls(len(table.offsets) - 1, len(table), table.most, **kwargs)
        memory.set_table(table)
        return memory

    def _add_table(self, size: int, dtype: str, name: str) -> Any:
        return self.add_weight(
            shape=(size,), dtype=dtype, initializer="zeros", trainable=False, name=name
        )

    def set_table(self, table: SuccessorTable) -> None:
        """Fills the memory.

        Raises:
            ValueError: The table has other sizes than the memory.
        """
        want = (self.num_ads, self.pairs, self.most)
        got = (len(table.offsets) - 1, len(table), table.most)
        if want != got:
            raise ValueError(
                f"This memory was made for (ads, pairs, most) = {want}, the table has {got}. Count "
                "the table over the catalogue of the memory, or make SuccessorMemory.of(table)."
            )
        self.offsets.assign(np.concatenate([[0], table.offsets]).astype(np.int32))
        self.rows.assign(table.rows)
        self.counts.assign(table.counts)

    def table(self) -> SuccessorTable:
        """What it was filled with."""
        offsets, rows, counts = (
            ops.convert_to_numpy(weight) for weight in (self.offsets, self.rows, self.counts)
        )
        return SuccessorTable(offsets[1:], rows, counts)

    def followers(self, histories: Any) -> Followers:
        """What followed the newest ads of histories.

        Args:
            histories: int32 `[B, T]` or `[B, T, 1 + C]` of row + 1, oldest first, 0 for padding.

        Returns:
            `newest * most` entries a history.
        """
        rows = ops.pad(history_rows(histories), [[0, 0], [self.newest, 0]])
        history = ops.reshape(pack_history(rows, self.newest), (-1, self.newest))
        length = ops.sum(ops.cast(history > 0, "int32"), axis=1, keepdims=True)
        # Padding has a negative age, and no entries.
        age = ops.maximum(length - 1 - ops.arange(self.newest, dtype="int32"), 0)
        decay = ops.power(self.decay, ops.cast(age, "float32"))
        begin = look_up(self.offsets, history)[..., None]
        end = look_up(self.offsets, history + 1)[..., None]
        place = begin + ops.arange(self.most, dtype="int32")
        there = place < end
        place = ops.minimum(place, self.pairs - 1)
        size = self.newest * self.most
        return Followers(
            ops.reshape(ops.where(there, look_up(self.rows, place), -1), (-1, size)),
            ops.reshape(
                ops.where(there, look_up(self.counts, place) * decay[..., None], 0.0), (-1, size)
            ),
        )

    def call(self, followers: Followers, rows: Any) -> Any:
        """Scores `[B, C]` of ads int32 `[B, C]`, catalogue rows (not + 1)."""
        same = ops.cast(rows, "int32")[:, :, None] == followers.rows[:, None, :]
        total = ops.einsum("bcs,bs->bc", ops.cast(same, "float32"), followers.weights)
        return ops.log1p(total)

    def all_scores(self, followers: Followers) -> Any:
        """Scores `[B, N]` of all ads."""
        batch = ops.shape(followers.rows)[0]
        user = ops.arange(batch, dtype="int32")[:, None] * self.num_ads
        place = ops.reshape(user + ops.maximum(followers.rows, 0), (-1, 1))
        # Weights at one place are added up.
        total = ops.scatter(place, ops.reshape(followers.weights, (-1,)), (batch * self.num_ads,))
        return ops.log1p(ops.reshape(total, (batch, self.num_ads)))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "num_ads": self.num_ads,
            "pairs": self.pairs,
            "most": self.most,
            "newest": self.newest,
            "decay": self.decay,
        }
