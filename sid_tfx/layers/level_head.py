"""The head that writes a semantic ID level by level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class LevelHead(keras.layers.Layer):
    """`log P(code of level l | user state, codes of the levels before)`, an MLP per level.

    The codes before a level enter as embeddings added to the first hidden layer, one table per
    pair of levels, so that at decoding time the user state is projected once per level whatever
    the number of beams: the transformer runs once per request and only this head runs per beam.

    Args:
        sizes: Codes per level.
        hidden_size: Width of the hidden layers.
        num_layers: Hidden layers per level, at least 1.
        dropout: Rate on the hidden layers.
        seed: Integer.

    Call arguments:
        state: float `[..., d]`.
        codes: int `[..., levels]`, the true codes (teacher forcing); the last level is not read.

    Returns:
        A list of logits, `[..., sizes[l]]` for level `l`.

    Example:

    >>> logits = LevelHead((4, 4, 2), 8)(np.zeros((5, 16)), np.zeros((5, 3), int))
    >>> [tuple(x.shape) for x in logits]
    [(5, 4), (5, 4), (5, 2)]
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden_size: int = 256,
        num_layers: int = 2,
        dropout: float = 0.1,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if num_layers < 1:
            raise ValueError(f"num_layers must be >= 1, got {num_layers}.")
        self.sizes = tuple(int(size) for size in sizes)
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.dropout = dropout
        self.seed = seed
        make = SeededLayers(seed)
        levels = range(len(self.sizes))
        self.state_in = [make.dense(hidden_size, name=f"state_in_{level}") for level in levels]
        # Flat lists: Keras files leave out the layers of a list within a list.
        self.code_in = [
            make.embedding(self.sizes[earlier], hidden_size, name=f"code_in_{level}_{earlier}")
            for level in levels
            for earlier in range(level)
        ]
        self.hidden = [
            make.dense(hidden_size, name=f"hidden_{level}_{i}")
            for level in levels
            for i in range(1, num_layers)
        ]
        self.out = [make.dense(self.sizes[level], name=f"out_{level}") for level in levels]
        self.drop = [make.dropout(dropout) for _ in levels]

    def build(
        self,
        state_shape: tuple[int | None, ...],
        codes_shape: tuple[int | None, ...] | None = None,
    ) -> None:
        """Makes the weights."""
        for layer in self.state_in:
            layer.build(state_shape)
        for table in self.code_in:
            table.build(None)
        for layer in self.hidden + self.out:
            layer.build((None, self.hidden_size))
        self.built = True

    def call(self, state: Any, codes: Any, training: bool = False) -> list[Any]:
        """See the class."""
        return [
            self.level_logits(level, self.state_in[level](state), codes, training)
            for level in range(len(self.sizes))
        ]

    def level_logits(self, level: int, projected: Any, prefix: Any, training: bool = False) -> Any:
        """Logits of one level.

        Args:
            level: Which.
            projected: `state_in[level](state)`, `[..., hidden_size]`, or with size-1 axes that
                broadcast against `prefix`.
            prefix: int `[..., >= level]`; the first `level` codes are read.
            training: Whether to drop.

        Returns:
            float `[..., sizes[level]]`.
        """
        x = projected
        first_table = level * (level - 1) // 2
        for earlier in range(level):
            x = x + self.code_in[first_table + earlier](prefix[..., earlier])
        shape = ops.shape(x)
        # Two axes only: the kernel gradient of a 3-D matmul is one matrix per batch row, summed.
        x = ops.relu(ops.reshape(x, (-1, self.hidden_size)))
        deeper = self.num_layers - 1
        for layer in self.hidden[level * deeper : (level + 1) * deeper]:
            x = x + ops.relu(layer(x))
        logits = self.out[level](self.drop[level](x, training=training))
        return ops.reshape(logits, (*shape[:-1], self.sizes[level]))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "sizes": self.sizes,
            "hidden_size": self.hidden_size,
            "num_layers": self.num_layers,
            "dropout": self.dropout,
            "seed": self.seed,
        }
