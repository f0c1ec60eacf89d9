"""Attention of an encoder-decoder: over the whole history at once, and from codes to it."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.transformer import SeededLayers, join_heads, split_heads


@keras.saving.register_keras_serializable(package="sid_tfx")
class MaskedAttention(keras.layers.Layer):
    """Multi-head attention of queries to a memory, some of whose positions don't count.

    With `max_distance` it is the self-attention of T5's encoder: a learned bias per head and signed
    distance carries the order, distances past the largest share its bias. With 0 there is no bias:
    attention from one sequence to another.

    Args:
        hidden_size: Size of tokens, in and out.
        num_heads: Attention heads; divides `hidden_size`.
        max_distance: Largest distance with a bias of its own; 0 for no bias.
        seed: Integer.

    Call arguments:
        queries: float `[B, Q, hidden_size]`.
        memory: `keys_values` of the memory `[B, S, hidden_size]`.
        mask: bool `[B, S]`, True where a position of the memory counts.

    Returns:
        float `[B, Q, hidden_size]`.

    Example:

    >>> layer = MaskedAttention(8, num_heads=2)
    >>> memory = layer.keys_values(np.ones((1, 3, 8)))
    >>> layer(np.ones((1, 2, 8)), memory, np.array([[True, True, False]])).shape
    TensorShape([1, 2, 8])
    """

    built: bool

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        max_distance: int = 0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if hidden_size % num_heads:
            raise ValueError(
                f"hidden_size={hidden_size} must be a multiple of num_heads={num_heads}."
            )
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.max_distance = max_distance
        self.seed = seed
        make = SeededLayers(seed)
        self.query = make.dense(hidden_size, use_bias=False, name="query")
        self.key_value = make.dense(2 * hidden_size, use_bias=False, name="key_value")
        self.out = make.dense(hidden_size, name="out")
        self.build()

    def build(self, *shapes: Any) -> None:
        """Makes the weights."""
        if self.built:
            return
        for layer in (self.query, self.key_value, self.out):
            layer.build((None, self.hidden_size))
        self.distance_bias = None
        if self.max_distance:
            self.distance_bias = self.add_weight(
                shape=(self.num_heads, 2 * self.max_distance + 1),
                initializer="zeros",
                name="distance_bias",
            )
        self.built = True

    def keys_values(self, memory: Any) -> tuple[Any, Any]:
        """Keys and values `[B, num_heads, S, head size]` of a memory `[B, S, hidden_size]`."""
        key, value = ops.split(split_heads(self.key_value(memory), 2 * self.num_heads), 2, axis=1)
        return key, value

    def call(self, queries: Any, memory: tuple[Any, Any], mask: Any) -> Any:
        """See the class."""
        length = queries.shape[1] or ops.shape(queries)[1]
        query = split_heads(self.query(queries), self.num_heads)
        key, value = memory
        scale = (self.hidden_size // self.num_heads) ** -0.5
        logits = ops.matmul(query * scale, ops.transpose(key, (0, 1, 3, 2)))
        if self.distance_bias is not None:
            positions = ops.arange(length)
            distance = positions[:, None] - positions[None, :]
            clipped = ops.clip(distance, -self.max_distance, self.max_distance)
            logits = logits + ops.take(self.distance_bias, clipped + self.max_distance, axis=1)
        logits = ops.where(mask[:, None, None, :], logits, -1e9)
        return self.out(join_heads(ops.matmul(ops.softmax(logits), value)))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "num_heads": self.num_heads,
            "max_distance": self.max_distance,
            "seed": self.seed,
        }
