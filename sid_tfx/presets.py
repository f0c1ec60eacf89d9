"""Presets: the published tokenizers, each as encoder, quantizer, losses and training."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import Any

import keras

from sid_tfx.encoders import ENCODERS
from sid_tfx.features import AdSchema, FeatureSizes
from sid_tfx.quantizers import QUANTIZERS, ParallelQuantizer, ResidualQuantizer
from sid_tfx.tokenizer import SidTokenizer

HAMR_WEIGHTS: Mapping[str, float] = {"repulsion_full": 0.2, "repulsion_partial": 0.1}
"""QuaSID's lambda_full and lambda_partial; their margins and radius are SidTokenizer's defaults."""

TOWER_WEIGHTS: Mapping[str, float] = {"embedding_contrastive": 1.0}
"""What says which ads are alike where a tower makes the item vectors; weighted as in `joint`."""


@dataclasses.dataclass(frozen=True)
class Preset:
    """One tokenizer: what it is made of and how it is trained.

    Attributes:
        description: What it is, with its source.
        encoder: Name in `sid_tfx.encoders.ENCODERS`, and arguments.
        quantizer: Name in `sid_tfx.quantizers.QUANTIZERS`, and arguments.
        loss_weights: Term -> weight.
        arguments: Further arguments of `SidTokenizer`.
        epochs: Passes over the ads.
        batch_pairs: Pairs per batch.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
    """

    description: str
    encoder: tuple[str, Mapping[str, Any]]
    quantizer: tuple[str, Mapping[str, Any]]
    loss_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    epochs: int = 60
    batch_pairs: int = 256
    learning_rate: float = 1e-3
    weight_decay: float = 1e-5

    @property
    def collaborative(self) -> bool:
        """Whether it quantizes the column `collaborative_embedding`, which the schema must have."""
        return self.encoder[1].get("vectors") in ("collaborative", "joined")

    @property
    def trains(self) -> bool:
        """Whether it has weights that a gradient moves."""
        return bool(self.loss_weights)


_RQ_VAE = Preset(
    description="RQ-VAE on given item vectors, straight-through (TIGER, arXiv 2305.05065)",
    encoder=("vectors", {"code_dim": 32, "hidden": (512, 256, 128)}),
    quantizer=("residual", {}),
    loss_weights={"reconstruction": 1.0, "quantization": 1.0},
    arguments={"decoder_units": (128, 256, 512)},
)


def _rq_vae(description: str, quantizer: str = "residual", **options: Any) -> Preset:
    """Returns the RQ-VAE with another quantizer and the same encoder, losses and training."""
    return dataclasses.replace(_RQ_VAE, description=description, quantizer=(quantizer, options))


def _kmeans(vectors: str, initialization: str) -> Preset:
    return Preset(
        description=f"residual k-means ({initialization}) on {vectors} vectors, two-stage",
        encoder=("vectors", {"code_dim": 0, "hidden": (), "vectors": vectors}),
        quantizer=("residual", {"initialization": initialization}),
    )


PRESETS: dict[str, Preset] = {
    "joint": Preset(
        description="UniSID's encoder before residual codebooks, both papers' losses (ours)",
        encoder=("joint", {"layers": 1}),
        # Clusters of equal size take K's whole share of the entropy; collisions fall with it.
        quantizer=("residual", {"initialization": "balanced_kmeans"}),
        loss_weights={
            "level_contrastive": 0.3,
            "embedding_contrastive": 1.0,
            "summary": 0.1,
            "reconstruction": 1.0,
            "quantization": 1.0,
            "dual_tower": 0.1,
            # QuaSID's 0.2 is too weak to part ads of one advertiser and category that L_sid pulls.
            "repulsion_full": 2.0,
            # Ads that share a prefix may: pushing them apart costs ranking.
            "repulsion_partial": 0.0,
            "escape": 8.0,
        },
        arguments={
            "mine_conflicts": True,
            "repel_residual": True,
            # The last refit is early: repulsion needs the rest of the epochs to settle codes.
            "refits": (0.2, 0.4),
        },
        epochs=55,
        learning_rate=2e-3,
    ),
    "unisid": Preset(
        description="parallel heads, argmax codes, no codebook (UniSID, arXiv 2602.10445)",
        encoder=("parallel", {}),
        quantizer=("parallel", {}),
        # Reconstruction trains a read-out of the codes; no gradient of it reaches them.
        loss_weights={
            "level_contrastive": 1.0,
            "embedding_contrastive": 1.0,
            "summary": 0.1,
            "reconstruction": 1.0,
        },
        epochs=30,
    ),
    "quasid": dataclasses.replace(
        _RQ_VAE,
        description="RQ-VAE with dual-tower contrast, HaMR and CVPM (QuaSID, arXiv 2603.00632)",
        loss_weights={**_RQ_VAE.loss_weights, "dual_tower": 0.1, **HAMR_WEIGHTS},
    ),
    "rq_vae": _RQ_VAE,
    "rq_vae_rotation": _rq_vae("RQ-VAE with the rotation trick", gradient="rotation"),
    "rq_vae_gumbel": _rq_vae("RQ-VAE with Gumbel-softmax codes", gradient="gumbel"),
    "improved_vqgan": _rq_vae(
        "RQ-VAE with cosine codebooks in a low-dimensional space (arXiv 2110.04627)",
        assignment="cosine",
        factor_dim=8,
    ),
    "rq_opq": _rq_vae(
        "one residual level, then optimized product quantization", "residual_product", rotation=True
    ),
    "grvq": _rq_vae("grouped residual codebooks (arXiv 2305.02765)", "grouped", groups=2),
    "simvq": _rq_vae("linearly reparameterized codebooks (arXiv 2411.02038)", codebook="linear"),
    "letter": dataclasses.replace(
        _RQ_VAE,
        description="RQ-VAE with collaborative alignment and code diversity (arXiv 2405.07314)",
        loss_weights={**_RQ_VAE.loss_weights, "alignment": 0.02, "diversity": 1e-4},
    ),
    "diger": dataclasses.replace(
        _rq_vae("Gumbel exploration with decay, soft backward (DIGER)", gradient="gumbel"),
        arguments={**_RQ_VAE.arguments, "decay_exploration": True},
    ),
    "rq_kmeans": _kmeans("content", "kmeans"),
    "rq_kmeans_balanced": _kmeans("content", "balanced_kmeans"),
    "rq_kmeans_collaborative": _kmeans("collaborative", "kmeans"),
    "rq_kmeans_joined": _kmeans("joined", "kmeans"),
    "rq_kmeans_joined_balanced": _kmeans("joined", "balanced_kmeans"),
}
"""The presets by name."""


def preset(name: str) -> Preset:
    """Returns the preset of a name.

    Raises:
        ValueError: There is none; the message lists the names.
    """
    if name not in PRESETS:
        close = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"No preset {name!r}.{hint} The presets are {', '.join(PRESETS)}.")
    return PRESETS[name]


def _choose_encoder(
    name: str, chosen: Preset, given: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Returns the kind of encoder and its arguments: the preset's own where none is given.

    Raises:
        ValueError: The preset can't have that kind, or the kind not an argument.
    """
    own_kind, own_arguments = chosen.encoder
    kind = given.get("kind", own_kind)
    if kind != own_kind:
        _check_kind(name, chosen, kind)
    set_by_build = {"schema", "sizes", "levels", "codebook_size", "seed", "kwargs"}
    known = set(inspect.signature(ENCODERS[kind]).parameters) - set_by_build
    unknown = sorted(set(given) - known - {"kind"})
    if unknown:
        raise ValueError(
            f"The encoder of {name!r} has no argument {unknown}, it has {sorted(known)}; leave out "
            "what is meant for another preset's encoder."
        )
    kept = {argument: value for argument, value in own_arguments.items() if argument in known}
    changed = {argument: value for argument, value in given.items() if argument != "kind"}
    return kind, {**kept, **changed}


def _check_kind(name: str, chosen: Preset, kind: str) -> None:
    """Checks that a preset can have another kind of encoder than its own.

    Raises:
        ValueError: It can't; the message says why.
    """
    own_kind = chosen.encoder[0]
    if own_kind != "vectors":
        raise ValueError(
            f"The encoder of {name!r} must be of kind {own_kind!r}, got {kind!r}: its quantizer "
            f"and losses read what a {ENCODERS[own_kind].__name__} alone makes. Leave kind out, or "
            "take a preset on item vectors, such as quasid."
        )
    if not chosen.trains:
        raise ValueError(
            f"The encoder of {name!r} must be of kind {own_kind!r}, got {kind!r}: it quantizes "
            "given vectors as they are (two-stage), without a loss that an encoder could learn "
            "from. Take a preset that trains, such as quasid or rq_vae."
        )
    if kind != "tower":
        raise ValueError(
            f"The encoder of {name!r} must be of kind 'vectors' or 'tower', got {kind!r}; the "
            "others are parts of presets of their own, joint and unisid."
        )


def build(
    name: str,
    schema: AdSchema | Mapping[str, Any],
    sizes: FeatureSizes | Mapping[str, Any],
    *,
    levels: int = 3,
    codebook_size: int = 256,
    repulsion: bool | None = None,
    encoder: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    loss_weights: Mapping[str, float] | None = None,
    learning_rate: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    **arguments: Any,
) -> SidTokenizer:
    """Composes and compiles an untrained tokenizer: `SidTokenizer.from_preset`.

    Args:
        name: A name of `PRESETS`.
        schema: The ad's columns.
        sizes: Vocabulary sizes.
        levels: L, codes per ad.
        codebook_size: K, values of a code.
        repulsion: True adds HaMR with CVPM, at QuaSID's weights where the preset has none; False
            takes it away; None leaves the preset as it is.
        encoder: Arguments of the preset's encoder, in place of the preset's. `kind` "tower" puts a
            `TowerEncoder` in the place of given item vectors, in every preset that trains on them;
            it takes the preset's arguments that it has too, and adds `TOWER_WEIGHTS`.
        quantizer: Arguments of the preset's quantizer, in place of the preset's.
        loss_weights: Term -> weight, in place of the preset's.
        learning_rate: Of AdamW, in place of the preset's.
        weight_decay: Of AdamW, in place of the preset's.
        seed: Seed of everything random.
        **arguments: Further arguments of `SidTokenizer`.

    Returns:
        The tokenizer, compiled with the preset's optimizer.

    Raises:
        ValueError: An unknown preset or an argument that it cannot take; HaMR for a preset
            without gradient.

    Example:

    >>> schema = AdSchema(dense={"text_embedding": 384})
    >>> build("rq_vae", schema, FeatureSizes(), codebook_size=64, repulsion=True).objective.terms
    ['reconstruction', 'quantization', 'repulsion']
    """
    chosen = preset(name)
    weights = {**chosen.loss_weights, **(loss_weights or {})}
    if repulsion:
        weights = {**HAMR_WEIGHTS, **weights}
    elif repulsion is False:
        weights |= dict.fromkeys(HAMR_WEIGHTS, 0.0)
    encoder_kind, encoder_arguments = _choose_encoder(name, chosen, encoder or {})
    if encoder_kind == "tower":
        weights = {**TOWER_WEIGHTS, **weights}
    if encoder_kind == "parallel":
        encoder_arguments["codebook_size"] = codebook_size
    made_encoder: Any = ENCODERS[encoder_kind](
        schema, sizes, levels=levels, seed=seed, **encoder_arguments
    )
    kind = QUANTIZERS[chosen.quantizer[0]]
    dim = made_encoder.latent_dim
    if issubclass(kind, ParallelQuantizer):
        dim = made_encoder.embedding_dim
    options = {**chosen.quantizer[1], **(quantizer or {})}
    if made_encoder.coarse_dim and levels > 1 and issubclass(kind, ResidualQuantizer):
        options.setdefault("coarse_dim", made_encoder.coarse_dim)
    made_quantizer = kind(levels, codebook_size, dim, seed=seed + 1, **options)
    tokenizer = SidTokenizer(
        made_encoder,
        made_quantizer,
        weights,
        **{**chosen.arguments, **arguments},
        seed=seed,
        name=name,
    )
    tokenizer.compile(
        keras.optimizers.AdamW(
            chosen.learning_rate if learning_rate is None else learning_rate,
            weight_decay=chosen.weight_decay if weight_decay is None else weight_decay,
            global_clipnorm=1.0,
        )
    )
    return tokenizer
