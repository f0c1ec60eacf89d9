"""The ad encoder: field tokens, then SID tokens, then one Emb token (UniSID)."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from sid_tfx.features import MISSING, AdSchema, FeatureSizes
from sid_tfx.transformer import SeededLayers, TransformerBlock


class AdStates(NamedTuple):
    """What `AdEncoder` returns.

    Attributes:
        sid_states: Hidden states at the SID tokens, float `[B, levels, dim]`.
        embedding_state: Hidden state at the Emb token, float `[B, dim]`.
    """

    sid_states: Any
    embedding_state: Any


@keras.saving.register_keras_serializable(package="sid_tfx")
class WordPooling(keras.layers.Layer):
    """Pools a text's word embeddings to a few vectors, one per learned query.

    Attention cost grows with the square of the tokens; an ad's text says what it says in a few
    vectors, so the transformer reads those in place of every word.

    Args:
        vocabulary_size: Number of word ids.
        word_dim: Size of a word embedding.
        queries: Vectors per text.
        seed: Seed of the initial weights.
    """

    def __init__(
        self, vocabulary_size: int, word_dim: int, queries: int, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.word_dim = word_dim
        self.queries = queries
        self.seed = seed
        make = SeededLayers(seed)
        self.embedding = make.embedding(vocabulary_size, word_dim, name="words")
        self.scores = make.dense(queries, use_bias=False, name="scores")

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables; the input's shape does not matter."""
        self.embedding.build((None, None))
        self.scores.build((None, None, self.word_dim))
        self.built = True

    def call(self, tokens: Any) -> Any:
        """Maps word ids int `[B, n]` to float `[B, queries, word_dim]`."""
        words = self.embedding(tokens)
        absent = ops.cast(ops.equal(tokens, MISSING), words.dtype)[..., None]
        weights = ops.softmax(self.scores(words) - 1e4 * absent, axis=1)
        return ops.matmul(ops.transpose(weights, (0, 2, 1)), words)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "word_dim": self.word_dim,
            "queries": self.queries,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="sid_tfx")
class AdEncoder(keras.layers.Layer):
    """Reads the fields of an ad with a small transformer, trained from scratch.

    The tokens are the fields (a few per text, one per categorical column, per depth of the
    category path, per numeric column and per dense vector), then `levels` learned SID tokens,
    then one learned Emb token. Fields see fields, the SID token of level l sees fields and the
    SID tokens up to l, and the Emb token sees all, so that the embedding is conditioned on the
    semantic ID (UniSID, arXiv 2602.10445, where a multimodal LLM stands in this place). A missing
    field is seen by no token.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: SID tokens.
        dim: Size of a token.
        layers: Transformer blocks.
        heads: Attention heads; divides `dim`.
        dropout: Rate inside the blocks, training only.
        field_dropout: Share of field tokens hidden in training, which makes a second view of an
            ad out of the same features.
        text_tokens: Tokens a text column is pooled to.
        word_dim: Size of a word embedding.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",))
    >>> sizes = FeatureSizes(text=100, categorical={"advertiser": 10})
    >>> encoder = AdEncoder(schema, sizes, levels=3, dim=32)
    >>> encoder(empty_features(schema, 2)).sid_states.shape
    (2, 3, 32)
    """

    built: bool

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int,
        dim: int = 96,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.1,
        field_dropout: float = 0.1,
        text_tokens: int = 2,
        word_dim: int = 64,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, AdSchema) else AdSchema.from_dict(schema)
        self.sizes = sizes if isinstance(sizes, FeatureSizes) else FeatureSizes.from_dict(sizes)
        self.sizes.check(self.schema)
        counts = {"levels": levels, "dim": dim, "layers": layers, "heads": heads}
        for name, value in {**counts, "text_tokens": text_tokens, "word_dim": word_dim}.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if dim % heads:
            raise ValueError(f"heads must divide dim, got heads={heads} and dim={dim}.")
        for name, rate in {"dropout": dropout, "field_dropout": field_dropout}.items():
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {rate}.")
        self.levels = levels
        self.dim = dim
        self.layers = layers
        self.heads = heads
        self.rate = dropout
        self.field_dropout = field_dropout
        self.text_tokens = text_tokens
        self.word_dim = word_dim
        self.seed = seed
        self._make_layers()
        self.build()

    def _make_layers(self) -> None:
        schema, sizes, make = self.schema, self.sizes, SeededLayers(self.seed)
        if schema.text:
            self.words = WordPooling(
                sizes.text, self.word_dim, self.text_tokens, seed=make.seed(), name="text"
            )
            self.word_projection = make.dense(self.dim, name="text_projection")
        self.categorical = [
            make.embedding(sizes.categorical[column], self.dim, name=column)
            for column in schema.categorical
        ]
        if schema.category_depth:
            self.category = make.embedding(sizes.category, self.dim, name="category")
        self.dense = [make.dense(self.dim, name=column) for column in schema.dense]
        self.field_random = keras.random.SeedGenerator(make.seed())
        self.blocks = [
            TransformerBlock(
                self.dim,
                self.heads,
                # No token reads a field after the last block, so it computes none.
                queries=self.levels + 1 if layer == self.layers - 1 else None,
                dropout=self.rate,
                seed=make.seed(),
                name=f"block_{layer}",
            )
            for layer in range(self.layers)
        ]
        self.norm = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")

    @property
    def field_tokens(self) -> int:
        """Number of field tokens of an ad."""
        schema = self.schema
        singles = (schema.categorical, schema.numeric, schema.dense)
        return len(schema.text) * self.text_tokens + schema.category_depth + sum(map(len, singles))

    def build(self, input_shape: Any = None) -> None:
        """Creates every variable; the schema says all there is to know about the shapes."""
        if self.built:
            return
        if self.schema.text:
            self.words.build()
            self.word_projection.build((None, None, self.word_dim))
        for embedding in self.categorical:
            embedding.build((None,))
        if self.schema.category_depth:
            self.category.build((None, None))
        for projection, size in zip(self.dense, self.schema.dense.values(), strict=True):
            projection.build((None, size))
        if self.schema.numeric:
            self.numeric_scale = self.add_weight(
                name="numeric_scale",
                shape=(len(self.schema.numeric), self.dim),
                initializer=keras.initializers.RandomNormal(stddev=0.05, seed=self.seed + 1),
            )
        self.positions = self.add_weight(
            name="positions",
            shape=(self.field_tokens + self.levels + 1, self.dim),
            initializer=keras.initializers.RandomNormal(stddev=0.05, seed=self.seed),
        )
        self.norm.build((None, None, self.dim))
        self.built = True

    def _fields(self, features: Mapping[str, Any]) -> tuple[Any, Any]:
        """Returns field tokens `[B, F, dim]` and whether each is present, bool `[B, F]`."""
        tokens, present = [], []
        for column in self.schema.text:
            ids = features[f"{column}_tokens"]
            tokens.append(self.word_projection(self.words(ids)))
            has_words = ops.any(ops.not_equal(ids, MISSING), axis=-1, keepdims=True)
            present.append(ops.repeat(has_words, self.text_tokens, axis=-1))
        for column, embedding in zip(self.schema.categorical, self.categorical, strict=True):
            ids = features[column]
            tokens.append(embedding(ids)[:, None])
            present.append(ops.not_equal(ids, MISSING)[:, None])
        if self.schema.category_depth:
            tokens.append(self.category(features["category"]))
            present.append(ops.not_equal(features["category"], MISSING))
        if self.schema.numeric:
            tokens.append(features["numeric"][..., None] * self.numeric_scale)
            present.append(ops.greater(features["numeric_present"], 0))
        for column, projection in zip(self.schema.dense, self.dense, strict=True):
            vector = features[column]
            tokens.append(projection(vector)[:, None])
            present.append(ops.any(ops.not_equal(vector, 0), axis=-1, keepdims=True))
        return ops.concatenate(tokens, axis=1), ops.concatenate(present, axis=1)

    def _attention_mask(self, present: Any) -> Any:
        """Returns who sees whom, bool `[B, T, T]`."""
        fields, total = self.field_tokens, self.field_tokens + self.levels + 1
        causal = np.tril(np.ones((total, total), bool))
        causal[:fields, :fields] = True
        learned = ops.ones((ops.shape(present)[0], self.levels + 1), dtype="bool")
        seen = ops.concatenate([present, learned], axis=1)
        # Each token sees itself: an attention row without any key is undefined.
        return ops.logical_or(ops.logical_and(causal, seen[:, None]), np.eye(total, dtype=bool))

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> AdStates:
        """Encodes transformed features, batch first (see docs/architecture.md).

        Args:
            features: Feature name -> tensor; names that the schema does not list are ignored.
            training: Whether dropout is on.

        Returns:
            `AdStates`.

        Raises:
            ValueError: A feature is missing.
        """
        missing = [name for name in self.schema.input_features() if name not in features]
        if missing:
            raise ValueError(f"AdEncoder needs the features {missing}, got {sorted(features)}.")
        tokens, present = self._fields(features)
        if training and self.field_dropout:
            chance = keras.random.uniform(ops.shape(present), seed=self.field_random)
            present = ops.logical_and(present, ops.greater_equal(chance, self.field_dropout))
        learned = ops.zeros((ops.shape(present)[0], self.levels + 1, self.dim), tokens.dtype)
        states = ops.concatenate([tokens, learned], axis=1) + self.positions
        mask = self._attention_mask(present)
        for block in self.blocks:
            states = block(states, attention_mask=mask, training=training)
        # Split and not sliced, as in TransformerBlock.
        sid_states, embedding_state = ops.split(self.norm(states), [self.levels], axis=1)
        return AdStates(sid_states, ops.squeeze(embedding_state, axis=1))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "sizes": self.sizes.to_dict(),
            "levels": self.levels,
            "dim": self.dim,
            "layers": self.layers,
            "heads": self.heads,
            "dropout": self.rate,
            "field_dropout": self.field_dropout,
            "text_tokens": self.text_tokens,
            "word_dim": self.word_dim,
            "seed": self.seed,
        }
