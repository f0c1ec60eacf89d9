"""UniSID's encoder: every level's code logits in one pass."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from sid_tfx.encoders.ad_encoder import AdEncoder
from sid_tfx.encoders.latent import Latent, LatentEncoder, check_sizes
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.transformer import SeededLayers


@keras.saving.register_keras_serializable(package="sid_tfx")
class ParallelEncoder(LatentEncoder):
    """UniSID's encoder with its two linear heads, for a `ParallelQuantizer`.

    The SID state of level l gives that level's logits, the Emb state the embedding; all levels are
    predicted at once from the whole context, without residuals and without codebooks. The loss
    over the category path acts on the logits themselves.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: L, SID states.
        codebook_size: K, logits of a level.
        embedding_dim: D, size of the embedding.
        dim: Size of a token of the encoder.
        layers: Transformer blocks.
        heads: Attention heads; divides `dim`.
        dropout: Dropout rate in the blocks.
        field_dropout: Share of an ad's field tokens hidden in training, which makes two views of
            an ad differ.
        text_tokens: Tokens a text column is pooled to.
        word_dim: Size of a word embedding.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",))
    >>> sizes = FeatureSizes(text=100, categorical={"advertiser": 10})
    >>> encoder = ParallelEncoder(schema, sizes, levels=3, codebook_size=16)
    >>> encoder(empty_features(schema, 2)).level_vectors.shape
    TensorShape([2, 3, 16])

    Reference:
        UniSID, arXiv 2602.10445.
    """

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int,
        codebook_size: int,
        embedding_dim: int = 64,
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
        check_sizes(codebook_size=codebook_size, embedding_dim=embedding_dim)
        make = SeededLayers(seed)
        tower: dict[str, Any] = {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "field_dropout": field_dropout,
            "text_tokens": text_tokens,
            "word_dim": word_dim,
        }
        self.tower = AdEncoder(schema, sizes, levels, **tower, seed=make.seed(), name="tower")
        self.schema, self.sizes = self.tower.schema, self.tower.sizes
        self.logit_heads = [make.dense(codebook_size, name=f"logits_{n}") for n in range(levels)]
        self.embedding_head = make.dense(embedding_dim, name="embedding_head")
        self.levels = levels
        self.latent_dim = levels * codebook_size
        self.level_dim = codebook_size
        self.embedding_dim = self.target_dim = embedding_dim
        self.state_dim = dim
        self._config = {
            **tower,
            "levels": levels,
            "codebook_size": codebook_size,
            "embedding_dim": embedding_dim,
            "seed": seed,
        }
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if self.built:
            return
        for head in [*self.logit_heads, self.embedding_head]:
            head.build((None, self.state_dim))
        self.built = True

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md).

        Args:
            features: Feature name -> tensor.
            training: Whether dropout is on.

        Returns:
            `Latent`; `vectors` are the levels' logits one after the other.
        """
        states = self.tower(features, training=training)
        logits = ops.stack(
            [head(states.sid_states[:, level]) for level, head in enumerate(self.logit_heads)],
            axis=1,
        )
        embedding = ops.normalize(self.embedding_head(states.embedding_state), axis=-1)
        return Latent(
            vectors=ops.reshape(logits, (-1, self.latent_dim)),
            embedding=embedding,
            target=embedding,
            states=ops.concatenate([states.sid_states, states.embedding_state[:, None]], axis=1),
            level_vectors=logits,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "sizes": self.sizes.to_dict(),
            **self._config,
        }
