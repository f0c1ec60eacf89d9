"""A language model of codes: one position per code, keys and values cached while decoding."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.architectures.base import AdInputs, Architecture, flat
from sid_tfx.layers import AdEmbedding, CausalBlock
from sid_tfx.layers.history import take_rows
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class FlatDecoder(Architecture):
    """A decoder-only transformer over the codes of the history, one after the other.

    A history of `T` ads is a sequence of `T * D` tokens; every token predicts the next, so one
    pass trains on every code of every ad. What is known of an ad beside its codes is added to its
    last token: a token never sees more of its ad than the codes up to it. Item dropout hides that
    part only, for the codes of the target itself must be seen.

    While decoding, the keys and values of the history belong to the user state, shared by all
    beams; each beam carries those of its own codes.

    Args: as `Architecture`; `head_size` and `head_layers` are not used, a dense layer per level
        reads the state.
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
                (config["max_history"] + 1) * self.depth,
                config["dropout"],
                seed=make.seed(),
                name=f"block_{i}",
            )
            for i in range(config["num_layers"])
        ]
        self.output_norm = keras.layers.LayerNormalization(epsilon=1e-6, name="output_norm")
        self.out = [
            make.dense(codes, name=f"out_{level}") for level, codes in enumerate(self.level_sizes)
        ]
        for layer in (self.input_norm, *self.blocks, self.output_norm):
            layer.build(shape)
        for layer in self.out:
            layer.build((None, size))
        self.built = True

    def read(self, ads: AdInputs, training: bool = False) -> Any:
        """States `[B, T * D, hidden_size]`, one per code."""
        return self._read(ads, training)[0]

    def _read(self, ads: AdInputs, training: bool) -> tuple[Any, list[tuple[Any, Any]]]:
        known = self.ad_embedding.known(ads.content, ads.vectors)
        if ads.kept is not None:
            known = known * ads.kept
        tokens = [
            table(ads.codes[..., level]) for level, table in enumerate(self.ad_embedding.tables)
        ]
        tokens[-1] = tokens[-1] + known
        batch, length = ops.shape(ads.rows)
        x = ops.reshape(ops.stack(tokens, axis=2), (batch, length * self.depth, self.hidden_size))
        x = self.input_drop(self.input_norm(x), training=training)
        segments = ads.segments
        if segments is not None:
            segments = ops.repeat(segments, self.depth, axis=1)
        cache = []
        for block in self.blocks:
            x, keys_values = block.with_cache(x, training, segments)
            cache.append(keys_values)
        return self.output_norm(x), cache

    def sequence_logits(self, states: Any, codes: Any, training: bool) -> tuple[list[Any], Any]:
        """See `Architecture`."""
        # The state before a code predicts it: those from the first ad's last code on.
        batch, length = ops.shape(codes)[:2]
        before = states[:, self.depth - 1 : -1]
        before = ops.reshape(before, (batch * (length - 1), self.depth, self.hidden_size))
        return [out(before[:, level]) for level, out in enumerate(self.out)], before[:, 0]

    def user_state(self, ads: AdInputs) -> dict[str, Any]:
        """The last state, keys and values of the history per layer, its length in tokens."""
        states, cache = self._read(ads, training=False)
        length = ops.sum(ops.cast(ads.rows > 0, "int32"), axis=1) * self.depth
        last = ops.maximum(length - 1, 0)[:, None]
        return {
            "vector": ops.squeeze(take_rows(states, last), axis=1),
            "history": tuple(cache),
            "length": length,
        }

    def user_vector(self, state: Any) -> Any:
        """See `Architecture`."""
        return state["vector"]

    def cached_logits(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """See `Architecture`; the cache holds keys and values per layer, `()` at first."""
        level = prefix.shape[-1]
        if not level:
            return self.out[0](state["vector"])[:, None], cache
        x = self.input_norm(self.ad_embedding.tables[level - 1](prefix[..., -1]))
        grown = []
        for i, block in enumerate(self.blocks):
            own = cache[i] if cache else ()
            x, keys_values = block.step(x, state["history"][i], state["length"], own)
            grown.append(keys_values)
        shape = (*ops.shape(x)[:2], self.level_sizes[level])
        logits = self.out[level](flat(self.output_norm(x)))
        return ops.reshape(logits, shape), tuple(grown)
