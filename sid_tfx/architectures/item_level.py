"""The default: one position per ad, and a head that writes the codes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.architectures.base import AdInputs, Architecture, flat
from sid_tfx.layers import AdEmbedding, CausalBlock, LevelHead
from sid_tfx.layers.history import last_position, last_state
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class ItemLevel(Architecture):
    """An item-level causal transformer with an autoregressive head over the code levels.

    One position per ad, not per code: an ad enters as the sum of its code embeddings, its
    projected content vector and its further vectors. The state at a position then predicts the
    next ad's codes level by level through `LevelHead`: the transformer runs once per request, only
    the head runs per beam.

    Args: as `Architecture`.
    """

    def add_layers(self, make: SeededLayers, **config: Any) -> None:
        """See `Architecture`."""
        size, shape = self.hidden_size, (None, None, self.hidden_size)
        self.ad_embedding = AdEmbedding(self.level_sizes, size, make.seed(), name="ad_embedding")
        self.ad_embedding.build((None, None, self.depth), (None, None, config["content_size"]))
        self.input_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="input_norm")
        self.input_drop = make.dropout(config["dropout"])
        self.blocks = [
            CausalBlock(
                size,
                config["num_heads"],
                config["mlp_size"],
                config["max_history"],
                config["dropout"],
                seed=make.seed(),
                name=f"block_{i}",
            )
            for i in range(config["num_layers"])
        ]
        self.output_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="output_norm")
        self.head = LevelHead(
            self.level_sizes,
            config["head_size"],
            config["head_layers"],
            config["dropout"],
            seed=make.seed(),
            name="head",
        )
        for layer in (self.input_norm, *self.blocks, self.output_norm, self.head):
            layer.build(shape)
        self.built = True

    def read(self, ads: AdInputs, training: bool = False) -> Any:
        """States `[B, T, hidden_size]`, one per ad."""
        x = self._inputs(ads, training)
        for block in self.blocks:
            x = block(x, training=training, segments=ads.segments)
        return self.output_norm(x)

    def _inputs(self, ads: AdInputs, training: bool = False) -> Any:
        """What the first block reads, `[B, T, hidden_size]`."""
        vectors = None if ads.vectors is None else flat(ads.vectors)
        x = self.ad_embedding(flat(ads.codes), flat(ads.content), vectors)
        x = self.input_norm(ops.reshape(x, (*ops.shape(ads.rows), self.hidden_size)))
        if ads.kept is not None:
            x = x * ads.kept
        return self.input_drop(x, training=training)

    def sequence_logits(self, states: Any, codes: Any, training: bool) -> tuple[list[Any], Any]:
        """See `Architecture`."""
        states = flat(states[:, :-1])
        return self.head(states, flat(codes[:, 1:]), training=training), states

    def target_logits(
        self, states: Any, rows: Any, codes: Any, training: bool
    ) -> tuple[list[Any], Any]:
        """See `Architecture`."""
        states = last_state(states, rows)
        return self.head(states, codes, training=training), states

    def user_state(self, ads: AdInputs) -> Any:
        """The last state, float `[B, hidden_size]`."""
        *before, last = self.blocks
        x = self._inputs(ads)
        for block in before:
            x = block(x)
        # Of the last block's outputs one is read.
        return self.output_norm(last.at(x, last_position(ads.rows)))

    def user_vector(self, state: Any) -> Any:
        """See `Architecture`."""
        return state

    def next_logits(self, state: Any, prefix: Any) -> Any:
        """See `Architecture`."""
        level = prefix.shape[-1]
        projected = self.head.state_in[level](state)[:, None, :]
        return self.head.level_logits(level, projected, prefix)

    def cached_logits(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """See `Architecture`; the head reads embeddings of all codes, so there is no cache."""
        return self.next_logits(state, prefix), cache
