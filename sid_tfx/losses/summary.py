"""Summary reconstruction: the semantic ID must say enough to write the ad's summary (UniSID)."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.cross_entropy import table_cross_entropy
from sid_tfx.features import MISSING
from sid_tfx.transformer import SeededLayers, TransformerBlock


@keras.saving.register_keras_serializable(package="sid_tfx")
class SummaryReconstruction(keras.layers.Layer):
    """L_rec of UniSID: negative log-likelihood of the summary given the SID and Emb states.

    A one-block causal decoder reads the L + 1 states as a prefix and predicts the summary word by
    word. UniSID conditions a frozen 3B language model in this place. The output layer shares its
    matrix with the word embeddings.

    Args:
        vocabulary_size: Number of word ids.
        length: Word ids per summary.
        prefix: L + 1, conditioning states per ad.
        state_dim: Size of a state.
        dim: Size of a token of the decoder.
        heads: Attention heads; divides `dim`.
        rows: At most so many rows of a batch are decoded, the first ones; batches are shuffled, so
            that is a random share, and the softmax over the vocabulary is the cost.
        seed: Seed of the initial weights.

    Raises:
        ValueError: An argument is below 1, or `heads` does not divide `dim`.

    Reference:
        UniSID, arXiv 2602.10445, summary-based reconstruction.
    """

    built: bool

    def __init__(
        self,
        vocabulary_size: int,
        length: int,
        prefix: int,
        state_dim: int,
        dim: int = 64,
        heads: int = 2,
        rows: int = 64,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        counts = {
            "vocabulary_size": vocabulary_size,
            "length": length,
            "prefix": prefix,
            "state_dim": state_dim,
            "dim": dim,
            "heads": heads,
            "rows": rows,
        }
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        self.arguments = {**counts, "seed": seed}
        self.rows = rows
        self.prefix = prefix
        self.length = length
        self.dim = dim
        make = SeededLayers(seed)
        self.projection = make.dense(dim, name="projection")
        self.words = make.embedding(vocabulary_size, dim, name="words")
        self.block = TransformerBlock(dim, heads, queries=length, seed=make.seed(), name="block")
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")
        self.state_dim = state_dim
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if self.built:
            return
        self.projection.build((None, None, self.state_dim))
        self.words.build((None, None))
        self.norm.build((None, None, self.dim))
        self.positions = self.add_weight(
            name="positions",
            shape=(self.prefix + self.length - 1, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.05, seed=self.arguments["seed"]),
        )
        self.built = True

    def predict(self, states: Any, tokens: Any) -> Any:
        """Returns float `[B, length, dim]`, whose inner product with a word's vector is its logit.

        Position t has read the states and the words before t.

        Args:
            states: float `[B, prefix, state_dim]`.
            tokens: int `[B, length]`.
        """
        # `training`: the loss is asked for by the tokenizer, outside of its call.
        before = self.words(tokens[:, :-1], training=True)
        read = ops.concatenate([self.projection(states), before], axis=1)
        causal = np.tril(np.ones((1, read.shape[1], read.shape[1]), bool))
        return self.norm(self.block(read + self.positions, causal))

    def call(self, states: Any, tokens: Any) -> Any:
        """Returns the mean negative log-likelihood of a word in nats, a scalar; 0 without words.

        Args:
            states: float `[B, prefix, state_dim]`, SID states and the Emb state.
            tokens: int `[B, length]`, 0 = padding, which is not predicted.
        """
        states, tokens = states[: self.rows], tokens[: self.rows]
        # Two axes only, as in FlatDense.
        predicted = ops.reshape(self.predict(states, tokens), (-1, self.dim))
        tokens = ops.reshape(tokens, (-1,))
        losses = table_cross_entropy(predicted, self.words.embeddings, tokens)
        words = ops.cast(ops.not_equal(tokens, MISSING), losses.dtype)
        return ops.sum(words * losses) / ops.maximum(ops.sum(words), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), **self.arguments}
