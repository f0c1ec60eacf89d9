"""The encoder of RQ-VAE and its relatives: given item vectors through an MLP."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.encoders.latent import Latent, LatentEncoder, build_mlp, check_sizes, make_mlp
from sid_tfx.features import COLLABORATIVE, AdSchema, FeatureSizes
from sid_tfx.transformer import SeededLayers

VECTORS = ("content", "collaborative", "joined")


@keras.saving.register_keras_serializable(package="sid_tfx")
class VectorEncoder(LatentEncoder):
    """Reads the dense columns of an ad, each scaled to length 1, and nothing else of it.

    The embedding is the latent vector on the unit sphere. Without hidden layers and `code_dim` the
    latent vector is the item vector itself, as two-stage methods quantize it.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Ignored; every encoder takes the same two first arguments.
        levels: L, codes per ad.
        code_dim: Size of the latent vector; 0 for the item vector itself.
        hidden: Width of each hidden layer; a decoder mirrors them.
        vectors: Which dense columns: `content`, all but `collaborative_embedding`;
            `collaborative`, that one; or `joined`, all.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The schema has no such column, or an argument is out of its range.

    Example:

    >>> schema = AdSchema(dense={"text_embedding": 384})
    >>> encoder = VectorEncoder(schema, levels=3, code_dim=32, hidden=(256, 128))
    >>> encoder(empty_features(schema, 2)).vectors.shape
    TensorShape([2, 32])

    Reference:
        [Rajput et al., 2023, Recommender Systems with Generative Retrieval](
        https://arxiv.org/abs/2305.05065), RQ-VAE.
    """

    frozen_target = False

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any] | None = None,
        levels: int = 3,
        code_dim: int = 32,
        hidden: Sequence[int] = (512, 256, 128),
        vectors: str = "content",
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema if isinstance(schema, AdSchema) else AdSchema.from_dict(schema)
        if vectors not in VECTORS:
            raise ValueError(f"vectors must be one of {list(VECTORS)}, got {vectors!r}.")
        if code_dim < 0 or (hidden and not code_dim):
            raise ValueError(
                f"code_dim must be at least 1 behind hidden layers, got {code_dim} and "
                f"hidden={tuple(hidden)}; pass hidden=() to quantize the item vectors themselves."
            )
        check_sizes(**{f"hidden[{n}]": width for n, width in enumerate(hidden)}, levels=levels)
        self.columns = _columns(self.schema, vectors)
        self.item_dim = sum(self.schema.dense[column] for column in self.columns)
        self.levels = levels
        self.hidden = tuple(hidden)
        self.vectors = vectors
        self.seed = seed
        self.code_dim = code_dim
        self.mlp = make_mlp(SeededLayers(seed), self.hidden, code_dim)
        self.latent_dim = self.embedding_dim = code_dim or self.item_dim
        self.target_dim = self.item_dim
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if self.built:
            return
        build_mlp(self.mlp, self.item_dim)
        self.built = True

    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md).

        Args:
            features: Feature name -> tensor.
            training: Ignored.

        Returns:
            `Latent` without states and level vectors.

        Raises:
            ValueError: A feature is missing.
        """
        missing = [column for column in self.columns if column not in features]
        if missing:
            raise ValueError(f"VectorEncoder needs the features {missing}, got {sorted(features)}.")
        parts = [to_unit(features[column]) for column in self.columns]
        vectors = item = ops.concatenate(parts, axis=-1)
        for layer in self.mlp:
            vectors = layer(vectors)
        return Latent(vectors=vectors, embedding=to_unit(vectors), target=item)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "levels": self.levels,
            "code_dim": self.code_dim,
            "hidden": self.hidden,
            "vectors": self.vectors,
            "seed": self.seed,
        }


def _columns(schema: AdSchema, vectors: str) -> list[str]:
    wanted = {
        "content": [column for column in schema.dense if column != COLLABORATIVE],
        "collaborative": [column for column in schema.dense if column == COLLABORATIVE],
        "joined": list(schema.dense),
    }[vectors]
    if not wanted or (vectors == "joined" and len(wanted) < 2):
        raise ValueError(
            f"vectors={vectors!r} needs a dense column that the schema lacks; it has "
            f"{list(schema.dense)}. Content vectors come from any '*_embedding' column of the ads; "
            f"{COLLABORATIVE!r} from sid_tfx.datasets.collaborative. Without vectors, take a preset"
            " whose encoder reads the ad's fields, joint or unisid, or one that trains with "
            "encoder={'kind': 'tower'}, which makes vectors of the fields."
        )
    return wanted
