"""The tower encoder: item vectors that are learned from an ad's fields, then an MLP as RQ-VAE's."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.encoders.latent import Latent, build_mlp, check_sizes, make_mlp
from sid_tfx.encoders.state import StateEncoder
from sid_tfx.features import AdSchema, FeatureSizes


@keras.saving.register_keras_serializable(package="sid_tfx")
class TowerEncoder(StateEncoder):
    """Stands in the place of `VectorEncoder` where the ads have fields and no vectors.

    UniSID's tower makes the embedding of the fields, given vectors among them, and an MLP the
    latent vector of the embedding. The embedding is to the codes what a given vector is: the
    target that a decoder rebuilds from them. So nothing that follows the codes moves it, neither
    as the target nor on the way to the quantizer, or both would be rebuilt best where all ads are
    one point. It learns which ads are alike from `embedding_contrastive`, and from QuaSID's losses
    on the latent vector, `dual_tower` and the repulsion, whose gradient goes through the MLP to
    the tower.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: L, codes per ad, and SID states of the tower.
        code_dim: Size of the latent vector.
        hidden: Width of each hidden layer of the MLP; a decoder mirrors them.
        embedding_dim: D, size of the embedding.
        dim: Size of a token of the encoder.
        layers: Transformer blocks.
        heads: Attention heads; divides `dim`.
        dropout: Dropout rate in the blocks. None by default, as in `JointEncoder`.
        field_dropout: Share of an ad's field tokens hidden in training.
        text_tokens: Tokens a text column is pooled to.
        word_dim: Size of a word embedding.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: An argument is out of its range.

    Example:

    >>> schema = AdSchema(text={"title": 8}, categorical=("advertiser",))
    >>> sizes = FeatureSizes(text=100, categorical={"advertiser": 10})
    >>> encoder = TowerEncoder(schema, sizes, levels=3, code_dim=32, hidden=(64,))
    >>> encoder(empty_features(schema, 2)).vectors.shape
    TensorShape([2, 32])

    Reference:
        QuaSID, arXiv 2603.00632 (encoder, then quantizer); UniSID, arXiv 2602.10445 (the tower).
    """

    learns_from = (
        "embedding_contrastive",
        "summary",
        "dual_tower",
        "repulsion_full",
        "repulsion_partial",
    )

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int,
        code_dim: int = 32,
        hidden: Sequence[int] = (512, 256, 128),
        embedding_dim: int = 64,
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
        check_sizes(code_dim=code_dim, **{f"hidden[{n}]": width for n, width in enumerate(hidden)})
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
        self.hidden = tuple(hidden)
        self.arguments |= {"code_dim": code_dim, "hidden": self.hidden}
        self.mlp = make_mlp(self.make, self.hidden, code_dim)
        self.latent_dim = code_dim
        self.build()

    def heads(self) -> Sequence[keras.layers.Dense]:
        """Returns none: the embedding alone is read on."""
        return ()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if not self.built:
            build_mlp(self.mlp, self.embedding_dim)
        super().build(input_shape)

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md).

        Args:
            features: Feature name -> tensor.
            training: Whether dropout is on.

        Returns:
            `Latent` without level vectors.
        """
        states = self.tower(features, training=training)
        embedding = self.embed(states)
        latent = self.latent(states, embedding, self._compress(ops.stop_gradient(embedding)))
        # The same values with another gradient, which nobody asks for without training.
        return latent._replace(z=self._compress(embedding)) if training else latent

    def _compress(self, embedding: Any) -> Any:
        """Returns the latent vectors, float `[B, code_dim]`, of embeddings."""
        for layer in self.mlp:
            embedding = layer(embedding)
        return embedding
