"""The objective of a tokenizer: the terms of both papers and of LETTER, each by its weight."""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from sid_tfx.encoders.latent import LatentEncoder
from sid_tfx.features import COLLABORATIVE, COLLABORATIVE_DIM, ESCAPE_CODE, AdSchema
from sid_tfx.losses.alignment import CollaborativeAlignment
from sid_tfx.losses.contrastive import (
    DualTowerContrastive,
    MultiGranularityContrastive,
    granularity_labels,
)
from sid_tfx.losses.diversity import CodeDiversity, check_clusters
from sid_tfx.losses.escape import CollisionEscape
from sid_tfx.losses.reconstruction import CodebookCommitment, Reconstruction
from sid_tfx.losses.repulsion import HammingMarginRepulsion
from sid_tfx.losses.summary import SummaryReconstruction
from sid_tfx.quantizers import ParallelQuantizer, Quantizer, VectorQuantizer

TERMS = (
    "level_contrastive",
    "embedding_contrastive",
    "summary",
    "reconstruction",
    "quantization",
    "dual_tower",
    "repulsion_full",
    "repulsion_partial",
    "alignment",
    "diversity",
    "escape",
)
"""Names of the weights; `repulsion_full` and `repulsion_partial` are one term, `repulsion`."""


def check_weights(
    weights: Mapping[str, float], encoder: LatentEncoder, quantizer: Quantizer
) -> dict[str, float]:
    """Returns a weight for every term, 0 where none is given.

    Args:
        weights: Term -> weight.
        encoder: Gives what the terms read.
        quantizer: Gives the codes.

    Raises:
        ValueError: A weight is negative, its name unknown, these parts do not have what the term
            acts on, or the encoder nothing to learn from; the message says why.
    """
    unknown = sorted(set(weights) - set(TERMS))
    if unknown:
        raise ValueError(f"loss_weights has no term {unknown}; it has {list(TERMS)}.")
    lacking = _lacking(encoder, quantizer)
    for name, weight in weights.items():
        if weight < 0:
            raise ValueError(f"loss_weights[{name!r}] must not be negative, got {weight}.")
        if weight and name in lacking:
            raise ValueError(f"loss_weights[{name!r}] must be 0 here: {lacking[name]}.")
    learns = not encoder.learns_from or any(weights.get(name) for name in encoder.learns_from)
    if not learns and encoder.trainable and any(weights.values()):
        raise ValueError(
            f"A {type(encoder).__name__} learns from {', '.join(encoder.learns_from)}, and none of "
            "them has a weight here; give one a weight, such as "
            "loss_weights={'embedding_contrastive': 1.0}, or freeze the encoder."
        )
    return {name: float(weights.get(name, 0.0)) for name in TERMS}


def _lacking(encoder: LatentEncoder, quantizer: Quantizer) -> dict[str, str]:
    """Returns why a term cannot be had, term -> reason."""
    kind = type(encoder).__name__
    if not encoder.has_weights:
        reason = (
            f"this {kind} quantizes given vectors as they are (two-stage, as residual k-means), so "
            "no gradient can move them; take a preset that trains, such as rq_vae"
        )
        return dict.fromkeys(TERMS, reason)
    lacking = {}
    if not encoder.level_dim:
        lacking["level_contrastive"] = f"a {kind} has no vector per level"
    if not encoder.state_dim:
        lacking["summary"] = f"a {kind} has no states to write a summary from"
    if not encoder.frozen_target:
        lacking["embedding_contrastive"] = (
            f"the embedding of a {kind} is the vector it quantizes; dual_tower acts on that"
        )
    if isinstance(quantizer, ParallelQuantizer):
        reason = "a ParallelQuantizer takes the largest logit, it has no code vectors to train"
        lacking |= dict.fromkeys(("quantization", "alignment", "diversity", "escape"), reason)
    if isinstance(quantizer, VectorQuantizer) and quantizer.ema:
        lacking["diversity"] = (
            "learning='ema' moves the codebook by moving averages, which take no gradient; make "
            "the quantizer with learning='gradient'"
        )
    return lacking


def check_codebook(weights: Mapping[str, float], quantizer: Quantizer) -> None:
    """Checks that a codebook that learns by gradient gets one.

    Args:
        weights: All of `TERMS`.
        quantizer: Holds the codebook; a frozen one, or one that no loss trains, is left alone.

    Raises:
        ValueError: No term with a weight reaches it.
    """
    if not isinstance(quantizer, VectorQuantizer) or not quantizer.trainable:
        return
    # The soft gradient of gumbel reaches the codebook from whatever reads the quantized vectors.
    if quantizer.ema or quantizer.soft or not any(weights.values()):
        return
    if not weights["quantization"] and not weights["diversity"]:
        raise ValueError(
            "loss_weights['quantization'] must be above 0 here: of the terms with a weight none "
            "sends a gradient to the codebook, which would stay as it starts. Give it a weight, "
            "make the quantizer with learning='ema', set refits, or freeze the quantizer."
        )


class Objective(keras.layers.Layer):
    """Every term that has a weight and that the ads' columns allow.

    A part of `SidTokenizer`, which serializes its arguments; a research script composes the terms
    in `sid_tfx.losses` directly. Ads without a category path have no `level_contrastive`, ads
    without a summary no `summary`.

    Args:
        encoder: Gives sizes and columns; it is not kept.
        quantizer: Gives levels and sizes; it is not kept.
        weights: All of `TERMS`; 0 leaves a term out.
        temperature: tau of the contrastive terms.
        beta: Weight of the commitment term.
        full_margin: HaMR's margin for equal codes.
        partial_margin: HaMR's margin for codes within `radius`.
        radius: HaMR's R.
        mask_conflicts: Whether HaMR leaves out co-engaged pairs and copies of an ad (CVPM).
        repel_residual: Whether HaMR acts on what the last level quantizes, not on `z`.
        summary_rows: Rows of a batch whose summary is decoded.
        diversity_clusters: Groups of codes per level in LETTER's diversity term.
        seed: Seed of the weights of the terms.
    """

    def __init__(
        self,
        encoder: LatentEncoder,
        quantizer: Quantizer,
        weights: Mapping[str, float],
        temperature: float,
        beta: float,
        full_margin: float,
        partial_margin: float,
        radius: int,
        mask_conflicts: bool,
        repel_residual: bool,
        summary_rows: int,
        diversity_clusters: int,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        schema: AdSchema = encoder.schema
        self.levels = encoder.levels
        self.frozen_target = encoder.frozen_target
        self.loss_weights = dict(weights)
        able = {
            "level_contrastive": schema.category_depth > 0,
            "summary": schema.summary_tokens > 0,
            "repulsion_full": False,
            "repulsion_partial": False,
        }
        self.terms = [name for name in TERMS if weights[name] and able.get(name, True)]
        if weights["repulsion_full"] or weights["repulsion_partial"]:
            self.terms.append("repulsion")
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
            mask_conflicts=mask_conflicts,
        )
        self.escape = CollisionEscape()
        self.summary: Any = None
        if "summary" in self.terms:
            self.summary = SummaryReconstruction(
                encoder.sizes.text,
                schema.summary_tokens,
                prefix=encoder.levels + 1,
                state_dim=encoder.state_dim,
                rows=summary_rows,
                seed=seed,
                name="summary",
            )
        self.repel_residual = repel_residual
        if repel_residual and isinstance(quantizer, ParallelQuantizer):
            raise ValueError(
                "repel_residual must be False here: a ParallelQuantizer takes the largest logit, "
                "it leaves no residual."
            )
        self.alignment: Any = None
        if "alignment" in self.terms:
            self.alignment = CollaborativeAlignment(
                quantizer.dim, COLLABORATIVE_DIM, temperature, seed=seed, name="alignment"
            )
        self.diversity: Any = None
        if "diversity" in self.terms:
            check_clusters(diversity_clusters, quantizer.codebook_size, "diversity_clusters")
            self.diversity = CodeDiversity(
                quantizer.levels,
                quantizer.codebook_size,
                diversity_clusters,
                name="diversity",
            )
        self.built = True

    def call(self, features: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the weighted terms, name -> scalar.

        Args:
            features: Transformed features of 2B rows with `ad_row`.
            outputs: What `SidTokenizer` made of them in training.

        Raises:
            ValueError: `alignment` has a weight and the batch no `collaborative_embedding`.
        """
        ad_row = features["ad_row"]
        values: dict[str, Any] = {}
        for name in self.terms:
            value = getattr(self, f"_{name}")(features, outputs, ad_row)
            # Repulsion weights its two groups itself.
            values[name] = self.loss_weights.get(name, 1.0) * value
        return values

    def _level_contrastive(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        labels = granularity_labels(
            features["category"], self.levels, features.get("advertiser"), ad_row
        )
        return self.level_contrastive(outputs["level_vectors"], labels)

    def _embedding_contrastive(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        return self.pair_contrastive(outputs["embedding"], ad_row)

    def _summary(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        return self.summary(outputs["states"], features["summary_tokens"])

    def _reconstruction(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        target = outputs["target"]
        if self.frozen_target:
            target = ops.stop_gradient(target)
        return self.reconstruction(target, outputs["sid_embedding"])

    def _quantization(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        return self.commitment(outputs["level_inputs"], outputs["code_vectors"])

    def _dual_tower(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        return self.pair_contrastive(outputs["z"], ad_row)

    def _repulsion(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        vectors = outputs["z"]
        if self.repel_residual:
            vectors = ops.unstack(outputs["level_inputs"], axis=1)[-1]
        return self.repulsion(vectors, outputs["codes"], ad_row)

    def _alignment(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        if COLLABORATIVE not in features:
            raise ValueError(
                f"The term 'alignment' needs the feature {COLLABORATIVE!r} in training batches, "
                f"got {sorted(features)}; sid_tfx.datasets.collaborative makes it from pairs."
            )
        return self.alignment(outputs["quantized"], features[COLLABORATIVE], ad_row)

    def _diversity(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        return self.diversity(outputs["codebooks"], outputs["codes"])

    def _escape(self, features: Any, outputs: Any, ad_row: Any) -> Any:
        # Batches of another making than PairBatches name no ad that must move.
        if ESCAPE_CODE not in features:
            return ops.zeros(())
        return self.escape(outputs["last_fits"], features[ESCAPE_CODE])
