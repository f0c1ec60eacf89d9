"""The variables of a SavedModel: whether their files are whole, without TensorFlow.

`variables.index` is a table of LevelDB's format: name -> where in the data files a tensor is and
its checksum.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import google_crc32c

from serving.wire_format import Malformed, fields, varint

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
# Type of compression, which TensorFlow never uses here, and a checksum.
_TRAILER_BYTES = 5
_CHECKSUM_MASK = 0xA282EAD8
_PIECE_BYTES = 1 << 20
# What these hold is not what their checksum is of.
_STRING, _RESOURCE, _VARIANT = 7, 20, 21
_SHARDS = 1
_DTYPE, _SHARD, _OFFSET, _SIZE, _CHECKSUM = 1, 3, 4, 5, 6


@dataclass(frozen=True)
class _Tensor:
    name: str
    shard: int
    begin: int
    end: int
    checksum: int | None


def check_bundle(prefix: Path) -> None:
    """Checks that the files of a tensor bundle are there and hold what its index says.

    Args:
        prefix: what their names begin with, `variables/variables` in a SavedModel.

    Raises:
        Malformed: a file is missing, too short, or is not what was written.
    """
    index = prefix.with_name(f"{prefix.name}.index")
    try:
        entries = list(_entries(index.read_bytes()))
        if not entries or entries[0][0]:
            raise Malformed("it has no header")
        shards = int(dict(fields(entries[0][1])).get(_SHARDS, 0))
        tensors = [_tensor(name, value) for name, value in entries[1:]]
    except OSError as error:
        raise Malformed(f"{index} cannot be read: {error.strerror}") from error
    except Malformed as error:
        raise Malformed(f"{index} is damaged: {error}") from error
    for shard in range(shards):
        file = prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}")
        _check_shard(file, [tensor for tensor in tensors if tensor.shard == shard])


def _check_shard(file: Path, tensors: list[_Tensor]) -> None:
    needed = max((tensor.end for tensor in tensors), default=0)
    try:
        with open(file, "rb") as data:
            found = data.seek(0, io.SEEK_END)
            if found < needed:
                raise Malformed(f"{file} has {found} bytes of {needed}")
            for tensor in tensors:
                if tensor.checksum not in (None, _checksum(data, tensor)):
                    raise Malformed(f"{file} is damaged: {tensor.name} is not what was written")
    except OSError as error:
        raise Malformed(f"{file} cannot be read: {error.strerror}") from error


def _checksum(data: BinaryIO, tensor: _Tensor) -> int:
    data.seek(tensor.begin)
    found, left = 0, tensor.end - tensor.begin
    # Piece by piece: one tensor of a large catalogue may be gigabytes.
    while piece := data.read(min(left, _PIECE_BYTES)):
        found = google_crc32c.extend(found, piece)
        left -= len(piece)
    return _masked(found)


def _tensor(name: bytes, entry: bytes) -> _Tensor:
    values = dict(fields(entry))
    begin, size = int(values.get(_OFFSET, 0)), int(values.get(_SIZE, 0))
    checksum = values.get(_CHECKSUM)
    if not size or values.get(_DTYPE) in (_STRING, _RESOURCE, _VARIANT):
        checksum = None
    return _Tensor(
        name.decode("utf-8", "replace"),
        int(values.get(_SHARD, 0)),
        begin,
        begin + size,
        None if checksum is None else int(checksum),
    )


def _entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or struct.unpack("<Q", footer[-8:])[0] != _MAGIC:
        raise Malformed("it does not end as it should")
    position = 0
    for _ in range(2):  # The first block has nothing about the data.
        _, position = varint(footer, position)
    # A handle is an offset and a size; the footer has two of them.
    for _, handle in _block_entries(_block(table, footer[position:])):
        yield from _block_entries(_block(table, handle))


def _block(table: bytes, handle: bytes) -> bytes:
    offset, position = varint(handle, 0)
    size, _ = varint(handle, position)
    end = offset + size
    trailer = table[end : end + _TRAILER_BYTES]
    if len(trailer) < _TRAILER_BYTES or trailer[0]:
        raise Malformed("a block of it is missing")
    if _masked(google_crc32c.value(table[offset : end + 1])) != struct.unpack("<I", trailer[1:])[0]:
        raise Malformed("a block of it is not what was written")
    return table[offset:end]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A block has entries, each without what its key shares with the one before, then restarts."""
    restarts = struct.unpack("<I", block[-4:])[0]
    end, position, key = len(block) - 4 * (restarts + 1), 0, b""
    while position < end:
        shared, position = varint(block, position)
        own, position = varint(block, position)
        length, position = varint(block, position)
        key = key[:shared] + block[position : position + own]
        position += own + length
        yield key, block[position - length : position]


def _masked(checksum: int) -> int:
    """As LevelDB writes checksums, so that one of data with checksums in it is none of its own."""
    return (((checksum >> 15) | (checksum << 17)) + _CHECKSUM_MASK) & 0xFFFFFFFF
