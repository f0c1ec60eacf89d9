"""Files to chunks of columns: Parquet, JSON Lines, CSV and TFRecord, compressed or not."""

import bz2
import csv
import dataclasses
import gzip
import io
import itertools
import json
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
import zstandard
from apache_beam.io.filesystem import CompressionTypes
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.tfrecordio import _TFRecordUtil

CHUNK_ROWS = 8192

_SUFFIXES = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
_DECOMPRESS: dict[str, Callable[..., Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": zstandard.open,
}
# A field longer than this is a lost quotation mark, not a title.
_MAX_CSV_FIELD = 64 << 20


class UnreadableError(Exception):
    """A file that cannot be read on; the message is a sentence for people."""


@dataclasses.dataclass
class Chunk:
    """Some rows of a file.

    Attributes:
        columns: The file's own column name -> one value a row; `None` is missing.
        rows: Row numbers as people count them: the line in JSON Lines and CSV (whose header is
            line 1), else the record, from 1. int64, shape `[rows]`.
        undecodable: Row number and reason of the rows that could not be decoded.
    """

    columns: dict[str, "pa.Array | list[Any]"]
    rows: np.ndarray
    undecodable: list[tuple[int, str]] = dataclasses.field(default_factory=list)


def list_files(pattern: str) -> list[str]:
    """Files of a glob, or of a folder, sorted; marker files such as `_SUCCESS` left out."""
    if tf.io.gfile.isdir(pattern):
        pattern = os.path.join(pattern, "*")
    return sorted(
        path
        for path in tf.io.gfile.glob(pattern)
        if not os.path.basename(path).startswith(("_", ".")) and not tf.io.gfile.isdir(path)
    )


def read_chunks(
    path: str, columns: Sequence[str] | None = None, file_format: str = ""
) -> Iterator[Chunk]:
    """Reads a file in chunks of at most `CHUNK_ROWS` rows.

    Args:
        path: One file. `.gz`, `.bz2`, `.xz` and `.zst` are decompressed.
        columns: The columns wanted; the others may be skipped. `None` for all.
        file_format: `"parquet"`, `"jsonl"`, `"csv"` or `"tfrecord"`; told by name, then content,
            if empty.

    Raises:
        UnreadableError: The file is damaged, cut short or of an unknown format.
    """
    if tf.io.gfile.stat(path).length == 0:
        return
    row = 0
    try:
        with _open(path) as stream:
            kind = file_format or _format_of(path, stream)
            for chunk in _READERS[kind](path, stream, columns):
                row = int(chunk.rows[-1]) if len(chunk.rows) else row
                yield chunk
    except UnreadableError:
        raise
    except (OSError, EOFError, ValueError, pa.ArrowException, lzma.LZMAError,
            zstandard.ZstdError) as error:  # fmt: skip
        raise UnreadableError(
            f"{path} can't be read past row {row} ({error}); write the file again or leave it out."
        ) from error


def _open(path: str) -> Any:
    # FileSystems opens gs:// and s3:// paths too, but its own decompression reads lines slowly.
    raw = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
    suffix = os.path.splitext(path)[1].lower()
    opener = _DECOMPRESS.get(suffix)
    stream = opener(raw, "rb") if opener else raw
    return stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)


def _format_of(path: str, stream: Any) -> str:
    name = os.path.basename(path).lower()
    stem, suffix = os.path.splitext(name)
    if suffix in _DECOMPRESS:
        suffix = os.path.splitext(stem)[1]
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    head = stream.peek(12)[:12]
    if head.startswith(b"PAR1"):
        return "parquet"
    if head.lstrip().startswith(b"{"):
        return "jsonl"
    if len(head) == 12 and _TFRecordUtil._masked_crc32c(head[:8]) == int.from_bytes(
        head[8:], "little"
    ):
        return "tfrecord"
    raise UnreadableError(
        f"{path} is neither Parquet, JSON Lines, CSV nor TFRecord by its name or content; name it "
        f"with one of the suffixes {sorted(_SUFFIXES)}, .gz after it where compressed."
    )


def _read_parquet(path: str, stream: Any, columns: Sequence[str] | None) -> Iterator[Chunk]:
    seekable = stream.seekable() and os.path.splitext(path)[1].lower() not in _DECOMPRESS
    file = pq.ParquetFile(stream if seekable else io.BytesIO(stream.read()))
    names = file.schema_arrow.names
    wanted = [name for name in names if columns is None or name in columns]
    if not wanted:
        # No batch would come, and with it no word on which columns there are.
        yield Chunk({name: [] for name in names}, np.zeros(0, np.int64))
        return
    start = 1
    for batch in file.iter_batches(batch_size=CHUNK_ROWS, columns=wanted):
        # A wanted name may also match the prefix of a nested column: pick by exact name.
        arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
        yield Chunk(
            {name: arrays[name] for name in wanted},
            np.arange(start, start + batch.num_rows, dtype=np.int64),
        )
        start += batch.num_rows


def _read_jsonl(path: str, stream: Any, columns: Sequence[str] | None) -> Iterator[Chunk]:
    del path, columns
    lines = enumerate(stream, start=1)
    while block := list(itertools.islice(lines, CHUNK_ROWS)):
        records, rows, undecodable = [], [], []
        for row, line in block:
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                undecodable.append((row, f"is not JSON in UTF-8 ({error}): {line[:60]!r}"))
                continue
            if not isinstance(record, dict):
                undecodable.append((row, f"is not a JSON object: {line[:60]!r}"))
                continue
            records.append(record)
            rows.append(row)
        yield _chunk_of_records(records, rows, undecodable)


def _chunk_of_records(
    records: list[dict[str, Any]], rows: list[int], undecodable: list[tuple[int, str]]
) -> Chunk:
    names = dict.fromkeys(name for record in records for name in record)
    return Chunk(
        {name: [record.get(name) for record in records] for name in names},
        np.asarray(rows, np.int64),
        undecodable,
    )


def _read_csv(path: str, stream: Any, columns: Sequence[str] | None) -> Iterator[Chunk]:
    csv.field_size_limit(_MAX_CSV_FIELD)
    # Undecodable bytes come through as lone surrogates and are found as such below.
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(text, delimiter="\t" if ".tsv" in path.lower() else ",")
    header = next(reader, [])
    keep = [i for i, name in enumerate(header) if columns is None or name in columns]
    seen = False
    while True:
        records, rows, undecodable = _csv_block(reader, len(header))
        if not records and not undecodable:
            break
        seen = True
        values = list(zip(*records, strict=True)) or [()] * len(header)
        yield Chunk(
            {header[i]: [value or None for value in values[i]] for i in keep},
            np.asarray(rows, np.int64),
            undecodable,
        )
    if not seen:
        yield Chunk({header[i]: [] for i in keep}, np.zeros(0, np.int64))


def _csv_block(reader: Any, width: int) -> tuple[list[list[str]], list[int], list[tuple[int, str]]]:
    records: list[list[str]] = []
    rows: list[int] = []
    undecodable: list[tuple[int, str]] = []
    while len(records) + len(undecodable) < CHUNK_ROWS:
        line = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            undecodable.append((line, f"is not CSV ({error})"))
            continue
        if not record:
            continue
        if len(record) != width:
            undecodable.append((line, f"has {len(record)} fields, the header has {width}"))
            continue
        records.append(record)
        rows.append(line)
    return records, rows, undecodable


def _read_tfrecord(path: str, stream: Any, columns: Sequence[str] | None) -> Iterator[Chunk]:
    del path

    def records() -> Iterator[bytes]:
        while (record := _TFRecordUtil.read_record(stream)) is not None:
            yield record

    numbered = enumerate(records(), start=1)
    while block := list(itertools.islice(numbered, CHUNK_ROWS)):
        decoded, rows, undecodable = [], [], []
        for row, record in block:
            try:
                example = tf.train.Example.FromString(record)
            except Exception as error:  # protobuf's DecodeError is no public type in every build
                undecodable.append((row, f"is not a tf.Example ({error})"))
                continue
            decoded.append(_example_values(example, columns))
            rows.append(row)
        yield _chunk_of_records(decoded, rows, undecodable)


def _example_values(example: tf.train.Example, columns: Sequence[str] | None) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind is None or (columns is not None and name not in columns):
            continue
        items = list(getattr(feature, kind).value)
        values[name] = items[0] if len(items) == 1 else items or None
    return values


_Reader = Callable[[str, BinaryIO, Sequence[str] | None], Iterator[Chunk]]
_READERS: dict[str, _Reader] = {
    "parquet": _read_parquet,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tfrecord": _read_tfrecord,
}
