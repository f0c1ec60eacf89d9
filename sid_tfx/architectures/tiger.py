"""TIGER's encoder-decoder, the reference that others are held against."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sid_tfx.architectures.base import AdInputs, Architecture, flat
from sid_tfx.layers import AdEmbedding, CausalBlock, MaskedAttention
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class Tiger(Architecture):
    """A transformer encoder over the codes of the history and a decoder that writes the next ad's.

    As in the paper, the encoder sees all codes of the history in both directions, so a history
    serves one target and training makes one example per target. Unlike there, no token stands for
    the user, what else is known of an ad (content, id) is added to its last token, and a decoder
    block looks at the history first, at the codes so far second. The mean of the encoder's states
    is the vector for dense retrieval.

    Args: as `Architecture`; `num_layers` each for encoder and decoder; `head_size` and
        `head_layers` are not used.

    Reference:
        Rajput et al., Recommender Systems with Generative Retrieval, arXiv 2305.05065.
    """

    one_target = True

    def add_layers(self, make: SeededLayers, **config: Any) -> None:
        """See `Architecture`."""
        size, shape = self.hidden_size, (None, None, self.hidden_size)
        heads, width, rate = config["num_heads"], config["mlp_size"], config["dropout"]
        layers = range(config["num_layers"])
        self.ad_embedding = AdEmbedding(self.level_sizes, size, make.seed(), name="ad_embedding")
        self.ad_embedding.build((None, None, self.depth), (None, None, config["content_size"]))
        self.start = self.add_weight(
            shape=(size,),
            initializer=keras.initializers.RandomNormal(stddev=0.05, seed=make.seed()),
            name="start",
        )

        def norm(name: str) -> keras.layers.LayerNormalization:
            return keras.layers.LayerNormalization(epsilon=1e-6, name=name)

        self.input_norm, self.memory_norm = norm("input_norm"), norm("memory_norm")
        self.output_norm = norm("output_norm")
        self.attention_norms = [norm(f"attention_norm_{i}") for i in layers]
        self.attentions = [
            MaskedAttention(
                size,
                heads,
                max_distance=config["max_history"] * self.depth,
                seed=make.seed(),
                name=f"attention_{i}",
            )
            for i in layers
        ]
        self.mlp_norms = [norm(f"mlp_norm_{i}") for i in layers]
        self.mlps_in = [make.dense(width, activation="gelu", name=f"mlp_in_{i}") for i in layers]
        self.mlps_out = [make.dense(size, name=f"mlp_out_{i}") for i in layers]
        self.cross_norms = [norm(f"cross_norm_{i}") for i in layers]
        self.crossings = [
            MaskedAttention(size, heads, seed=make.seed(), name=f"cross_{i}") for i in layers
        ]
        self.blocks = [
            CausalBlock(size, heads, width, self.depth, rate, seed=make.seed(), name=f"block_{i}")
            for i in layers
        ]
        self.drop = make.dropout(rate)
        self.out = [
            make.dense(codes, name=f"out_{level}") for level, codes in enumerate(self.level_sizes)
        ]
        for layer in (
            *(self.input_norm, self.memory_norm, self.output_norm, *self.attention_norms),
            *(*self.mlp_norms, *self.cross_norms, *self.mlps_in, *self.blocks),
        ):
            layer.build(shape)
        for layer in self.mlps_out:
            layer.build((None, None, width))
        for layer in self.out:
            layer.build((None, size))
        self.built = True

    def read(self, ads: AdInputs, training: bool = False) -> Any:
        """States of the encoder `[B, T * D, hidden_size]`, one per code."""
        tokens = [
            table(ads.codes[..., level]) for level, table in enumerate(self.ad_embedding.tables)
        ]
        tokens[-1] = tokens[-1] + self.ad_embedding.known(ads.content, ads.vectors)
        x = ops.stack(tokens, axis=2)
        if ads.kept is not None:
            x = x * ads.kept[..., None]
        batch, length = ops.shape(ads.rows)
        x = ops.reshape(x, (batch, length * self.depth, self.hidden_size))
        x = self.drop(self.input_norm(x), training=training)
        mask = self._mask(ads.rows)
        for i, attention in enumerate(self.attentions):
            seen = self.attention_norms[i](x)
            attended = attention(seen, attention.keys_values(seen), mask)
            x = x + self.drop(attended, training=training)
            mlp = self.mlps_out[i](self.mlps_in[i](self.mlp_norms[i](x)))
            x = x + self.drop(mlp, training=training)
        return self.memory_norm(x)

    def _mask(self, rows: Any) -> Any:
        """bool `[B, T * D]`, True at the codes of ads."""
        return ops.repeat(rows > 0, self.depth, axis=1)

    def target_logits(
        self, states: Any, rows: Any, codes: Any, training: bool
    ) -> tuple[list[Any], Any]:
        """See `Architecture`."""
        state = self._state(states, rows)
        written = self._write(state, codes[:, :-1], training)
        return [out(written[:, level]) for level, out in enumerate(self.out)], state["vector"]

    def user_state(self, ads: AdInputs) -> dict[str, Any]:
        """What the decoder reads of the encoder, and what it makes of the start token."""
        state = self._state(self.read(ads), ads.rows)
        x = self.input_norm(self._starts(ops.shape(ads.rows)[0]))
        begun = []
        for i, block in enumerate(self.blocks):
            x, keys_values = block.with_cache(x + self._asked(i, x, state))
            begun.append(keys_values)
        first = ops.squeeze(self.output_norm(x), axis=1)
        # All beams begin alike: the start token's part is every beam's, and never copied.
        return {**state, "first": first, "begun": tuple(begun)}

    def _state(self, memory: Any, rows: Any) -> dict[str, Any]:
        mask = self._mask(rows)
        weight = ops.cast(mask, memory.dtype)[..., None]
        total = ops.maximum(ops.sum(weight, axis=1), 1.0)
        return {
            "vector": ops.sum(memory * weight, axis=1) / total,
            "history": tuple(crossing.keys_values(memory) for crossing in self.crossings),
            "mask": mask,
        }

    def _write(self, state: Any, codes: Any, training: bool) -> Any:
        """States `[B, l + 1, hidden_size]` that predict codes `[B, l]` and the one after them."""
        known = codes.shape[-1]
        tokens = [
            self.ad_embedding.tables[level](codes[:, level : level + 1]) for level in range(known)
        ]
        x = ops.concatenate([self._starts(ops.shape(codes)[0]), *tokens], axis=1)
        x = self.drop(self.input_norm(x), training=training)
        for i, block in enumerate(self.blocks):
            x = block(x + self.drop(self._asked(i, x, state), training=training), training=training)
        return self.output_norm(x)

    def _starts(self, batch: Any) -> Any:
        """The start token of each request, `[B, 1, hidden_size]`."""
        return ops.broadcast_to(self.start, (batch, 1, self.hidden_size))

    def _asked(self, layer: int, x: Any, state: Any) -> Any:
        """What positions `[B, T, hidden_size]` of the decoder read of the history."""
        seen = self.cross_norms[layer](x)
        return self.crossings[layer](seen, state["history"][layer], state["mask"])

    def user_vector(self, state: Any) -> Any:
        """See `Architecture`."""
        return state["vector"]

    def cached_logits(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """See `Architecture`; the cache holds keys and values per layer, `()` at first."""
        level = prefix.shape[-1]
        if not level:
            return self.out[0](state["first"])[:, None], cache
        x = self.input_norm(self.ad_embedding.tables[level - 1](prefix[..., -1]))
        before = ops.ones_like(state["mask"][:, 0], dtype="int32")
        grown = []
        for i, block in enumerate(self.blocks):
            own = cache[i] if cache else ()
            x = x + self._asked(i, x, state)
            x, keys_values = block.step(x, state["begun"][i], before, own)
            grown.append(keys_values)
        shape = (*ops.shape(x)[:2], self.level_sizes[level])
        logits = self.out[level](flat(self.output_norm(x)))
        return ops.reshape(logits, shape), tuple(grown)
