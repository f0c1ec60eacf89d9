"""A folder of versions as a publisher sees it: one writer at a time, whole versions, pruning."""

from __future__ import annotations

import contextlib
import fcntl
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.whole_version import check_whole
from serving.listed_files import Damaged
from serving.version_dirs import fingerprint, list_versions, recently_written

# Servers take only folders whose whole name is a number.
_LOCK_FILE = ".servable-set.lock"
# Shared by all versions of one push.
_GRAPH_FILE = "saved_model.pb"
_UNFINISHED = re.compile(r"\.\d+\.(partial|pruned)")
# A push that takes longer between two writes is taken for a damaged one.
_SETTLED_SECONDS = 10.0


@dataclass(frozen=True)
class Source:
    """What is built on.

    Args:
        version: its number.
        path: its directory.
        newest: the newest number there is, that of a version that is not whole, too.
        skipped: versions above it that are not whole, and why.
    """

    version: int
    path: Path
    newest: int
    skipped: dict[int, str]


@contextlib.contextmanager
def locked(base_path: Path) -> Iterator[None]:
    """Waits until no other process publishes here, and clears up after one that was killed.

    Raises:
        ValueError: there is no such folder.
    """
    if not base_path.is_dir():
        raise _nothing_pushed(base_path)
    with open(base_path / _LOCK_FILE, "w") as lock:
        # The lock goes with the process, however it ends.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for entry in base_path.iterdir():
            if _UNFINISHED.fullmatch(entry.name):
                shutil.rmtree(entry, ignore_errors=True)
        yield


def newest_whole(base_path: Path) -> Source:
    """The newest version that is whole: what a server serves, if its warm-up passes.

    What is passed over here a server refuses, by the same list. Not so where that list is lost, or
    damage is in what no graph reads, such as the names that are kept with the variables.

    Raises:
        ValueError: there is none, or one is being written.
    """
    versions = list_versions(base_path)
    skipped: dict[int, str] = {}
    for version in sorted(versions, reverse=True):
        path = versions[version]
        try:
            check_whole(path)
        except Damaged as error:
            # Built on the one before, a set would come after this push and hide it for good.
            if recently_written(fingerprint(path), _SETTLED_SECONDS):
                raise ValueError(
                    f"{path} is being written: {error}; call again when that is done"
                ) from error
            skipped[version] = str(error)
        else:
            return Source(version, path, max(versions), skipped)
    if not versions:
        raise _nothing_pushed(base_path)
    reasons = "; ".join(skipped.values())
    raise ValueError(f"no version in {base_path} is whole; push one anew: {reasons}")


def prune_sets(base_path: Path, keep: int) -> list[int]:
    """Removes old versions that differ from a push in their set alone; pushes stay.

    The newest set of every push stays, too: a roll-back to that push is one to its set.

    Args:
        base_path: folder of versions.
        keep: how many of such versions stay, the newest.

    Returns:
        What was removed.
    """
    pushes: dict[tuple[int, int], list[int]] = defaultdict(list)
    versions = list_versions(base_path)
    for version, path in sorted(versions.items()):
        with contextlib.suppress(OSError):
            graph = (path / _GRAPH_FILE).stat()
            pushes[graph.st_dev, graph.st_ino].append(version)
    sets = sorted(version for first, *linked in pushes.values() for version in linked)
    last = {linked[-1] for linked in pushes.values()}
    pruned = [version for version in sets[: max(0, len(sets) - keep)] if version not in last]
    for version in pruned:
        # Gone at once for a server that looks, and not file by file.
        hidden = base_path / f".{version}.pruned"
        versions[version].rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    return pruned


def _nothing_pushed(base_path: Path) -> ValueError:
    return ValueError(f"{base_path} has no version; push one with `python pipeline.py run`")
