"""The interface of every latent encoder: from an ad's features to what a quantizer reads."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from sid_tfx.features import AdSchema
from sid_tfx.transformer import SeededLayers


class Latent(NamedTuple):
    """What a `LatentEncoder` makes of a batch of ads.

    Attributes:
        vectors: float `[B, latent_dim]`, what the quantizer turns into codes.
        embedding: float `[B, embedding_dim]`, of length 1, for retrieval.
        target: float `[B, target_dim]`, what a decoder must rebuild from the codes alone.
        states: float `[B, levels + 1, state_dim]`, the SID states and the Emb state, which the
            summary is written from; None where the encoder has none.
        level_vectors: float `[B, levels, V]`, one vector a level for the contrastive loss over the
            category path; None where the encoder has none.
        z: float `[B, latent_dim]`, `vectors` as losses on the vector itself read them, where their
            gradient goes further back than the quantizer's; None where `vectors` will do.
    """

    vectors: Any
    embedding: Any
    target: Any
    states: Any = None
    level_vectors: Any = None
    z: Any = None


class LatentEncoder(keras.layers.Layer, abc.ABC):
    """Base of latent encoders, the first half of a `SidTokenizer`.

    A subclass implements `call` and sets the sizes below in its constructor, which creates every
    variable: the schema says all there is to know about the shapes.

    Attributes:
        schema: The ad's columns.
        levels: L, codes per ad.
        latent_dim: Size of the vectors to quantize.
        coarse_dim: Leading dimensions of the vectors that say what an ad is; the others only tell
            near-equal ads apart. 0 where the vectors are of one piece.
        embedding_dim: Size of the embedding.
        target_dim: Size of what a decoder rebuilds.
        state_dim: Size of a state; 0 without states.
        level_dim: Size of a level's vector; 0 without level vectors.
        frozen_target: Whether the target is the embedding, which learns from its own loss, so that
            rebuilding must not move it.
        learns_from: Loss terms of which one must have a weight, so that all of the encoder trains;
            empty where reconstruction does it.
    """

    built: bool
    schema: AdSchema
    levels: int
    latent_dim: int
    coarse_dim: int = 0
    embedding_dim: int
    target_dim: int
    state_dim: int = 0
    level_dim: int = 0
    frozen_target: bool = True
    learns_from: tuple[str, ...] = ()

    @property
    def has_weights(self) -> bool:
        """Whether weights stand between an ad's columns and its vectors, frozen ones too.

        Without, the vectors are given ones: no loss has anything to move. A subclass whose only
        weights are statistics of the data returns False.
        """
        return bool(self.weights)

    @abc.abstractmethod
    def call(self, features: Mapping[str, Any], training: bool | None = None) -> Latent:
        """Encodes transformed features, batch first (docs/architecture.md)."""

    def adapt(self, features: Mapping[str, np.ndarray], batch_size: int = 512) -> None:
        """Sets statistics that the encoder takes from data before training; none by default.

        Args:
            features: Feature name -> array `[N, ...]`.
            batch_size: Ads encoded at a time.
        """


def check_sizes(**sizes: int) -> None:
    """Checks that each size is at least 1.

    Raises:
        ValueError: One is not.
    """
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}.")


def make_mlp(make: SeededLayers, hidden: Sequence[int], code_dim: int) -> list[keras.layers.Dense]:
    """Makes the layers from an item vector to the latent vector.

    Args:
        make: Gives their seeds.
        hidden: Width of each hidden layer.
        code_dim: Size of the latent vector; 0 for no layer that makes it.
    """
    layers: list[keras.layers.Dense] = [
        make.dense(width, activation="relu", name=f"mlp_{w}") for w, width in enumerate(hidden)
    ]
    if code_dim:
        layers.append(make.dense(code_dim, name="latent"))
    return layers


def build_mlp(layers: Sequence[keras.layers.Dense], size: int) -> None:
    """Creates the variables of `make_mlp`'s layers.

    Args:
        layers: The layers.
        size: Size of the item vector.
    """
    for layer in layers:
        layer.build((None, size))
        size = layer.units
