"""What the recommender sees of an event beside its ad: time, event type, weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.layers.history import take_rows
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class ContextEmbedding(keras.layers.Layer):
    """Sum of one embedding per context field.

    Id 0 is an unknown value and has an embedding too. In training, `dropout` of the histories lose
    all of their context, and each field is lost as often by itself, so that a request with a part
    of the context or without any is nothing new to the model.

    Args:
        sizes: Ids per field, 0 included.
        hidden_size: Size of the result.
        dropout: Share of histories.
        seed: Integer.

    Call arguments:
        ids: int `[B, T, len(sizes)]`.
        training: Whether to drop.
        segments: int32 `[B, T]`, the number of each history within its row, at most `T`; None if a
            row is one.

    Returns:
        float `[B, T, hidden_size]`.

    Example:

    >>> ContextEmbedding((30, 4), 8)(np.zeros((5, 2, 2), int)).shape
    TensorShape([5, 2, 8])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden_size: int,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = tuple(int(size) for size in sizes)
        self.hidden_size = hidden_size
        self.dropout = dropout
        self.seed = seed
        make = SeededLayers(seed)
        self.tables = [
            make.embedding(size, hidden_size, name=f"field_{field}")
            for field, size in enumerate(self.sizes)
        ]
        self.draws = keras.random.SeedGenerator(make.seed(), name="draws")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        for table in self.tables:
            table.build(None)
        self.built = True

    def call(self, ids: Any, training: bool = False, segments: Any = None) -> Any:
        """See the class."""
        if training and self.dropout:
            if segments is None:
                segments = ops.zeros((ops.shape(ids)[0], 1), "int32")
            ids = ids * self._kept(segments, ids.dtype)
        return sum(table(ids[..., field]) for field, table in enumerate(self.tables))

    def _kept(self, segments: Any, dtype: Any) -> Any:
        """1 where a history keeps a field, else 0: `[..., len(sizes)]` of segments `[...]`."""
        batch, length = ops.shape(segments)
        # The last draw is for all fields at once.
        drawn = keras.random.uniform((batch, length + 1, len(self.sizes) + 1), seed=self.draws)
        drawn = take_rows(drawn, segments)
        kept = ops.cast(drawn >= self.dropout, dtype)
        return kept[..., :-1] * kept[..., -1:]

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "hidden_size": self.hidden_size,
            "dropout": self.dropout,
            "seed": self.seed,
        }
