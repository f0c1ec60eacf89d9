"""What every tokenizer of a comparison gets alike: one small recommender and its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pydantic

from pipeline.config import ConfigError

_SIZES = (
    "hidden_size", "num_layers", "num_heads", "mlp_size", "head_size", "head_layers", "dropout",
    "max_history", "catalog_softmax",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Budget:
    """The recommender and its training, the same for every cell.

    The recommender reads codes only, no content vector and no id embedding: only the semantic IDs
    differ between two cells. There is no early stop, so that all train on the same steps.

    Args:
        hidden_size: See `SidRecommender`, as the next five.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        mlp_size: Width of the blocks' MLPs.
        head_size: Width of the level head.
        head_layers: Hidden layers of the level head.
        dropout: Rate in blocks and head. None: so short a training underfits.
        max_history: Newest ads of a history, in training and in evaluation.
        catalog_softmax: See `SidRecommender`.
        positions: Positions per batch.
        epochs: Passes over the training histories.
        learning_rate: AdamW's, at its peak.
        weight_decay: AdamW's.
        warmup_share: Share of the steps with a rising learning rate; a cosine to 0 follows.
        beam_size: Beams of constrained beam search.
        tokenizer_epochs: In place of every preset's own, for trials; 0 keeps them.

    Example:

    >>> Budget().override(["epochs=1"]).epochs
    1
    """

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 2
    mlp_size: int = 256
    head_size: int = 128
    head_layers: int = 2
    dropout: float = 0.0
    max_history: int = 20
    catalog_softmax: bool = True
    positions: int = 2048
    epochs: int = 10
    learning_rate: float = 4e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.05
    beam_size: int = 20
    tokenizer_epochs: int = 0

    def recommender_arguments(self) -> dict[str, Any]:
        """Constructor arguments of the `SidRecommender`, sizes of the catalogue aside."""
        arguments: dict[str, Any] = {name: getattr(self, name) for name in _SIZES}
        return {**arguments, "id_embedding": False, "dense_loss_weight": 0.0}

    def override(self, settings: Sequence[str]) -> Budget:
        """Returns the budget with some fields changed.

        Args:
            settings: `KEY=VALUE` each, KEY a field.

        Raises:
            ConfigError: A field or a value that the budget doesn't take.
        """
        types = {name: type(value) for name, value in dataclasses.asdict(self).items()}
        changed: dict[str, Any] = {}
        for setting in settings:
            name, _, text = setting.partition("=")
            if name not in types:
                raise ConfigError(f"--budget has no key {name!r}; it has {', '.join(types)}")
            try:
                changed[name] = pydantic.TypeAdapter(types[name]).validate_python(text)
            except ValueError:
                kind = types[name].__name__
                raise ConfigError(f"--budget {name} must be of type {kind}, got {text!r}") from None
            if changed[name] < 0:
                raise ConfigError(f"--budget {name} must not be negative, got {text}")
        return dataclasses.replace(self, **changed)
