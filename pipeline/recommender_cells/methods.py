"""Which methods there are, and everything that a cell's figures depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

from pipeline.comparison.cells import preset_settings
from pipeline.config import Config, ConfigError

FORMAT = 1
"""Raised when the figures of a record change their meaning: older records become stale."""

BASELINES = ("popularity", "item_knn", "sasrec")
GENERATIVE = ("item_level", "flat", "tiger")
METHODS = (*BASELINES, *GENERATIVE)
SPLITS = ("leave_one_out", "global_time")
MODES = ("generative", "hybrid")
"""Of the generative methods; a baseline has one mode, `""`."""

_UNSEEDED = ("popularity", "item_knn")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One method, trained and measured once.

    Args:
        spec: What the record's key is made from; JSON-able.
    """

    spec: dict[str, Any]

    @property
    def key(self) -> str:
        """16 hex digits that change with anything the figures depend on."""
        return hash_of(self.spec)

    @property
    def stem(self) -> str:
        """Name of the cell's files, without suffix."""
        return "{method}-{split}-seed{seed}".format(**self.spec)

    @property
    def label(self) -> str:
        """What the cell is called on the terminal."""
        return "{method}, {split}, seed {seed}".format(**self.spec)


def make_cells(
    config: Config, data: str, methods: Sequence[str], splits: Sequence[str], seeds: int
) -> list[Cell]:
    """The cells of a table, seed by seed; methods without chance have one seed.

    Args:
        config: Tokenizer, recommender and the rest.
        data: Fingerprint of the input files.
        methods: Of `METHODS`.
        splits: Of `SPLITS`.
        seeds: Seeds per method, from 0 on.

    Raises:
        ConfigError: No method or split, or one that isn't known.
    """
    for kind, given, known in (("method", methods, METHODS), ("split", splits, SPLITS)):
        if not given:
            raise ConfigError(f"--{kind}s names none; there are {', '.join(known)}")
        for name in given:
            if name not in known:
                raise ConfigError(f"--{kind}s: no {kind} {name!r}; there are {', '.join(known)}")
    return [
        Cell(_spec(config, data, method, split, seed))
        for seed in range(seeds)
        for split in splits
        for method in METHODS
        if method in methods and not (seed and method in _UNSEEDED)
    ]


def _spec(config: Config, data: str, method: str, split: str, seed: int) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "format": FORMAT,
        "data": data,
        "split": split,
        "method": method,
        "seed": seed,
    }
    if split == "global_time":
        spec["shares"] = [config.data.validation_share, config.data.test_share]
    if method in _UNSEEDED:
        # All methods are ranked on the same validation users.
        spec["validation_users"] = config.recommender.validation_users
    else:
        settings = config.recommender.model_dump()
        if method == "sasrec":
            # What these say is of the semantic-ID models only.
            settings |= {"architecture": "item_level", "context": [], "arguments": {}}
            for name in ("successors", "dense_weight", "successor_weight"):
                del settings[name]
            # Ids alone are learned slower: with the epochs of the others it would not be done.
            settings |= {name: 2 * settings[name] for name in ("epochs", "patience")}
        else:
            settings["architecture"] = method
        spec["recommender"] = settings
    if method in GENERATIVE:
        spec["beam_size"] = config.servable.beam_size
        # No cell looks for a collapse, so the key has no part in what a cell is.
        spec["tokenizer"] = config.tokenizer.model_dump(exclude={"stop_on_collapse"})
        # In the configuration null is the preset's own, whatever that is.
        spec["preset"] = preset_settings(config.tokenizer.preset)
        spec["pairs"] = config.pairs.model_dump()
        spec["max_dedup"] = config.catalog.max_dedup
        if (backend := os.environ.get("KERAS_BACKEND", "tensorflow")) != "tensorflow":
            spec["backend"] = backend
    # By way of JSON: a tuple must equal the list that a record file gives back.
    return json.loads(json.dumps(spec))


def codes_key(spec: dict[str, Any]) -> str:
    """16 hex digits: equal for cells whose semantic IDs come from one trained tokenizer."""
    log = ("format", "data", "split", "shares", "pairs")
    shared = (*log, "tokenizer", "preset", "seed", "backend")
    return hash_of({name: spec.get(name) for name in shared})


def hash_of(value: Any) -> str:
    """16 hex digits of a JSON-able value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
