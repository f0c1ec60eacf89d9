"""Whether the files of a version are what was listed when they were written.

TensorFlow compares checksums of variables and of nothing else: of a vocabulary that lost its end,
or a graph with a flipped byte in a constant, it makes a model that loads and answers wrongly.

Read without TensorFlow and gRPC: a command that is called often compares too, and should not wait
for an import that takes longer than all the rest of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import google_crc32c

MANIFEST = Path("assets.extra", "sid_tfx.json")
# The servable set is switched after the export, which therefore does not list it.
_LISTS = (MANIFEST, Path("assets", "servable_set.json"))
# One tensor of a large catalogue may be gigabytes.
_PIECE_BYTES = 1 << 22


class Damaged(ValueError):
    """A version lacks something that was exported, or holds something else."""


def check_listed(version: Path, is_read: Callable[[str], bool] = lambda name: True) -> None:
    """Compares the files of a version with its lists; a SavedModel without a list passes.

    Args:
        version: its directory.
        is_read: whether a path's checksum is compared; of the others only the size is.

    Raises:
        Damaged: a file is missing, truncated or damaged; says which.
    """
    if not (version / MANIFEST).is_file():
        return
    for name in _LISTS:
        # Servables that were exported before sets had a list are as good as they were.
        if (version / name).is_file():
            _check(version, version / name, is_read)


def _check(version: Path, list_file: Path, is_read: Callable[[str], bool]) -> None:
    try:
        listed = json.loads(list_file.read_bytes()).get("files", {})
        wanted = {name: (int(file["bytes"]), int(file["crc32c"])) for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"{list_file} cannot be read: {error!r}") from error
    for name, (size, checksum) in wanted.items():
        file = version / name
        try:
            found = file.stat().st_size
            if found != size:
                raise Damaged(f"{file} has {found} bytes of {size}")
            if is_read(name) and _checksum(file) != checksum:
                raise Damaged(f"{file} is damaged: its checksum is not what it was")
        except OSError as error:
            raise Damaged(f"{file} cannot be read: {error.strerror}") from error


def _checksum(file: Path) -> int:
    checksum = 0
    with file.open("rb") as content:
        while piece := content.read(_PIECE_BYTES):
            checksum = google_crc32c.extend(checksum, piece)
    return checksum
