"""The joint encoder: UniSID's embedding, and a detail that tells near-equal ads apart."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.encoders.latent import Latent, check_sizes
from sid_tfx.encoders.state import StateEncoder, by_level
from sid_tfx.features import AdSchema, FeatureSizes


@keras.saving.register_keras_serializable(package="sid_tfx")
class JointEncoder(StateEncoder):
    """UniSID's encoder before a vector quantizer.

    What is quantized has two parts. The embedding says what an ad is; its gradient stops here, so
    that codes follow it and don't bend it: a recommender learns from codes in so far as similar
    ads share them. The detail parts ads whose embeddings are almost equal. Each SID state gives a
    part of it, coarse levels longer than fine ones, and each vector column of the ads gives one by
    a linear map: the transformer blurs the small differences that it needs. A quantizer of
    `coarse_dim` shows the detail to its last level alone.

    The embedding is also what a decoder rebuilds from the codes. UniSID's loss over the category
    path acts on heads of its own beside the codes: acting on the vector itself it makes all ads of
    one advertiser and category one point, which no codebook can part.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: L, SID states.
        detail_dim: Size of the detail, and of a level's vector.
        detail_length: Length of the detail; that of the embedding is 1. A longer one leaves fewer
            collisions and ranks less well.
        embedding_dim: D, size of the embedding.
        level_decay: Length of a level's part relative to the level before; the first is 1 long.
        vector_length: Length of the part of a vector column; 0 leaves it out.
        dim: Size of a token of the encoder.
        layers: Transformer blocks.
        heads: Attention heads; divides `dim`.
        dropout: Dropout rate in the blocks. None by default: an encoder that ignores small
            differences cannot give similar ads codes of their own.
        field_dropout: Share of an ad's field tokens hidden in training.
        text_tokens: Tokens a text column is pooled to.
        word_dim: Size of a word embedding.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",))
    >>> sizes = FeatureSizes(text=100, categorical={"advertiser": 10})
    >>> JointEncoder(schema, sizes, levels=3)(empty_features(schema, 2)).vectors.shape
    TensorShape([2, 96])

    Reference:
        UniSID, arXiv 2602.10445 (tokens and states); QuaSID, arXiv 2603.00632 (what follows them).
    """

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int,
        detail_dim: int = 32,
        detail_length: float = 0.8,
        embedding_dim: int = 64,
        level_decay: float = 0.7,
        vector_length: float = 1.0,
        dim: int = 96,
        layers: int = 2,
        heads: int = 4,
        dropout: float = 0.0,
        field_dropout: float = 0.0,
        text_tokens: int = 2,
        word_dim: int = 64,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        check_sizes(detail_dim=detail_dim)
        if detail_length <= 0.0:
            raise ValueError(f"detail_length must be above 0, got {detail_length}.")
        if not 0.0 < level_decay <= 1.0:
            raise ValueError(f"level_decay must be in (0, 1], got {level_decay}.")
        if vector_length < 0.0:
            raise ValueError(f"vector_length must not be negative, got {vector_length}.")
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
        self.arguments |= {
            "detail_dim": detail_dim,
            "detail_length": detail_length,
            "level_decay": level_decay,
            "vector_length": vector_length,
        }
        self.code_heads = [self.make.dense(detail_dim, name=f"code_{n}") for n in range(levels)]
        self.level_heads = [self.make.dense(detail_dim, name=f"level_{n}") for n in range(levels)]
        columns = self.schema.dense if vector_length else {}
        self.vector_heads = {
            column: self.make.dense(detail_dim, use_bias=False, name=f"vector_{column}")
            for column in columns
        }
        self.centering = keras.layers.BatchNormalization(
            momentum=0.95, center=False, scale=False, name="centering"
        )
        self.level_decay = level_decay
        self.vector_length = vector_length
        self.detail_length = detail_length
        self.detail_dim = self.level_dim = detail_dim
        self.coarse_dim = embedding_dim
        self.latent_dim = embedding_dim + detail_dim
        self.build()

    def heads(self) -> Sequence[keras.layers.Dense]:
        """Returns the heads that the detail is summed from, and those of UniSID's loss."""
        return [*self.code_heads, *self.level_heads]

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if not self.built:
            self.centering.build((None, self.detail_dim))
            for column, head in self.vector_heads.items():
                head.build((None, self.schema.dense[column]))
        super().build(input_shape)

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md).

        Args:
            features: Feature name -> tensor.
            training: Whether dropout is on and the batch's own mean centers it.

        Returns:
            `Latent`; `vectors` of length 1.
        """
        states = self.tower(features, training=training)
        embedding = self.embed(states)
        # Repulsion by cosine has no force between vectors that are almost equal. Without the
        # common part that all ads share, near-equal ads start apart, and codes fill the sphere.
        detail = self.centering(self._combine(states.sid_states, features), training=training)
        # On the sphere no term can win by shrinking the vectors, which is how commitment collapses
        # them.
        detail = self.detail_length * to_unit(detail)
        vectors = ops.concatenate([ops.stop_gradient(embedding), detail], axis=-1)
        vectors = vectors / np.hypot(1.0, self.detail_length)
        level_vectors = by_level(self.level_heads, states.sid_states)
        return self.latent(states, embedding, vectors, level_vectors)

    def _combine(self, sid_states: Any, features: Mapping[str, Any]) -> Any:
        """Returns the sum of the levels' and the vector columns' parts, float `[B, detail_dim]`."""
        parts = to_unit(by_level(self.code_heads, sid_states))
        lengths = np.power(self.level_decay, np.arange(self.levels), dtype="float32")
        combined = ops.sum(parts * lengths[:, None], axis=1)
        for column, head in self.vector_heads.items():
            combined += self.vector_length * to_unit(head(features[column]))
        return combined

    def adapt(self, features: Mapping[str, np.ndarray], batch_size: int = 512) -> None:
        """Sets the centering to the mean and variance of these ads.

        They start at 0 and 1, far from what the encoder makes.

        Args:
            features: Feature name -> array `[N, ...]`.
            batch_size: Ads encoded at a time.
        """
        rows = len(next(iter(features.values())))
        parts = []
        for start in range(0, rows, batch_size):
            part = {name: values[start : start + batch_size] for name, values in features.items()}
            combined = self._combine(self.tower(part).sid_states, part)
            parts.append(ops.convert_to_numpy(combined))
        vectors = np.concatenate(parts)
        self.centering.moving_mean.assign(vectors.mean(axis=0))
        self.centering.moving_variance.assign(vectors.var(axis=0) + 1e-6)
