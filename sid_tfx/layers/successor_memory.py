"""What followed the newest ads of a history in training, as candidates and as a score."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.datasets.successors import SuccessorTable
from sid_tfx.embedding import look_up
from sid_tfx.layers.history import history_rows, pack_history, take_rows


@keras.saving.register_keras_serializable(package="sid_tfx")
class SuccessorMemory(keras.layers.Layer):
    """Remembers which ads followed which: item-to-item counts beside a trained model.

    A network that generalizes well keeps little of what it saw once or twice, and that is much of
    what a log of ads says: with `a_j` the newest ads of the history, newest first,

        score(b) = log(1 + sum over j < newest of decay^j * count(a_j -> b))

    which is the order of item kNN. Joined with a model's own log-probability it is what kNN-LM
    (arXiv 1911.00172) does for language models.

    Args:
        num_ads: Ads in the catalogue.
        pairs: Entries of the table.
        most: Successors of the ad that has the most of them.
        newest: Ads of the history that are used.
        decay: Weight of an ad relative to the next newer one.

    Example:

    >>> table = SuccessorTable(np.array([0, 2, 2]), np.array([1, 0]), np.array([3.0, 1.0]))
    >>> memory = SuccessorMemory.of(table)
    >>> memory.candidates(np.array([[1]]), 2).numpy().tolist()
    [[1, 0]]
    >>> memory(np.array([[1]]), np.array([[0, 1]])).numpy().round(2).tolist()
    [[0.69, 1.39]]
    """

    def __init__(
        self,
        num_ads: int,
        pairs: int,
        most: int,
        newest: int = 5,
        decay: float = 0.5,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.num_ads, self.pairs, self.most = num_ads, pairs, most
        self.newest, self.decay = newest, decay
        # Row 0 is padding, which nothing follows.
        self.offsets = self._table(num_ads + 2, "int32", "offsets")
        self.rows = self._table(pairs, "int32", "rows")
        self.counts = self._table(pairs, "float32", "counts")
        self.score_weight = self.add_weight(
            shape=(), initializer="ones", trainable=False, name="score_weight"
        )
        self.built = True

    @classmethod
    def of(cls, table: SuccessorTable, **kwargs: Any) -> SuccessorMemory:
        """A memory of the sizes of `table`, which must have entries, and filled with it."""
        memory = cls(len(table.offsets) - 1, len(table), table.most, **kwargs)
        memory.set_table(table)
        return memory

    def _table(self, size: int, dtype: str, name: str) -> Any:
        return self.add_weight(
            shape=(size,), dtype=dtype, initializer="zeros", trainable=False, name=name
        )

    def set_table(self, table: SuccessorTable) -> None:
        """Fills the memory with a table of its sizes."""
        self.offsets.assign(np.concatenate([[0], table.offsets]).astype(np.int32))
        self.rows.assign(table.rows)
        self.counts.assign(table.counts)

    def table(self) -> SuccessorTable:
        """What it was filled with."""
        offsets, rows, counts = (
            ops.convert_to_numpy(weight) for weight in (self.offsets, self.rows, self.counts)
        )
        return SuccessorTable(offsets[1:], rows, counts)

    def candidates(self, histories: Any, count: int) -> Any:
        """The ads that followed most, by the single ad they followed.

        Args:
            histories: int32 `[B, T]` or `[B, T, 1 + C]` of row + 1, 0 for padding.
            count: How many.

        Returns:
            int32 `[B, count]` catalogue rows (not + 1), -1 past the last; one that followed
            several ads of the history occurs several times.
        """
        rows, weights = self._successors(histories)
        width = min(count, self.newest * self.most)
        best, place = ops.top_k(weights, width)
        found = ops.where(best > 0, take_rows(rows, place), -1)
        return ops.pad(found, [[0, 0], [0, count - width]], constant_values=-1)

    def call(self, histories: Any, rows: Any) -> Any:
        """Scores `[B, C]` of ads int32 `[B, C]`, catalogue rows (not + 1)."""
        successors, weights = self._successors(histories)
        same = ops.cast(rows, "int32")[:, :, None] == successors[:, None, :]
        return ops.log1p(ops.einsum("bcs,bs->bc", ops.cast(same, weights.dtype), weights))

    def all_scores(self, histories: Any) -> Any:
        """Scores `[B, N]` of all ads."""
        rows, weights = self._successors(histories)
        batch = ops.shape(rows)[0]
        place = ops.arange(batch, dtype="int32")[:, None] * self.num_ads + ops.maximum(rows, 0)
        # Added up by the place that each successor has among all users' ads.
        total = ops.scatter(
            ops.reshape(place, (-1, 1)), ops.reshape(weights, (-1,)), (batch * self.num_ads,)
        )
        return ops.log1p(ops.reshape(total, (batch, self.num_ads)))

    def _successors(self, histories: Any) -> tuple[Any, Any]:
        """Successors of the newest ads, int32 `[B, S]`, -1 past the last, and their weights."""
        rows = ops.pad(history_rows(histories), [[0, 0], [self.newest, 0]])
        history = ops.reshape(pack_history(rows, self.newest), (-1, self.newest))
        length = ops.sum(ops.cast(history > 0, "int32"), axis=1, keepdims=True)
        age = length - 1 - ops.arange(self.newest, dtype="int32")
        begin = look_up(self.offsets, history)[..., None]
        end = look_up(self.offsets, history + 1)[..., None]
        place = begin + ops.arange(self.most, dtype="int32")
        there = place < end
        place = ops.minimum(place, self.pairs - 1)
        rows = ops.where(there, look_up(self.rows, place), -1)
        # Padding has a negative age and no entries.
        decay = ops.power(self.decay, ops.cast(ops.maximum(age, 0), self.compute_dtype))
        weights = ops.where(there, look_up(self.counts, place) * decay[..., None], 0.0)
        size = self.newest * self.most
        return ops.reshape(rows, (-1, size)), ops.reshape(weights, (-1, size))

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
