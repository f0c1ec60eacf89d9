"""What an architecture has to do for `SidRecommender`."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from sid_tfx.sequence_model import takes_whole_histories
from sid_tfx.transformer import SeededLayers


class AdInputs(NamedTuple):
    """What is known of the ads of packed histories.

    Attributes:
        rows: int32 `[B, T]` of row + 1, from `pack_history`.
        codes: int32 `[B, T, D]`, all codes, the de-dup token last.
        content: float `[B, T, content_size]`.
        vectors: float `[B, T, hidden_size]`, further vectors of the ads, or None.
        kept: float `[B, T, 1]`, 0 where item dropout hides an ad, or None.
        segments: int32 `[B, T]`, equal where two ads are of one history; None if a row is one.
    """

    rows: Any
    codes: Any
    content: Any
    vectors: Any
    kept: Any
    segments: Any = None


class Architecture(keras.layers.Layer, abc.ABC):
    """Base of the architectures.

    A *user state* is what is computed once per request: any nest of tensors `[B, ...]`. Decoding
    asks for the next code given a state and the codes so far, level by level; the beam search
    and the trie know nothing of the architecture.

    Args:
        level_sizes: Codes per level, the de-dup tokens last.
        content_size: Size of the content vectors.
        hidden_size: Size of the states.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_size: Width of the blocks' MLPs.
        head_size: Width of the level head, where there is one.
        head_layers: Hidden layers of the level head, where there is one.
        max_history: Longest history.
        dropout: Rate.
        seed: Integer.
    """

    one_target = False
    """Whether it trains on `TargetBatches`; otherwise on `SequenceBatches`."""

    def __init__(
        self,
        level_sizes: Sequence[int],
        content_size: int,
        hidden_size: int = 192,
        num_layers: int = 2,
        num_heads: int = 4,
        mlp_size: int = 768,
        head_size: int = 384,
        head_layers: int = 2,
        max_history: int = 50,
        dropout: float = 0.3,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._config: dict[str, Any] = {
            "level_sizes": tuple(int(size) for size in level_sizes),
            "content_size": content_size,
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_size": mlp_size,
            "head_size": head_size,
            "head_layers": head_layers,
            "max_history": max_history,
            "dropout": dropout,
            "seed": seed,
        }
        self.level_sizes: tuple[int, ...] = self._config["level_sizes"]
        self.depth = len(self.level_sizes)
        self.hidden_size = hidden_size
        self.add_layers(SeededLayers(seed), **self._config)

    @abc.abstractmethod
    def add_layers(self, make: SeededLayers, **config: Any) -> None:
        """Makes and builds the layers; the constructor calls it with its arguments."""

    @abc.abstractmethod
    def read(self, ads: AdInputs, training: bool = False) -> Any:
        """States of histories, for the losses."""

    def sequence_logits(self, states: Any, codes: Any, training: bool) -> tuple[list[Any], Any]:
        """Logits of every ad but the first of each history, as the target of those before it.

        Args:
            states: Of `read`.
            codes: int32 `[B, T, D]` of the histories.
            training: Whether to drop.

        Returns:
            Per level, logits of the code `[B * (T - 1), level_sizes[l]]`, and the states
            `[B * (T - 1), hidden_size]` that find the targets by inner product.
        """
        raise ValueError(
            f"{type(self).__name__} trains on one target per example; give fit(x, y) histories and "
            "targets, as sid_tfx.datasets.batches.TargetBatches does."
        )

    def target_logits(
        self, states: Any, rows: Any, codes: Any, training: bool
    ) -> tuple[list[Any], Any]:
        """Logits of one target per history.

        Args:
            states: Of `read`.
            rows: int32 `[B, T]`, packed.
            codes: int32 `[B, D]` of the targets.
            training: Whether to drop.

        Returns:
            Per level, logits of the code `[B, level_sizes[l]]`, and the states `[B, hidden_size]`.
        """
        raise takes_whole_histories(type(self).__name__)

    @abc.abstractmethod
    def user_state(self, ads: AdInputs) -> Any:
        """The user state after the last ad of each history."""

    @abc.abstractmethod
    def user_vector(self, state: Any) -> Any:
        """The part `[B, hidden_size]` of a user state that dense retrieval reads."""

    def next_logits(self, state: Any, prefix: Any) -> Any:
        """Logits of the next code; reads the codes of `prefix` one after the other.

        Args:
            state: Of `user_state`.
            prefix: int32 `[B, W, l]`, the first `l` codes of each beam.

        Returns:
            float `[B, W, level_sizes[l]]`; at level 0, where all beams are equal, `[B, 1, ...]`.
        """
        cache = self.initial_cache(state)
        for level in range(1, prefix.shape[-1]):
            _, cache = self.cached_logits(state, prefix[..., :level], cache)
        return self.cached_logits(state, prefix, cache)[0]

    def initial_cache(self, state: Any) -> Any:
        """What a beam carries from level to level, before the first: nothing by default."""
        return ()

    @abc.abstractmethod
    def cached_logits(self, state: Any, prefix: Any, cache: Any) -> tuple[Any, Any]:
        """As `next_logits`, with a cache in which only the last code of `prefix` is new."""

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), **self._config}


def flat(values: Any) -> Any:
    """`[..., n]` as `[P, n]`."""
    return ops.reshape(values, (-1, values.shape[-1]))
