"""Switches ads on and off between pushes: a new version that differs in one small file.

Everything else is hard-linked to the version before, so nothing is retrained, traced or copied; a
server loads it like any other version.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from serving.version_dirs import list_versions
from sid_tfx.servable_set_file import SERVABLE_SET_FILE, read_servable_set, write_servable_set

_ADS_FILE = Path("assets") / "ads.txt"
_METADATA_FILE = Path("assets.extra") / "sid_tfx.json"


@dataclass(frozen=True)
class Published:
    """A version that was published.

    Args:
        version: its number.
        ads: ads of the catalogue.
        live: those that may be returned.
        changed: those that may and could not, or the other way round.
        unknown: ids given that the catalogue does not have.
    """

    version: int
    ads: int
    live: int
    changed: int
    unknown: int


def switch_off(ad_ids: Iterable[str]) -> Callable[[np.ndarray], tuple[np.ndarray, int]]:
    """All ads but these."""

    def flags(ads: np.ndarray) -> tuple[np.ndarray, int]:
        named, unknown = _membership(ads, ad_ids)
        return ~named, unknown

    return flags


def only(ad_ids: Iterable[str]) -> Callable[[np.ndarray], tuple[np.ndarray, int]]:
    """These ads and no other."""
    return lambda ads: _membership(ads, ad_ids)


def publish_servable_set(
    base_path: Path, choose: Callable[[np.ndarray], tuple[np.ndarray, int]]
) -> Published:
    """Publishes a version of the newest one's bundle with another servable set.

    Args:
        base_path: folder of numbered versions, on one file system.
        choose: `switch_off(...)` or `only(...)`.

    Raises:
        ValueError: no version there, one without a servable set, or one left without a live ad.
    """
    versions = list_versions(base_path)
    if not versions:
        raise ValueError(f"{base_path} has no version; push one with `python pipeline.py run`")
    newest = max(versions)
    source = versions[newest]
    if not (source / SERVABLE_SET_FILE).is_file():
        raise ValueError(f"{source} has no {SERVABLE_SET_FILE}: it was exported without a set")
    ads = np.array(_lines(source / _ADS_FILE), dtype=object)
    live, unknown = choose(ads)
    if not live.any():
        raise ValueError(f"no ad of the {len(ads):,} in {source} would be live; name other ads")
    before, _ = read_servable_set(str(source / SERVABLE_SET_FILE), len(ads))
    fingerprint = json.loads((source / _METADATA_FILE).read_text())["fingerprints"]["catalog"]
    # A push takes its second as its number; a set published within that second comes after it.
    version = max(newest + 1, int(time.time()))
    staged = base_path / f".{version}.partial"
    try:
        shutil.copytree(source, staged, copy_function=os.link)
        # Written beside the link and renamed over it, so the old version keeps its own.
        write_servable_set(str(staged / SERVABLE_SET_FILE), live, fingerprint)
        staged.rename(base_path / str(version))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Published(version, len(ads), int(live.sum()), int((live != before).sum()), unknown)


def read_ids(path: Path) -> list[str]:
    """Ids from a file, one a line; empty lines are skipped."""
    return [line for line in _lines(path) if line]


def _lines(path: Path) -> list[str]:
    # `str.splitlines` would also split at characters that an id may hold, such as U+2028, and
    # every later line would be another row's.
    lines = path.read_text(encoding="utf-8").split("\n")
    return lines if lines[-1] else lines[:-1]


def _membership(ads: np.ndarray, ad_ids: Iterable[str]) -> tuple[np.ndarray, int]:
    wanted = set(ad_ids)
    named = np.fromiter((ad in wanted for ad in ads), bool, len(ads))
    return named, len(wanted) - int(named.sum())
