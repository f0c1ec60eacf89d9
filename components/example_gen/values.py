"""One value at a time: the canonical value of anything a file may hold, or why it is refused.

Each function returns the canonical value or `None` for a missing one, and raises `ValueError`
with the value and the cure for a bad one. `components.example_gen.columns` does the same to whole
columns at once and asks here only about rows that are not plain.
"""

import json
import math
import numbers
from typing import Any

import numpy as np

FLOAT32_MAX = float(np.finfo(np.float32).max)
# Whole floats above this may have lost digits: an id read from one is not the id that was meant.
_EXACT_FLOAT = 2**53


def show(value: Any) -> str:
    """A value for people, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _is_nan(value: Any) -> bool:
    return isinstance(value, (float, np.floating)) and math.isnan(value)


def _string(value: Any) -> str | None:
    """Text as UTF-8-able `str`; whole numbers as their digits; `None` for blank or NaN."""
    if value is None or _is_nan(value):
        return None
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"{show(value)} is not UTF-8; save the file as UTF-8") from error
    if isinstance(value, numbers.Integral) and not isinstance(value, (bool, np.bool_)):
        return str(int(value))
    if isinstance(value, (float, np.floating)):
        if value.is_integer() and abs(float(value)) < _EXACT_FLOAT:
            return str(int(value))
        raise ValueError(f"{show(value)} is a fractional number; write text")
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is of type {type(value).__name__}; write text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{show(value)} is not valid Unicode; save the file as UTF-8") from error
    return value if value.strip() else None


def identifier(value: Any, max_bytes: int) -> str:
    """An id: text or a whole number, kept as it is; never missing, all in one line."""
    text = _string(value)
    if text is None:
        raise ValueError(f"{show(value)} is empty; every row needs an id")
    if "\n" in text or "\r" in text:
        # The servable keeps its ids in a text file, one a line.
        raise ValueError(f"{show(text)} has a line break; write the id in one line")
    size = len(text.encode())
    if size > max_bytes:
        raise ValueError(
            f"{show(text)} is {size:,} bytes long, the limit is {max_bytes:,}; use a shorter id"
        )
    return text


def text(value: Any, max_bytes: int) -> str | None:
    """Text, trimmed to `max_bytes` at a character's boundary."""
    string = _string(value)
    return None if string is None else trim(string, max_bytes)


def trim(string: str, max_bytes: int) -> str:
    """Cuts a string to at most `max_bytes` bytes of UTF-8, never inside a character."""
    return string.encode()[:max_bytes].decode(errors="ignore")


def category_path(value: Any, separator: str, max_bytes: int) -> list[str] | None:
    """A category path, root first: a list, or one string that the separator splits."""
    if value is None or _is_nan(value):
        return None
    if isinstance(value, bytes):
        value = _string(value)
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            value = json_list(value)
        else:
            value = value.split(separator.strip() or separator)
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(
            f"{show(value)} is of type {type(value).__name__}; write a list of names, root first"
        )
    parts = [trim(part.strip(), max_bytes) for part in map(_string, value) if part]
    return [part for part in parts if part] or None


def number(value: Any) -> float | None:
    """A finite float32; NaN counts as missing, as pandas writes it."""
    if isinstance(value, (str, bytes)):
        try:
            value = float(value) if value.strip() else None
        except ValueError as error:
            raise ValueError(f"{show(value)} is not a number") from error
    if value is None or _is_nan(value):
        return None
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__float__"):
        raise ValueError(f"{show(value)} is of type {type(value).__name__}; write a number")
    result = float(value)
    if not abs(result) <= FLOAT32_MAX:
        raise ValueError(f"{show(value)} is not a finite 32-bit number; leave it empty if unknown")
    return result


def weight(value: Any) -> float | None:
    """An event's weight: a finite number of at least 0."""
    result = number(value)
    if result is not None and result < 0:
        raise ValueError(f"{show(value)} is negative; a weight is at least 0")
    return result


def vector(value: Any, size: int) -> np.ndarray | None:
    """A float32 vector of exactly `size` finite numbers; an empty list counts as missing."""
    if value is None or _is_nan(value):
        return None
    if isinstance(value, (str, bytes)):
        value = json_list(value)
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        value = [value]
    if not isinstance(value, (list, tuple, np.ndarray)):
        raise ValueError(
            f"{show(value)} is of type {type(value).__name__}; write a list of {size} numbers"
        )
    if not len(value):
        return None
    if len(value) != size:
        raise ValueError(f"has {len(value)} numbers, the column has {size}")
    try:
        result = np.asarray([np.nan if item is None else item for item in value])
        if result.dtype.kind not in "iuf" or result.ndim != 1:
            raise ValueError
        with np.errstate(over="ignore"):
            result = result.astype(np.float32)
    except ValueError as error:
        raise ValueError(f"{show(value)} holds something other than numbers") from error
    finite = np.isfinite(result)
    if not finite.all():
        position = int(np.argmin(finite))
        raise ValueError(f"has {value[position]} at position {position}; leave the vector out")
    return result


def timestamp(value: Any, earliest: int, latest: int) -> int:
    """Unix seconds within bounds; never missing."""
    given = value
    if isinstance(value, (str, bytes)):
        try:
            value = int(value) if value.strip() else None
        except ValueError:
            try:
                value = float(value)
            except ValueError as error:
                raise ValueError(f"{show(given)} is not a number of Unix seconds") from error
    if value is None or _is_nan(value):
        raise ValueError(f"{show(given)} is empty; every event needs its Unix seconds")
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(
            f"{show(given)} is of type {type(given).__name__}; write whole Unix seconds"
        )
    if isinstance(value, (float, np.floating)) and math.isinf(value):
        raise ValueError(f"{show(given)} is not a time; write whole Unix seconds")
    seconds = math.floor(value)
    if seconds < earliest:
        what = "is negative" if seconds < 0 else f"lies before the earliest allowed, {earliest}"
        raise ValueError(f"{show(given)} {what}; write Unix seconds")
    if seconds > latest:
        for unit, factor in (("milli", 10**3), ("micro", 10**6), ("nano", 10**9)):
            if earliest <= seconds // factor <= latest:
                raise ValueError(f"{show(given)} looks like {unit}seconds, divide by {factor}")
        raise ValueError(
            f"{show(given)} lies past the latest allowed, {latest}; write Unix seconds"
        )
    return seconds


def json_list(value: Any) -> list[Any]:
    """A list that a text format holds as JSON, or as numbers between blanks, `,` or `;`."""
    string = _string(value) or ""
    try:
        if string.lstrip().startswith("["):
            parsed = json.loads(string)
            if isinstance(parsed, list):
                return parsed
        return [float(part) for part in string.replace(",", " ").replace(";", " ").split()]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{show(string)} is not a list; write it as JSON, [..]") from error
