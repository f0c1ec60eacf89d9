"""The file of a servable set.

It is read and written without TensorFlow: a set is switched by a command that is called often and
should not wait for an import ten times as long as its work.
"""

from __future__ import annotations

import io
import json
import os

import numpy as np

from sid_tfx.file_list import describe_file

SERVABLE_SET_FILE = os.path.join("assets", "servable_set.bits")
"""Where a SavedModel holds its servable set."""

LIST_FILE = os.path.join("assets", "servable_set.json")
"""Where it lists that file at `files`, as its export lists all others: a set is switched later."""

FINGERPRINT_SIZE = 16
"""Characters that name the catalogue, at the beginning of the file."""


def write_servable_set(path: str, live: np.ndarray, fingerprint: str) -> None:
    """Writes a servable set: 16 characters that name the catalogue, then one bit an ad.

    Bit `row % 8` (the least significant is bit 0) of byte `row // 8` tells whether the ad of that
    catalogue row may be returned. Line `row` of a SavedModel's `assets/ads.txt` is its id.

    Beside it goes `servable_set.json`, a list of this one file with its size and checksum. Both
    are replaced as a whole and never written in place, so other versions of a servable may
    hard-link the old ones.

    Args:
        path: The file.
        live: bool `(N,)` by catalogue row: whether the ad may be returned.
        fingerprint: Of the catalogue, 16 ASCII characters: `SidCatalog.fingerprint`, which a
            SavedModel's `assets.extra/sid_tfx.json` has at `fingerprints.catalog`.

    Raises:
        ValueError: `live` is no vector of bools, or the fingerprint has another length.

    Example:

    >>> write_servable_set("1/assets/servable_set.bits", np.array([True, False]), "0" * 16)
    """
    flags = np.asarray(live)
    if flags.ndim != 1 or not len(flags) or flags.dtype != np.bool_:
        raise ValueError(
            f"live must be bool (N,), one flag per catalogue row, got {flags.dtype} {flags.shape}."
        )
    data = _header(fingerprint) + np.packbits(flags, bitorder="little").tobytes()
    listed = os.path.join(os.path.dirname(path), os.path.basename(LIST_FILE))
    _replace(path, data)
    _replace(listed, list_servable_set(data).encode())


def read_servable_set(path: str, ads: int) -> tuple[np.ndarray, str]:
    """Reads what `write_servable_set` wrote.

    Args:
        path: The file.
        ads: N, ads in the catalogue.

    Returns:
        bool `(N,)` by catalogue row and the catalogue's fingerprint.

    Raises:
        ValueError: The file is not of N ads.
    """
    with open(path, "rb") as file:
        data = file.read()
    if len(data) != file_size(ads):
        raise ValueError(
            f"{path} has {len(data)} bytes, a servable set of {ads} ads has {file_size(ads)}."
        )
    bits = np.frombuffer(data, np.uint8, offset=FINGERPRINT_SIZE)
    flags = np.unpackbits(bits, count=ads, bitorder="little").astype(bool)
    return flags, data[:FINGERPRINT_SIZE].decode("ascii")


def list_servable_set(data: bytes) -> str:
    """The content of `LIST_FILE` for the content of a servable set."""
    return json.dumps({"files": {SERVABLE_SET_FILE: describe_file(io.BytesIO(data))}}) + "\n"


def file_size(ads: int) -> int:
    """Bytes of the servable set of so many ads."""
    return FINGERPRINT_SIZE + (ads + 7) // 8


def _replace(path: str, data: bytes) -> None:
    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(data)
    os.replace(partial, path)


def _header(fingerprint: str) -> bytes:
    header = fingerprint.encode("ascii", "replace")
    if len(header) != FINGERPRINT_SIZE:
        raise ValueError(
            f"fingerprint must have {FINGERPRINT_SIZE} characters, got {fingerprint!r}; take "
            "SidCatalog.fingerprint."
        )
    return header
