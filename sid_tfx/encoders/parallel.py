"""UniSID's encoder: every level's code logits in one pass."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.encoders.latent import Latent, check_sizes
from sid_tfx.encoders.state import StateEncoder, by_level
from sid_tfx.features import AdSchema, FeatureSizes


@keras.saving.register_keras_serializable(package="sid_tfx")
class ParallelEncoder(StateEncoder):
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
        check_sizes(codebook_size=codebook_size)
        tower = {
            "dim": dim,
            "layers": layers,
            "heads": heads,
            "dropout": dropout,
            "field_dropout": field_dropout,
            "text_tokens": text_tokens,
            "word_dim": word_dim,
        }
        super().__init__(schema, sizes, levels, embedding_dim, tower, seed, **kwargs)
        self.arguments |= {"codebook_size": codebook_size}
        self.logit_heads = [
            self.make.dense(codebook_size, name=f"logits_{n}") for n in range(levels)
        ]
        self.latent_dim = levels * codebook_size
        self.level_dim = codebook_size
        self.build()

    def heads(self) -> Sequence[keras.layers.Dense]:
        """Returns the levels' logit heads."""
        return self.logit_heads

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md).

        Args:
            features: Feature name -> tensor.
            training: Whether dropout is on.

        Returns:
            `Latent`; `vectors` are the levels' logits one after the other.
        """
        states = self.tower(features, training=training)
        logits = by_level(self.logit_heads, states.sid_states)
        vectors = ops.reshape(logits, (-1, self.latent_dim))
        return self.latent(states, self.embed(states), vectors, logits)
