"""The transformer block of the encoder and of the summary decoder, with seeded weights."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.dense import FlatDense
from sid_tfx.embedding import DenseGradientEmbedding


class SeededLayers:
    """Makes layers whose initial weights depend on one seed and on nothing global.

    Args:
        seed: The seed; each layer made gets the next number of its stream.
    """

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)

    def seed(self) -> int:
        """Returns the stream's next seed."""
        return int(self._rng.integers(2**31))

    def dense(self, units: int, **kwargs: Any) -> FlatDense:
        """Returns a dense layer, Glorot uniform."""
        initializer = keras.initializers.GlorotUniform(seed=self.seed())
        return FlatDense(units, kernel_initializer=initializer, **kwargs)

    def embedding(self, rows: int, units: int, **kwargs: Any) -> DenseGradientEmbedding:
        """Returns an embedding table, normal with deviation 0.05."""
        initializer = keras.initializers.RandomNormal(stddev=0.05, seed=self.seed())
        return DenseGradientEmbedding(rows, units, embeddings_initializer=initializer, **kwargs)

    def dropout(self, rate: float) -> keras.layers.Dropout:
        """Returns a dropout layer."""
        return keras.layers.Dropout(rate, seed=self.seed())


def split_heads(tokens: Any, heads: int) -> Any:
    """`[B, T, heads * d]` as `[B, heads, T, d]`.

    A transposition as copies: on a CPU TensorFlow's own, of four axes, takes ten times as long.
    """
    return ops.stack(ops.split(tokens, heads, axis=-1), axis=1)


def join_heads(mixed: Any) -> Any:
    """`[B, heads, T, d]` as `[B, T, heads * d]`; `heads` static."""
    return ops.concatenate(ops.unstack(mixed, mixed.shape[1], axis=1), axis=-1)


def _last(tokens: Any, count: int) -> Any:
    """The last `count` of `[B, T, d]`, T static.

    A split and not a slice, whose gradient takes TensorFlow several times as long on a CPU.
    """
    return ops.split(tokens, [tokens.shape[1] - count], axis=1)[1]


@keras.saving.register_keras_serializable(package="sid_tfx")
class TransformerBlock(keras.layers.Layer):
    """Pre-norm transformer block whose queries may be only the last tokens.

    Args:
        dim: Size of a token.
        heads: Attention heads; divides `dim`.
        queries: How many of the last tokens are computed; None for all.
        dropout: Dropout rate.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: `heads` does not divide `dim`.
    """

    built: bool

    def __init__(
        self,
        dim: int,
        heads: int,
        queries: int | None = None,
        dropout: float = 0.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if dim % heads:
            raise ValueError(f"heads must divide dim, got heads={heads} and dim={dim}.")
        self.dim = dim
        self.heads = heads
        self.queries = queries
        self.rate = dropout
        self.seed = seed
        make = SeededLayers(seed)
        self.attention_norm = keras.layers.LayerNormalization(epsilon=1e-5)
        self.query = make.dense(dim, use_bias=False)
        self.key_value = make.dense(2 * dim, use_bias=False)
        self.attention_out = make.dense(dim)
        self.mlp_norm = keras.layers.LayerNormalization(epsilon=1e-5)
        # ReLU: the exact GELU costs as much as the matrix product before it on a CPU.
        self.mlp_in = make.dense(4 * dim, activation="relu")
        self.mlp_out = make.dense(dim)
        self.attention_dropout = make.dropout(dropout)
        self.mlp_dropout = make.dropout(dropout)
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if self.built:
            return
        shape = (None, None, self.dim)
        for layer in (self.attention_norm, self.mlp_norm, self.query, self.key_value):
            layer.build(shape)
        self.attention_out.build(shape)
        self.mlp_in.build(shape)
        self.mlp_out.build((None, None, 4 * self.dim))
        self.built = True

    def call(self, tokens: Any, attention_mask: Any, training: bool | None = None) -> Any:
        """Maps tokens `[B, T, dim]` to `[B, queries, dim]`.

        Args:
            tokens: float `[B, T, dim]`, T static.
            attention_mask: bool `[B or 1, T, T]`, True where a row's token sees a column's.
            training: Whether dropout is on.
        """
        normed = self.attention_norm(tokens)
        states, asking = tokens, normed
        if self.queries is not None:
            states, asking = (_last(part, self.queries) for part in (tokens, normed))
            attention_mask = attention_mask[:, -self.queries :]
        query = split_heads(self.query(asking) * (self.dim // self.heads) ** -0.5, self.heads)
        joined = split_heads(self.key_value(normed), 2 * self.heads)
        key, value = ops.split(joined, 2, axis=1)
        logits = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        logits = ops.where(attention_mask[:, None], logits, -1e9)
        attended = self.attention_out(join_heads(ops.matmul(ops.softmax(logits), value)))
        states = states + self.attention_dropout(attended, training=training)
        hidden = self.mlp_out(self.mlp_in(self.mlp_norm(states)))
        return states + self.mlp_dropout(hidden, training=training)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "dim": self.dim,
            "heads": self.heads,
            "queries": self.queries,
            "dropout": self.rate,
            "seed": self.seed,
        }
