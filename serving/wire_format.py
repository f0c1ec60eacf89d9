"""The fields of a serialized protocol buffer, without the code of its message."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BYTES = 10


class Malformed(ValueError):
    """Bytes that are not what they should be."""


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of a message in their order: number and value.

    Raises:
        Malformed: the bytes end within a field, or are no message.
    """
    position = 0
    while position < len(message):
        tag, position = varint(message, position)
        number, kind = tag >> 3, tag & 7
        if not number:
            raise Malformed("a field has no number")
        value: int | bytes
        if kind == _VARINT:
            value, position = varint(message, position)
            yield number, value
            continue
        if kind == _BYTES:
            size, position = varint(message, position)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise Malformed(f"a field is of the unknown kind {kind}")
        content = message[position : position + size]
        if len(content) < size:
            raise Malformed("it ends within a field")
        position += size
        yield number, content if kind == _BYTES else int.from_bytes(content, "little")


def varint(data: bytes, position: int) -> tuple[int, int]:
    """The integer at a position, seven bits a byte, and where it ends.

    Raises:
        Malformed: it does not end.
    """
    value = 0
    for index, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise Malformed("an integer does not end")
