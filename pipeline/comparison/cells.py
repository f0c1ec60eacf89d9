"""Cells: one preset, perhaps with a term added or taken away, trained with one seed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.comparison.budget import Budget
from pipeline.config import ConfigError
from sid_tfx.presets import PRESETS, Preset

FORMAT = 2
"""Raised when the figures of a record change their meaning: older records become stale."""

ABLATED = ("joint", "quasid")
"""The presets that `--ablate` takes apart."""

REPULSION = "+hamr"
NO_REPULSION = "-hamr"
NO_MASK = "-cvpm"
_REPULSION_TERMS = ("repulsion_full", "repulsion_partial")
_TERMS = {
    "-dual_tower": "dual_tower",
    "-multi_granularity": "level_contrastive",
    "-summary": "summary",
}
ABLATIONS = (NO_REPULSION, NO_MASK, *_TERMS)
"""What is taken away, in the order of the table's rows."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """One row of the table.

    Args:
        preset: A key of `PRESETS`.
        ablation: `""`, `REPULSION` or one of `ABLATIONS`.
    """

    preset: str
    ablation: str = ""

    @property
    def label(self) -> str:
        """What the row is called, such as `rq_vae+hamr` or `joint-cvpm`."""
        return self.preset + self.ablation

    def overrides(self) -> dict[str, Any]:
        """Arguments of `SidTokenizer.from_preset` that differ from the preset's own."""
        if self.ablation in (REPULSION, NO_REPULSION):
            return {"repulsion": self.ablation == REPULSION}
        if self.ablation == NO_MASK:
            return {"mask_conflicts": False}
        return {"loss_weights": {_TERMS[self.ablation]: 0.0}} if self.ablation else {}

    def applies(self) -> bool:
        """Whether the preset has what is taken away, or lacks what is added."""
        weights = PRESETS[self.preset].loss_weights
        repels = any(weights.get(term) for term in _REPULSION_TERMS)
        if self.ablation == REPULSION:
            return not repels
        if self.ablation in (NO_REPULSION, NO_MASK):
            return repels
        return not self.ablation or bool(weights.get(_TERMS[self.ablation]))


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training: a variant, a seed, and the settings and data that its figures depend on.

    The library's code is none of them: a record names the source it was made by.

    Args:
        variant: The row it belongs to.
        seed: Of the tokenizer, the recommender and the order of both their batches.
        spec: What the record's key is made from; JSON-able.
    """

    variant: Variant
    seed: int
    spec: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hex digits that change with any setting and with the data."""
        return _hash(self.spec)

    @property
    def stem(self) -> str:
        """Name of the cell's files, without suffix."""
        size = f"L{self.spec['levels']}-K{self.spec['codebook_size']}"
        return f"{self.variant.label}-{size}-seed{self.seed}"


def make_cell(variant: Variant, seed: int, shared: Mapping[str, Any]) -> Cell:
    """Resolves a variant into a cell.

    Args:
        variant: The row.
        seed: The seed.
        shared: What `shared_spec` returned.
    """
    settings = preset_settings(variant.preset)
    settings["epochs"] = shared["budget"]["tokenizer_epochs"] or settings["epochs"]
    spec = {
        **shared,
        "preset": variant.preset,
        "ablation": variant.ablation,
        "overrides": variant.overrides(),
        "settings": settings,
        "seed": seed,
    }
    # By way of JSON: a tuple in a preset must equal the list that a record file gives back.
    return Cell(variant, seed, json.loads(json.dumps(spec)))


def preset_settings(name: str) -> dict[str, Any]:
    """What a preset is today: a cell's figures depend on this and not on its name.

    Args:
        name: A key of `PRESETS`.
    """
    preset: Preset = PRESETS[name]
    settings = {**dataclasses.asdict(preset), "collaborative": preset.collaborative}
    settings.pop("description")
    return settings


def why_stale(kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Why a kept cell is trained again: the keys in which its spec differs from the wanted one."""
    names = dict.fromkeys([*wanted, *kept])
    changed = [name for name in names if kept.get(name) != wanted.get(name)]
    return f"stale ({', '.join(changed)} changed), training again"


def shared_spec(data: str, budget: Budget, levels: int, codebook_size: int) -> dict[str, Any]:
    """What all cells of one table have in common.

    Args:
        data: Fingerprint of both input files.
        budget: The recommender's.
        levels: L.
        codebook_size: K.
    """
    return {
        "format": FORMAT,
        "data": data,
        "budget": dataclasses.asdict(budget),
        "levels": levels,
        "codebook_size": codebook_size,
    }


def table_of(spec: Mapping[str, Any]) -> str:
    """16 hex digits: equal for cells that may stand in one table."""
    return _hash({name: spec[name] for name in shared_spec("", Budget(), 1, 1)})


def choose_variants(
    presets: Sequence[str], ablate: bool = False, with_repulsion: Sequence[str] = ()
) -> list[Variant]:
    """Lists the rows asked for, each once, in the order of `PRESETS`.

    Args:
        presets: Their names.
        ablate: Whether to take `ABLATED` presets apart, where they are among `presets`.
        with_repulsion: Presets to show plain and with HaMR plugged in.

    Raises:
        ConfigError: No preset, one that isn't known, nothing to take apart, or HaMR where it can't
            be plugged in.
    """
    if not [*presets, *with_repulsion]:
        raise ConfigError(f"--presets names none; there are {', '.join(PRESETS)}")
    for name in [*presets, *with_repulsion]:
        if name not in PRESETS:
            raise ConfigError(f"there is no preset {name!r}; there are {', '.join(PRESETS)}")
    for name in with_repulsion:
        if not PRESETS[name].trains:
            raise ConfigError(f"{name} is not trained by gradients, so HaMR can't act on it")
        if not Variant(name, REPULSION).applies():
            raise ConfigError(f"{name} has HaMR already; --ablate shows it without")
    chosen = {Variant(name) for name in [*presets, *with_repulsion]}
    chosen |= {Variant(name, REPULSION) for name in with_repulsion}
    if ablate:
        ablated = [name for name in ABLATED if name in presets]
        if not ablated:
            raise ConfigError(f"--ablate needs one of {', '.join(ABLATED)} among --presets")
        variants = [Variant(name, ablation) for name in ablated for ablation in ABLATIONS]
        chosen |= {variant for variant in variants if variant.applies()}
    return in_order(chosen)


def in_order(variants: Iterable[Variant]) -> list[Variant]:
    """Sorts rows by preset as `PRESETS` does, the plain one first."""
    names, ablations = list(PRESETS), ["", REPULSION, *ABLATIONS]
    return sorted(variants, key=lambda v: (names.index(v.preset), ablations.index(v.ablation)))


def data_fingerprint(*paths: Path) -> str:
    """16 hex digits of the bytes of the input files."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            # One digest a file, so that bytes moved from one to the other change the whole.
            part = hashlib.sha256()
            while block := file.read(1 << 20):
                part.update(block)
        digest.update(part.digest())
    return digest.hexdigest()[:16]


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
