"""Switches ads on and off between pushes: a new version that differs in one small file.

Everything else is hard-linked to the version before, so nothing is retrained, traced or copied; a
server loads it like any other version.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.servable_set_ids import Selection
from pipeline.version_store import Source, locked, newest_whole, prune_sets
from pipeline.whole_version import ADS_FILE
from serving.version_dirs import list_versions
from sid_tfx.file_list import MANIFEST_FILE
from sid_tfx.servable_set_file import SERVABLE_SET_FILE, read_servable_set, write_servable_set

log = logging.getLogger(__name__)

KEEP = 10
_EXAMPLES = 5


@dataclass(frozen=True)
class Published:
    """A version that was published.

    Args:
        version: its number.
        source: the version that it shares all other files with.
        ads: ads of the catalogue.
        live: those that may be returned.
        changed: those that may and could not, or the other way round.
        unknown: ids given that the catalogue does not have.
        skipped: versions newer than `source` that are not whole, and why.
        pruned: old versions that were removed.
    """

    version: int
    source: int
    ads: int
    live: int
    changed: int
    unknown: int
    skipped: Mapping[int, str] = field(default_factory=dict)
    pruned: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Plan:
    base_path: Path
    source: Source
    live: np.ndarray
    changed: int
    unknown: int
    fingerprint: str


def publish_servable_sets(
    base_paths: Mapping[str, Path],
    selection: Selection,
    *,
    allow_unknown: bool = False,
    keep: int = KEEP,
) -> dict[str, Published]:
    """Publishes versions of the newest whole ones' bundles with another servable set.

    Everything is checked and written before the first is published, under one number.

    Args:
        base_paths: by name folders of numbered versions, each on one file system.
        selection: `switch_off(...)` or `only(...)`.
        allow_unknown: whether ids that a catalogue does not have are left out, and not an error.
        keep: versions of earlier sets that stay, see `prune_sets`.

    Returns:
        What was published, by name.

    Raises:
        ValueError: somewhere is no whole version, one without a servable set, one left without a
            live ad or without an ad that is named; or a version was pushed meanwhile.
        OSError: somewhere cannot be written.
    """
    with contextlib.ExitStack() as stack:
        # In one order everywhere, or two callers could wait for each other.
        for base_path in sorted({path.resolve() for path in base_paths.values()}):
            stack.enter_context(locked(base_path))
        # A push takes its second as its number. Taken before the look at what is there, this one
        # cannot come after a push that the look has missed.
        now = int(time.time())
        plans = {name: _plan(path, selection, allow_unknown) for name, path in base_paths.items()}
        version = max(now, *(plan.source.newest + 1 for plan in plans.values()))
        staged = [stack.enter_context(_staged(plan, version)) for plan in plans.values()]
        for plan in plans.values():
            _check_unchanged(plan)
        _publish(staged, version)
        return {
            name: Published(
                version,
                plan.source.version,
                len(plan.live),
                int(plan.live.sum()),
                plan.changed,
                plan.unknown,
                plan.source.skipped,
                _prune(plan.base_path, keep),
            )
            for name, plan in plans.items()
        }


def _plan(base_path: Path, selection: Selection, allow_unknown: bool) -> _Plan:
    source = newest_whole(base_path)
    if not (source.path / SERVABLE_SET_FILE).is_file():
        raise ValueError(f"{source.path} has no {SERVABLE_SET_FILE}: it was exported without a set")
    # Not `str.splitlines`, which would also split at characters that an id may hold, such as
    # U+2028, and every later line would be another row's.
    ads = (source.path / ADS_FILE).read_bytes().decode().split("\n")[:-1]
    live, unknown = selection.flags(ads)
    if unknown and not allow_unknown:
        examples = ", ".join(map(repr, unknown[:_EXAMPLES]))
        more = ", ..." if len(unknown) > _EXAMPLES else ""
        raise ValueError(
            f"{len(unknown):,} of {len(set(selection.ids)):,} ids are not in the catalogue of "
            f"{source.path}: {examples}{more}; correct them, or leave them out with --allow-unknown"
        )
    if not live.any():
        raise ValueError(f"no ad of the {len(ads):,} in {source.path} would be live")
    before, _ = read_servable_set(str(source.path / SERVABLE_SET_FILE), len(ads))
    fingerprint = json.loads((source.path / MANIFEST_FILE).read_text())["fingerprints"]["catalog"]
    changed = int((live != before).sum())
    return _Plan(base_path, source, live, changed, len(unknown), fingerprint)


@contextlib.contextmanager
def _staged(plan: _Plan, version: int) -> Iterator[Path]:
    """The version beside the others, under a name that no server takes; gone if it is not moved."""
    folder = plan.base_path / f".{version}.partial"
    try:
        shutil.copytree(plan.source.path, folder, copy_function=os.link)
        # Written beside the link and renamed over it, so the old version keeps its own.
        write_servable_set(str(folder / SERVABLE_SET_FILE), plan.live, plan.fingerprint)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(staged: Sequence[Path], version: int) -> None:
    """Moves all versions to where servers look, or takes back those that were moved."""
    with contextlib.ExitStack() as undo:
        for folder in staged:
            published = folder.rename(folder.with_name(str(version)))
            undo.callback(published.rename, folder)
        undo.pop_all()


def _prune(base_path: Path, keep: int) -> tuple[int, ...]:
    """Old sets that were removed; an error is no reason to fail, for the new set is live."""
    try:
        return tuple(prune_sets(base_path, keep))
    except OSError as error:
        log.warning("%s: old sets stay, the next call removes them: %s", base_path, error)
        return ()


def _check_unchanged(plan: _Plan) -> None:
    """A push in the meantime has other ads, and would be hidden by a version that comes after."""
    newest = max(list_versions(plan.base_path), default=0)
    if newest != plan.source.newest:
        raise ValueError(f"{plan.base_path / str(newest)} was pushed meanwhile; call again")
