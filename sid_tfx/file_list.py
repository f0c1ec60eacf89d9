"""The files of a servable with their sizes and checksums.

What an export writes down, a server compares before it loads a version, and whoever builds on one
does (`serving.listed_files`).
"""

from __future__ import annotations

import os
from typing import BinaryIO

import google_crc32c

MANIFEST_FILE = os.path.join("assets.extra", "sid_tfx.json")
"""Where a SavedModel says what it was made from, and lists its files at `files`."""

# One tensor of a large catalogue may be gigabytes.
_PIECE_BYTES = 1 << 22


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
