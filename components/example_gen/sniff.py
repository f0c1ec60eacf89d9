"""Looks at the head of a table to say which columns it has and what they are."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import tensorflow as tf

from components.example_gen import values as one
from components.example_gen.readers import Chunk, UnreadableError, list_files, read_chunks
from components.example_gen.spec import MANDATORY
from components.refusal import Refused

TEXT = ("title", "description", "summary")
"""Columns that are text whatever they hold."""

CATEGORICAL = ("advertiser",)
"""Columns that are categories whatever they hold."""

DENSE_SUFFIX = "_embedding"
_HEAD = 2000
_MAX_CATEGORY_WORDS = 4.0


@dataclasses.dataclass(frozen=True)
class SniffedColumn:
    """What a column looks like.

    Attributes:
        name: Canonical name.
        role: `id`, `timestamp`, `event`, `weight`, `text`, `categorical`, `category_path`,
            `numeric`, `dense`, or `unused` where no role fits.
        size: Size of a dense vector, or the longest category path seen; else 0.
    """

    name: str
    role: str
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Sniffed:
    """The columns of a table, by canonical name, in the file's order."""

    columns: dict[str, SniffedColumn]

    def names(self, role: str) -> tuple[str, ...]:
        """The columns of a role, in the file's order."""
        return tuple(name for name, column in self.columns.items() if column.role == role)

    @property
    def dense(self) -> dict[str, int]:
        """Dense column -> size of its vectors."""
        return {name: self.columns[name].size for name in self.names("dense")}

    @property
    def category_depth(self) -> int:
        """Longest category path in the first rows; 0 where the table has no `category_path`."""
        column = self.columns.get("category_path")
        return column.size if column else 0


def sniff_columns(
    pattern: str,
    role: str = "ads",
    columns: Mapping[str, str] | None = None,
    *,
    category_separator: str = " > ",
    file_format: str = "",
) -> Sniffed:
    """Reads the first rows of a table's first file with rows in it.

    Args:
        pattern: A file, a glob or a folder.
        role: `"ads"` or `"events"`, which says what is mandatory.
        columns: Canonical column -> the file's own column name, where they differ.
        category_separator: Splits `category_path` where it is one string.
        file_format: As in `IngestSpec.format`.

    Raises:
        Refused: No file matches, none has a row, none can be read, a mandatory column is missing,
            or `columns` names one that the file lacks.
    """
    own = dict(columns or {})
    chunk, path = _first_chunk(pattern, role, file_format)
    if not len(chunk.rows) and chunk.undecodable:
        row, reason = chunk.undecodable[0]
        raise Refused(f"{path} holds no {role} that can be read: row {row} {reason}.")
    has = ", ".join(f"'{name}'" for name in sorted(chunk.columns))
    for column in dict.fromkeys([*MANDATORY[role], *own]):
        source = own.get(column, column)
        if source not in chunk.columns:
            raise Refused(
                f"{path} has no column '{source}', which is to be '{column}' of the {role}; it "
                f"has {has}. Name the file's own column with data.{role}.columns.{column}=..."
            )
    canonical = {source: column for column, source in own.items()}
    found: dict[str, SniffedColumn] = {}
    for source, given in chunk.columns.items():
        name = canonical.get(source, source)
        if name in own and own[name] != source:
            continue
        found[name] = _sniff(name, given, category_separator)
    return Sniffed(found)


def _first_chunk(pattern: str, role: str, file_format: str) -> tuple[Chunk, str]:
    try:
        files = list_files(pattern)
    except tf.errors.OpError as error:
        raise Refused(
            f"{pattern} can't be listed ({error.message}); set data.{role}.path to local files or "
            "to storage that TensorFlow reads, such as gs://"
        ) from error
    if not files:
        raise Refused(f"No file matches {pattern}; set data.{role}.path to a file or a glob.")
    header = None
    for path in files:
        try:
            for chunk in read_chunks(path, None, file_format):
                if len(chunk.rows) or chunk.undecodable:
                    return chunk, path
                header = header or (chunk, path)
        except UnreadableError as error:
            raise Refused(str(error)) from error
    named = f" but a header with {sorted(header[0].columns)}" if header else ""
    raise Refused(f"{pattern} is empty: no rows in {len(files)} file(s){named}.")


def _sniff(name: str, given: "pa.Array | list[Any]", separator: str) -> SniffedColumn:
    if name in ("ad_id", "user_id"):
        return SniffedColumn(name, "id")
    if name in ("timestamp", "event", "weight"):
        return SniffedColumn(name, name)
    if name == "category_path":
        # Of all rows that were read: a path longer than the longest seen here is cut.
        everything = _head(given, len(given))
        paths = [_or_none(one.category_path, item, separator, 1 << 20) for item in everything]
        return SniffedColumn(name, name, max((len(path) for path in paths if path), default=0))
    head = _head(given, _HEAD)
    if name.endswith(DENSE_SUFFIX):
        size = _common_size(head)
        return SniffedColumn(name, "dense" if size else "unused", size)
    if name in TEXT:
        return SniffedColumn(name, "text")
    if name in CATEGORICAL:
        return SniffedColumn(name, "categorical")
    return SniffedColumn(name, _role_of_values(head))


def _head(given: "pa.Array | list[Any]", rows: int) -> list[Any]:
    if isinstance(given, pa.Array):
        return given.drop_null()[:rows].to_pylist()
    return [item for item in given if item is not None][:rows]


def _or_none(parse: Any, *arguments: Any) -> Any:
    try:
        return parse(*arguments)
    except ValueError:
        return None


def _common_size(head: list[Any]) -> int:
    """The size most vectors have, so that one broken vector does not set it for all."""
    sizes = [_size(item) for item in head]
    present = sorted({size for size in sizes if size})
    return max(present, key=lambda size: (sizes.count(size), -size), default=0)


def _size(item: Any) -> int:
    if isinstance(item, (str, bytes)):
        item = _or_none(one.json_list, item) or []
    return len(item) if isinstance(item, (list, tuple)) else 0


def _role_of_values(head: list[Any]) -> str:
    if not head or any(isinstance(item, (list, tuple, dict, bool)) for item in head):
        return "unused"
    if all(_or_none(one.number, item) is not None for item in head):
        return "numeric"
    texts = [item.decode(errors="replace") if isinstance(item, bytes) else item for item in head]
    if not all(isinstance(item, str) for item in texts):
        return "unused"
    words = sum(len(item.split()) for item in texts) / len(texts)
    repeated = len(set(texts)) <= 0.5 * len(texts)
    # A column of distinct short strings is a name or a link: neither text nor category helps.
    if words > _MAX_CATEGORY_WORDS:
        return "text"
    return "categorical" if repeated else "unused"
