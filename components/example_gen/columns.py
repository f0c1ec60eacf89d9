"""Whole columns at once: file values to canonical Arrow columns, with the reason of each bad row.

The common case of every column type runs in Arrow and NumPy. What that can't take (mixed types,
numbers as text, rows that fail) goes through `components.example_gen.values` one by one, which is
also where the reasons come from.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from components.example_gen import values as one
from components.example_gen.spec import IngestSpec

BYTES = pa.large_binary()


@dataclasses.dataclass
class Column:
    """A canonical column.

    Attributes:
        array: bytes, float32 or int64, or a list of one of them; null is missing or bad.
        bad: Row -> why it is refused.
        trimmed: Rows whose text was cut.
    """

    array: pa.Array
    bad: dict[int, str] = dataclasses.field(default_factory=dict)
    trimmed: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))


def convert(column: str, given: "pa.Array | list[Any]", spec: IngestSpec) -> Column:
    """Converts one canonical column.

    Args:
        column: A name out of `spec.kept()`.
        given: The file's values, one a row.
        spec: What the column is, and its limits.
    """
    array = _as_arrow(given)
    if array is not None and not _is_utf8(array):
        given, array = _as_bytes(array), None
    if column in ("ad_id", "user_id"):
        return _identifiers(array, given, spec.max_id_bytes)
    if column == "timestamp":
        return _timestamps(array, given, spec)
    if column == "category_path":
        return _category_paths(array, given, spec)
    if column in spec.dense:
        return _vectors(array, given, spec.dense[column])
    if column == "weight":
        return _numbers(array, given, one.weight, least=0.0)
    if column in spec.numeric:
        return _numbers(array, given, one.number, least=-np.inf)
    return _texts(array, given, spec.max_text_bytes)


def _as_arrow(given: "pa.Array | list[Any]") -> "pa.Array | None":
    if isinstance(given, pa.ChunkedArray):
        given = given.combine_chunks()
    if not isinstance(given, pa.Array):
        try:
            given = pa.array(given)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            return None
    if pa.types.is_dictionary(given.type):
        given = given.dictionary_decode()
    return pa.array([None] * len(given), pa.string()) if pa.types.is_null(given.type) else given


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _as_bytes(array: pa.Array) -> pa.Array:
    """Strings as bytes, which can be looked at one by one where they are not UTF-8."""
    nested = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    return array.cast(pa.large_list(BYTES) if nested else BYTES)


def _is_string(array: "pa.Array | None") -> bool:
    return array is not None and (
        pa.types.is_string(array.type) or pa.types.is_large_string(array.type)
    )


def _one_by_one(
    given: "pa.Array | list[Any]", parse: Callable[[Any], Any], dtype: pa.DataType
) -> Column:
    items = given.to_pylist() if isinstance(given, pa.Array) else given
    results: list[Any] = []
    bad: dict[int, str] = {}
    for row, item in enumerate(items):
        try:
            results.append(parse(item))
        except ValueError as error:
            bad[row] = str(error)
            results.append(None)
    return Column(pa.array(results, dtype), bad)


def _reasons(
    rows: np.ndarray, array: pa.Array, parse: Callable[[Any], Any]
) -> tuple[dict[int, str], np.ndarray]:
    bad: dict[int, str] = {}
    for row in rows.tolist():
        try:
            parse(array[row].as_py())
        except ValueError as error:
            bad[row] = str(error)
    mask = np.zeros(len(array), bool)
    mask[list(bad)] = True
    return bad, mask


def _nulled(array: pa.Array, mask: np.ndarray) -> pa.Array:
    if not mask.any():
        return array
    return pc.if_else(pa.array(~mask), array, pa.scalar(None, array.type))


def _mask(array: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(array, False).to_numpy(zero_copy_only=False), bool)


def _blank(array: pa.Array) -> np.ndarray:
    # An empty string has no characters to test, so "is space" is false for it.
    space = pc.or_(pc.utf8_is_space(array), pc.equal(pc.binary_length(array), 0))
    return np.asarray(pc.fill_null(space, True).to_numpy(zero_copy_only=False), bool)


def _binary(array: pa.Array) -> pa.Array:
    return array.cast(pa.large_string()).cast(BYTES)


def _identifiers(array: "pa.Array | None", given: Any, max_bytes: int) -> Column:
    def parse(value: Any) -> str:
        return one.identifier(value, max_bytes)

    if array is not None and pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    if array is None or not _is_string(array):
        column = _one_by_one(given, parse, pa.large_string())
        return Column(_binary(column.array), column.bad)
    long = pc.greater(pc.binary_length(array), max_bytes)
    broken = pc.match_substring_regex(array, r"[\r\n]")
    suspect = _blank(array) | _mask(pc.or_(long, broken))
    bad, mask = _reasons(np.flatnonzero(suspect), array, parse)
    return Column(_nulled(_binary(array), mask), bad)


def _texts(array: "pa.Array | None", given: Any, max_bytes: int) -> Column:
    if array is not None and pa.types.is_integer(array.type):
        array = array.cast(pa.string())
    bad: dict[int, str] = {}
    if array is None or not _is_string(array):
        whole = _one_by_one(given, lambda value: one.text(value, 1 << 62), pa.large_string())
        array, bad = whole.array, whole.bad
    array = _nulled(array.cast(pa.large_string()), _blank(array))
    long = np.flatnonzero(_mask(pc.greater(pc.binary_length(array), max_bytes)))
    if len(long):
        cut = pa.array([one.trim(array[int(row)].as_py(), max_bytes) for row in long], array.type)
        mask = np.zeros(len(array), bool)
        mask[long] = True
        array = pc.replace_with_mask(array, pa.array(mask), cut)
    return Column(array.cast(BYTES), bad, long)


def _numbers(
    array: "pa.Array | None", given: Any, parse: Callable[[Any], Any], least: float
) -> Column:
    numeric = None
    if array is not None and not pa.types.is_boolean(array.type):
        try:
            numeric = array.cast(pa.float64())
        except pa.ArrowException:
            numeric = None
    if numeric is None:
        column = _one_by_one(given, parse, pa.float64())
        return Column(column.array.cast(pa.float32(), safe=False), column.bad)
    assert array is not None
    numbers = numeric.to_numpy(zero_copy_only=False)
    missing = np.isnan(numbers)
    suspect = ~missing & ~((np.abs(numbers) <= one.FLOAT32_MAX) & (numbers >= least))
    bad, mask = _reasons(np.flatnonzero(suspect), array, parse)
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    return Column(pa.array(narrow, mask=missing | mask), bad)


def _timestamps(array: "pa.Array | None", given: Any, spec: IngestSpec) -> Column:
    def parse(value: Any) -> int:
        return one.timestamp(value, spec.min_timestamp, spec.max_timestamp)

    seconds = None if array is None else _seconds(array)
    if seconds is None:
        return _one_by_one(given, parse, pa.int64())
    within = pc.and_(
        pc.greater_equal(seconds, spec.min_timestamp), pc.less_equal(seconds, spec.max_timestamp)
    )
    bad, mask = _reasons(np.flatnonzero(~_mask(within)), seconds, parse)
    return Column(_nulled(seconds, mask), bad)


def _seconds(array: pa.Array) -> "pa.Array | None":
    """Unix seconds as int64, or `None` where the values need a look one by one."""
    kind = array.type
    try:
        if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
            zoned = pa.timestamp("s", kind.tz if pa.types.is_timestamp(kind) else None)
            return array.cast(zoned, safe=False).cast(pa.int64())
        if pa.types.is_integer(kind) or _is_string(array):
            return array.cast(pa.int64())
    except pa.ArrowException:
        return None
    return None


def _category_paths(array: "pa.Array | None", given: Any, spec: IngestSpec) -> Column:
    def parse(value: Any) -> Any:
        return one.category_path(value, spec.category_separator, spec.max_text_bytes)

    if array is not None and _is_string(array):
        text = _binary(array).cast(pa.large_string())
        separator = spec.category_separator.strip() or spec.category_separator
        json_like = _mask(pc.starts_with(pc.utf8_ltrim_whitespace(text), "["))
        array = None if json_like.any() else pc.split_pattern(text, separator)
    plain = (
        array is not None
        and (pa.types.is_list(array.type) or pa.types.is_large_list(array.type))
        and _is_string(array.flatten())
    )
    if array is None or not plain:
        column = _one_by_one(given, parse, pa.large_list(pa.large_string()))
        return Column(column.array.cast(pa.large_list(BYTES)), column.bad)
    counts = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    parts = pc.utf8_trim_whitespace(array.flatten().cast(pa.large_string()))
    if _mask(pc.greater(pc.binary_length(parts), spec.max_text_bytes)).any():
        column = _one_by_one(given, parse, pa.large_list(pa.large_string()))
        return Column(column.array.cast(pa.large_list(BYTES)), column.bad)
    kept = ~_blank(parts)
    owner = np.repeat(np.arange(len(array)), counts)[kept]
    lengths = np.bincount(owner, minlength=len(array))
    return Column(_lists(parts.filter(pa.array(kept)).cast(BYTES), lengths))


def _lists(flat: pa.Array, lengths: np.ndarray) -> pa.Array:
    """Lists of the given lengths out of flat values; length 0 becomes null."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    # Arrow marks a null list by a null in its starting offset.
    nulls = np.append(lengths == 0, False)
    return pa.LargeListArray.from_arrays(pa.array(offsets, mask=nulls), flat)


def _vectors(array: "pa.Array | None", given: Any, size: int) -> Column:
    def parse(value: Any) -> Any:
        return one.vector(value, size)

    is_list = array is not None and (
        pa.types.is_list(array.type)
        or pa.types.is_large_list(array.type)
        or pa.types.is_fixed_size_list(array.type)
    )
    item = array.type.value_type if array is not None and is_list else None
    if array is None or not (item and (pa.types.is_floating(item) or pa.types.is_integer(item))):
        column = _one_by_one(given, parse, pa.large_list(pa.float32()))
        return column
    present = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    taken = array.take(pa.array(present))
    if pa.types.is_fixed_size_list(array.type):
        counts = np.full(len(present), array.type.list_size, np.int64)
    else:
        counts = pc.list_value_length(taken).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = taken.flatten().to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):
        flat = flat.astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    finite = np.ones(len(present), bool)
    filled = counts > 0
    if filled.any():
        finite[filled] = np.logical_and.reduceat(np.isfinite(flat), starts[filled])
    suspect = filled & ((counts != size) | ~finite)
    bad, mask = _reasons(present[suspect], array, parse)
    good = filled & ~mask[present]
    lengths = np.zeros(len(array), np.int64)
    lengths[present[good]] = counts[good]
    return Column(_lists(pa.array(flat[np.repeat(good, counts)]), lengths), bad)
