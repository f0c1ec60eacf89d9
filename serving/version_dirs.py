"""Version directories of a model: which there are, and whether one is still being written."""

from __future__ import annotations

import os
import time
from pathlib import Path

Fingerprint = tuple[tuple[str, int, int], ...]

# What the protos have room for.
MAX_VERSION = 2**63 - 1


def list_versions(base_path: Path) -> dict[int, Path]:
    """The versions under a base path: its sub-directories whose whole name is a number.

    Numbers past `MAX_VERSION` are none, as in TF Serving: no request could name them. A base path
    that is missing or cannot be read has none.
    """
    try:
        entries = sorted(base_path.iterdir())
    except OSError:
        return {}
    return {
        int(entry.name): entry for entry in entries if _is_version(entry.name) and entry.is_dir()
    }


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit() and int(name) <= MAX_VERSION


def fingerprint(path: Path) -> Fingerprint:
    """Names, sizes and times of all files of a version; equal when nothing was written."""
    files = []
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            try:
                stat = os.stat(file)
            except OSError:
                continue
            files.append((file, stat.st_size, stat.st_mtime_ns))
    return tuple(sorted(files))


def recently_written(seen: Fingerprint, seconds: float) -> bool:
    """Whether any file was written within the last `seconds`."""
    newest = max((mtime for _, _, mtime in seen), default=0)
    return time.time_ns() - newest < seconds * 1e9


def has_graph(seen: Fingerprint) -> bool:
    """Whether `saved_model.pb` was among the files; a push writes it last."""
    return any(os.path.basename(file) == "saved_model.pb" for file, _, _ in seen)
