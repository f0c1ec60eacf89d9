"""The joint objective: both papers' terms over one tokenizer's outputs."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.losses.contrastive import (
    DualTowerContrastive,
    MultiGranularityContrastive,
    granularity_labels,
)
from sid_tfx.losses.reconstruction import CodebookCommitment, Reconstruction
from sid_tfx.losses.repulsion import HammingMarginRepulsion
from sid_tfx.losses.summary import SummaryReconstruction

LOSS_WEIGHTS: Mapping[str, float] = {
    "level_contrastive": 0.3,
    "embedding_contrastive": 1.0,
    "summary": 0.1,
    "reconstruction": 1.0,
    "quantization": 1.0,
    "dual_tower": 0.1,
    "repulsion_full": 2.0,
    "repulsion_partial": 0.2,
}
"""The joint objective's weights.

The papers' own are 1.0 for `level_contrastive` (UniSID), 0.2 for `repulsion_full` and 0.1 for
`repulsion_partial` (QuaSID). Together with UniSID's terms that repulsion is too weak to part ads of
one advertiser and category, so the joint objective shifts the balance.
"""


def complete_loss_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """Returns `LOSS_WEIGHTS` with the given ones in their place.

    Raises:
        ValueError: A weight is negative or its name is unknown.
    """
    given = dict(weights or {})
    unknown = sorted(set(given) - set(LOSS_WEIGHTS))
    if unknown:
        raise ValueError(f"loss_weights has no term {unknown}; it has {list(LOSS_WEIGHTS)}.")
    for name, weight in given.items():
        if weight < 0:
            raise ValueError(f"loss_weights[{name!r}] must not be negative, got {weight}.")
    return {**LOSS_WEIGHTS, **given}


class JointObjective(keras.layers.Layer):
    """Every term of UniSID and QuaSID that the schema and the weights allow.

    A part of `SidTokenizer`, which serializes its arguments; a research script composes the terms
    in `sid_tfx.losses` directly.

    Args:
        schema: The ad's columns.
        sizes: Vocabulary sizes.
        levels: L.
        state_dim: Size of the encoder's states.
        weights: All of `LOSS_WEIGHTS`; 0 leaves a term out.
        temperature: tau of the contrastive terms.
        beta: Weight of the commitment term.
        full_margin: HaMR's margin for equal codes.
        partial_margin: HaMR's margin for codes within `radius`.
        radius: HaMR's R.
        summary_rows: Rows of a batch whose summary is decoded.
        seed: Seed of the summary decoder's weights.
    """

    def __init__(
        self,
        schema: AdSchema,
        sizes: FeatureSizes,
        levels: int,
        state_dim: int,
        weights: Mapping[str, float],
        temperature: float,
        beta: float,
        full_margin: float,
        partial_margin: float,
        radius: int,
        summary_rows: int,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.schema = schema
        self.levels = levels
        self.weights_of_terms = dict(weights)
        self.reconstruction = Reconstruction()
        self.commitment = CodebookCommitment(beta)
        self.level_contrastive = MultiGranularityContrastive(temperature)
        self.pair_contrastive = DualTowerContrastive(temperature)
        self.repulsion = HammingMarginRepulsion(
            full_margin,
            partial_margin,
            radius,
            weights["repulsion_full"],
            weights["repulsion_partial"],
        )
        self.summary: Any = None
        if schema.summary_tokens and weights["summary"]:
            self.summary = SummaryReconstruction(
                sizes.text,
                schema.summary_tokens,
                prefix=levels + 1,
                state_dim=state_dim,
                rows=summary_rows,
                seed=seed,
                name="summary",
            )
        self.built = True

    @property
    def terms(self) -> list[str]:
        """Names of the terms in use."""
        weights = self.weights_of_terms
        possible = {
            "level_contrastive": self.schema.category_depth > 0,
            "embedding_contrastive": True,
            "summary": self.schema.summary_tokens > 0,
            "reconstruction": True,
            "quantization": True,
            "dual_tower": True,
        }
        used = [name for name, able in possible.items() if able and weights[name]]
        if weights["repulsion_full"] or weights["repulsion_partial"]:
            used.append("repulsion")
        return used

    def call(self, features: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the weighted terms, name -> scalar.

        Args:
            features: Transformed features of 2B rows with `ad_row`.
            outputs: What `SidTokenizer` made of them.
        """
        ad_row, weights = features["ad_row"], self.weights_of_terms
        values: dict[str, Any] = {}
        for name in self.terms:
            if name == "level_contrastive":
                advertiser = features.get("advertiser")
                labels = granularity_labels(features["category"], self.levels, advertiser)
                value = self.level_contrastive(outputs["level_vectors"], labels)
            elif name == "embedding_contrastive":
                value = self.pair_contrastive(outputs["embedding"], ad_row)
            elif name == "summary":
                embedding_state = outputs["embedding_state"][:, None]
                states = ops.concatenate([outputs["sid_states"], embedding_state], axis=1)
                value = self.summary(states, features["summary_tokens"])
            elif name == "reconstruction":
                # The embedding is a target here; it learns from its own term.
                target = ops.stop_gradient(outputs["embedding"])
                value = self.reconstruction(target, outputs["sid_embedding"])
            elif name == "quantization":
                value = self.commitment(outputs["level_inputs"], outputs["code_vectors"])
            elif name == "dual_tower":
                value = self.pair_contrastive(outputs["z"], ad_row)
            else:
                value = self.repulsion(outputs["z"], outputs["codes"], ad_row)
            values[name] = weights.get(name, 1.0) * value
        return values
