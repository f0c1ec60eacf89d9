"""The files of a servable with their sizes and checksums: whether a copy of it is whole.

An export writes the list down; whoever builds on a version compares, without TensorFlow, whose
import takes longer than all the rest of a command that is called often.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c

MANIFEST_FILE = os.path.join("assets.extra", "sid_tfx.json")
"""Where a SavedModel says what it was made from, and lists its files at `files`."""

# One tensor of a large catalogue may be gigabytes.
_PIECE_BYTES = 1 << 22


class Damaged(ValueError):
    """A servable lacks something that was exported, or holds something else."""


def describe_file(content: BinaryIO) -> dict[str, int]:
    """Returns the number of bytes left in a file, and their CRC-32C.

    Example:

    >>> import io
    >>> describe_file(io.BytesIO(b"123456789"))
    {'bytes': 9, 'crc32c': 3808858755}
    """
    size = checksum = 0
    while piece := content.read(_PIECE_BYTES):
        size += len(piece)
        checksum = google_crc32c.extend(checksum, piece)
    return {"bytes": size, "crc32c": checksum}


def check_files(folder: Path, described: Mapping[str, Mapping[str, Any]]) -> None:
    """Compares files with what was written down of them.

    Args:
        folder: Where they are.
        described: Path within the folder -> what `describe_file` said.

    Raises:
        Damaged: A file is missing, or is not what was exported; says which.
    """
    for name, want in described.items():
        file = folder / name
        try:
            size = file.stat().st_size
            if size != want["bytes"]:
                raise Damaged(f"{file} has {size} bytes of {want['bytes']}")
            with file.open("rb") as content:
                found = describe_file(content)
        except OSError as error:
            raise Damaged(f"{file} cannot be read: {error.strerror}") from error
        if found != want:
            raise Damaged(f"{file} is damaged: it is not what was exported")
