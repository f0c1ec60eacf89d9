"""What the encoders over an ad's SID states share: the tower before their heads, and the rest."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from sid_tfx.directions import to_unit
from sid_tfx.encoders.ad_encoder import AdEncoder, AdStates
from sid_tfx.encoders.latent import Latent, LatentEncoder, check_sizes
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.transformer import SeededLayers


class StateEncoder(LatentEncoder):
    """Base of the encoders that read an `AdEncoder`: UniSID's tower, embedding and states.

    A subclass makes its heads with `self.make`, adds its own arguments to `self.arguments`, sets
    `latent_dim` and, if it has any, `level_dim`, and ends its constructor with `self.build()`.

    Args:
        schema: The ad's columns, an `AdSchema` or its `to_dict()`.
        sizes: Vocabulary sizes, a `FeatureSizes` or its `to_dict()`.
        levels: L, SID states.
        embedding_dim: D, size of the embedding.
        tower: Further arguments of `AdEncoder`, as the constructor of the subclass has them.
        seed: Seed of initial weights and dropout.

    Raises:
        ValueError: An argument is out of its range.
    """

    def __init__(
        self,
        schema: AdSchema | Mapping[str, Any],
        sizes: FeatureSizes | Mapping[str, Any],
        levels: int,
        embedding_dim: int,
        tower: Mapping[str, Any],
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_sizes(embedding_dim=embedding_dim)
        self.make = SeededLayers(seed)
        self.tower = AdEncoder(schema, sizes, levels, **tower, seed=self.make.seed(), name="tower")
        self.embedding_head = self.make.dense(embedding_dim, name="embedding_head")
        self.schema, self.sizes = self.tower.schema, self.tower.sizes
        self.levels = levels
        self.embedding_dim = self.target_dim = embedding_dim
        self.state_dim = int(tower["dim"])
        self.arguments = {
            **tower,
            "levels": levels,
            "embedding_dim": embedding_dim,
            "seed": seed,
        }

    @abc.abstractmethod
    def heads(self) -> Sequence[keras.layers.Dense]:
        """Returns the heads of the subclass, each of which reads one state."""

    def build(self, input_shape: Any = None) -> None:
        """Creates the variables."""
        if self.built:
            return
        for head in [*self.heads(), self.embedding_head]:
            head.build((None, self.state_dim))
        self.built = True

    def embed(self, states: AdStates) -> Any:
        """Returns the embedding of what the tower returned, float `[B, embedding_dim]`."""
        return to_unit(self.embedding_head(states.embedding_state))

    def latent(
        self, states: AdStates, embedding: Any, vectors: Any, level_vectors: Any = None
    ) -> Latent:
        """Puts together what a subclass made of the states.

        Args:
            states: What the tower returned.
            embedding: What `embed` made of them.
            vectors: float `[B, latent_dim]`.
            level_vectors: float `[B, levels, level_dim]`; None where the subclass has none.
        """
        return Latent(
            vectors=vectors,
            embedding=embedding,
            target=embedding,
            states=ops.concatenate([states.sid_states, states.embedding_state[:, None]], axis=1),
            level_vectors=level_vectors,
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments, JSON-able."""
        return {
            **super().get_config(),
            "schema": self.schema.to_dict(),
            "sizes": self.sizes.to_dict(),
            **self.arguments,
        }


def by_level(heads: Sequence[keras.layers.Dense], sid_states: Any) -> Any:
    """Applies one head per level, `[B, L, dim]` to `[B, L, units]`."""
    states = ops.unstack(sid_states, axis=1)
    return ops.stack([head(state) for head, state in zip(heads, states, strict=True)], axis=1)
