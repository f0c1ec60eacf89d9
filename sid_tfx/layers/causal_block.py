"""A pre-norm transformer block that reads a history from left to right."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class CausalBlock(keras.layers.Layer):
    """Causal self-attention with a learned bias per head and distance, then an MLP.

    The bias carries the order (as in T5): only the distance to an earlier ad counts, so a history
    cut to its newest ads reads the same as the end of a longer one.

    Args:
        hidden_size: Size of the states.
        num_heads: Attention heads; divides `hidden_size`.
        mlp_size: Width of the MLP.
        max_length: Distances from `max_length - 1` on share one bias.
        dropout: Rate on the outputs of attention and MLP.
        seed: Integer.

    Call arguments:
        inputs: float `[B, T, hidden_size]`, padding (if any) on the right.
        training: Whether to drop.

    Returns:
        float `[B, T, hidden_size]`; position `t` depends on positions `<= t` only.

    Example:

    >>> CausalBlock(8, 2, 16, max_length=5)(np.zeros((1, 3, 8))).shape
    TensorShape([1, 3, 8])
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        mlp_size: int,
        max_length: int,
        dropout: float = 0.1,
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
        self.mlp_size = mlp_size
        self.max_length = max_length
        self.dropout = dropout
        self.seed = seed
        make = SeededLayers(seed)
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="attention_norm")
        self.query_key_value = make.dense(3 * hidden_size, name="query_key_value")
        self.attention_out = make.dense(hidden_size, name="attention_out")
        self.mlp_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="mlp_norm")
        self.mlp_in = make.dense(mlp_size, activation="gelu", name="mlp_in")
        self.mlp_out = make.dense(hidden_size, name="mlp_out")
        self.drop_attention = make.dropout(dropout)
        self.drop_mlp = make.dropout(dropout)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes the weights."""
        for layer in (self.attention_norm, self.query_key_value, self.mlp_norm, self.mlp_in):
            layer.build(input_shape)
        self.attention_out.build(input_shape)
        self.mlp_out.build((*input_shape[:-1], self.mlp_size))
        self.distance_bias = self.add_weight(
            shape=(self.num_heads, self.max_length), initializer="zeros", name="distance_bias"
        )
        self.built = True

    def call(self, inputs: Any, training: bool = False) -> Any:
        """See the class."""
        shape = ops.shape(inputs)
        # Two axes only: the kernel gradient of a 3-D matmul is one matrix per batch row, summed.
        x = ops.reshape(inputs, (-1, self.hidden_size))
        x = x + self.drop_attention(self._attend(x, shape[1]), training=training)
        mlp = self.mlp_out(self.mlp_in(self.mlp_norm(x)))
        return ops.reshape(x + self.drop_mlp(mlp, training=training), shape)

    def _attend(self, tokens: Any, length: Any) -> Any:
        head = self.hidden_size // self.num_heads
        split = ops.reshape(
            self.query_key_value(self.attention_norm(tokens)),
            (-1, length, 3, self.num_heads, head),
        )
        query, key, value = ops.unstack(ops.transpose(split, (2, 0, 3, 1, 4)), 3)
        logits = ops.matmul(query * head**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        positions = ops.arange(length)
        distance = positions[:, None] - positions[None, :]
        clipped = ops.clip(distance, 0, self.max_length - 1)
        logits = logits + ops.take(self.distance_bias, clipped, axis=1)[None]
        logits = ops.where(distance >= 0, logits, -1e9)
        mixed = ops.transpose(ops.matmul(ops.softmax(logits), value), (0, 2, 1, 3))
        return self.attention_out(ops.reshape(mixed, (-1, self.hidden_size)))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "hidden_size": self.hidden_size,
            "num_heads": self.num_heads,
            "mlp_size": self.mlp_size,
            "max_length": self.max_length,
            "dropout": self.dropout,
            "seed": self.seed,
        }
