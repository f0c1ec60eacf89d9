"""A pre-norm transformer block that reads a history from left to right."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.layers.history import take_rows
from sid_tfx.transformer import SeededLayers, join_heads, split_heads


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
        segments: int32 `[B, T]`: positions attend to those of their own segment; None if a row is
            one.

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

    def call(self, inputs: Any, training: bool = False, segments: Any = None) -> Any:
        """See the class."""
        return self.with_cache(inputs, training, segments)[0]

    def with_cache(
        self, inputs: Any, training: bool = False, segments: Any = None
    ) -> tuple[Any, tuple[Any, Any]]:
        """As `call`; also the keys and values that later positions attend to.

        Args:
            inputs: float `[B, T, hidden_size]`.
            training: Whether to drop.
            segments: As `call`.

        Returns:
            The outputs, and keys and values, each `[B, num_heads, T, head size]`.
        """
        shape = ops.shape(inputs)
        length = shape[1]
        # Two axes only: the kernel gradient of a 3-D matmul is one matrix per batch row, summed.
        x = ops.reshape(inputs, (-1, self.hidden_size))
        query, key, value = self._split(x, (-1, length))
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        positions = ops.arange(length)
        distance = positions[:, None] - positions[None, :]
        logits = logits + self._bias(distance)[None]
        visible = distance >= 0
        if segments is not None:
            own = segments[:, None, :, None] == segments[:, None, None, :]
            visible = ops.logical_and(visible, own)
        logits = ops.where(visible, logits, -1e9)
        mixed = join_heads(ops.matmul(ops.softmax(logits), value))
        return ops.reshape(self._finish(x, mixed, training), shape), (key, value)

    def at(self, inputs: Any, position: Any) -> Any:
        """The output at one position of each row; those of the others are not computed.

        Args:
            inputs: float `[B, T, hidden_size]`.
            position: int `[B]`.

        Returns:
            float `[B, hidden_size]`.
        """
        length = ops.shape(inputs)[1]
        query, key, value = self._split(ops.reshape(inputs, (-1, self.hidden_size)), (-1, length))
        # Of what a table of strings looked up TensorFlow knows no rank, and says so at each load.
        position = ops.reshape(position, (-1, 1))
        query = split_heads(take_rows(join_heads(query), position), self.num_heads)
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        distance = position - ops.arange(length, dtype=position.dtype)[None, :]
        bias = ops.transpose(self._bias(distance), (1, 0, 2))[:, :, None]
        logits = ops.where(distance[:, None, None] >= 0, logits + bias, -1e9)
        mixed = join_heads(ops.matmul(ops.softmax(logits), value))
        tokens = ops.squeeze(take_rows(inputs, position), axis=1)
        return self._finish(tokens, mixed, training=False)

    def step(
        self, inputs: Any, shared: tuple[Any, Any], shared_length: Any, own: Any
    ) -> tuple[Any, Any]:
        """One more position for each of several continuations of one history.

        The history's keys and values are shared by its continuations and never copied; each
        continuation has those of its own positions beside.

        Args:
            inputs: float `[B, W, hidden_size]`, the new position of each continuation.
            shared: Keys and values of the histories, from `with_cache`.
            shared_length: int `[B]`, positions of each history; later ones are padding.
            own: Keys and values of the continuations so far, each `[B, W, num_heads, t, head
                size]`, or `()` for their first position.

        Returns:
            The outputs `[B, W, hidden_size]`, and the new `own` with `t + 1` positions.
        """
        shape = ops.shape(inputs)
        x = ops.reshape(inputs, (-1, self.hidden_size))
        query, key, value = self._split(x, (-1, shape[1]))
        # [B, heads, W, head size] -> [B, W, heads, 1, head size]
        key, value = (ops.transpose(v, (0, 2, 1, 3))[:, :, :, None] for v in (key, value))
        if own:
            key = ops.concatenate([own[0], key], axis=3)
            value = ops.concatenate([own[1], value], axis=3)
        steps = key.shape[3]

        place = ops.arange(shared[0].shape[2] or ops.shape(shared[0])[2])
        distance = shared_length[:, None] + (steps - 1) - place[None, :]
        before = ops.matmul(query, ops.transpose(shared[0], (0, 1, 3, 2)))
        before = before + ops.transpose(self._bias(distance), (1, 0, 2))[:, :, None]
        inside = place[None, :] < shared_length[:, None]
        before = ops.where(inside[:, None, None], before, -1e9)
        since = ops.einsum("bhwd,bwhtd->bhwt", query, key)
        since = since + self._bias(ops.arange(steps - 1, -1, -1))[None, :, None]

        weights = ops.softmax(ops.concatenate([before, since], axis=-1))
        mixed = ops.transpose(ops.matmul(weights[..., :-steps], shared[1]), (0, 2, 1, 3))
        mixed = mixed + ops.einsum("bhwt,bwhtd->bwhd", weights[..., -steps:], value)
        return ops.reshape(self._finish(x, mixed, False), shape), (key, value)

    def _split(self, tokens: Any, shape: tuple[Any, Any]) -> list[Any]:
        """Scaled queries, keys and values `[B, num_heads, T, head size]` of `[B * T, d]`."""
        head = self.hidden_size // self.num_heads
        joined = self.query_key_value(self.attention_norm(tokens))
        joined = ops.reshape(joined, (*shape, 3 * self.hidden_size))
        query, key, value = ops.split(split_heads(joined, 3 * self.num_heads), 3, axis=1)
        return [query * head**-0.5, key, value]

    def _bias(self, distance: Any) -> Any:
        """Biases `[num_heads, ...]` of distances `[...]`."""
        return ops.take(self.distance_bias, ops.clip(distance, 0, self.max_length - 1), axis=1)

    def _finish(self, tokens: Any, mixed: Any, training: bool) -> Any:
        """Adds attention and MLP to `[P, d]`."""
        attended = self.attention_out(ops.reshape(mixed, (-1, self.hidden_size)))
        x = tokens + self.drop_attention(attended, training=training)
        mlp = self.mlp_out(self.mlp_in(self.mlp_norm(x)))
        return x + self.drop_mlp(mlp, training=training)

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
