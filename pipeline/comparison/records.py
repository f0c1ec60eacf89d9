"""Finished cells on disk: a JSON record and the ranks behind it, written whole or not at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Record = dict[str, Any]

RANKS = ("test", "test_sid", "validation", "validation_sid")
"""Arrays of a cell: rank of every user's target among the first 10, 0 where it is not."""


@dataclasses.dataclass(frozen=True, eq=False)
class FinishedCell:
    """What a cell left.

    Args:
        key: `Cell.key` of the cell that was trained.
        spec: `Cell.spec`.
        source: Fingerprint of the library's source that trained it.
        record: The figures, flat.
        ranks: Name of `RANKS` -> uint8 `[users]`.
    """

    key: str
    spec: dict[str, Any]
    source: str
    record: Record
    ranks: dict[str, np.ndarray]


class UnreadableCell(Exception):
    """A cell's files are damaged; the message says how."""


def save_cell(cell: FinishedCell, base: Path) -> None:
    """Writes `base`.npz, then `base`.json, which vouches for it.

    Args:
        cell: The cell.
        base: Path without suffix; its folder is made if absent.
    """
    base.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **cell.ranks)
    fields = {
        "key": cell.key,
        "source": cell.source,
        "ranks_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
        "record": cell.record,
        "spec": cell.spec,
    }
    _write(_with_suffix(base, ".npz"), buffer.getvalue())
    _write(_with_suffix(base, ".json"), (json.dumps(fields, indent=1) + "\n").encode())


def load_cell(base: Path, names: Sequence[str] | None = RANKS) -> FinishedCell | None:
    """Reads a finished cell; None where there is no record.

    Args:
        base: Path without suffix.
        names: Arrays that it must have; None for whatever it has.

    Raises:
        UnreadableCell: The record is no such JSON, or the ranks aren't those it was written with.
    """
    path = _with_suffix(base, ".json")
    if not path.exists():
        return None
    try:
        fields = json.loads(path.read_text())
        data = _with_suffix(base, ".npz").read_bytes()
        if hashlib.sha256(data).hexdigest() != fields["ranks_sha256"]:
            raise UnreadableCell(f"{base.name}.npz is not the file that the record was made with")
        with np.load(io.BytesIO(data)) as arrays:
            ranks = {name: arrays[name] for name in names or arrays.files}
        return FinishedCell(
            fields["key"], fields["spec"], fields["source"], fields["record"], ranks
        )
    except FileNotFoundError:
        raise UnreadableCell(f"{base.name}.npz is missing") from None
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableCell(f"{path.name} is damaged: {error}") from error


def load_cells(folder: Path) -> tuple[list[FinishedCell], list[str]]:
    """Reads every finished cell of a folder.

    Args:
        folder: With the cells; it may be absent.

    Returns:
        The cells, sorted by name, and a sentence for each that could not be read.
    """
    cells, problems = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            cell = load_cell(path.with_name(path.name.removesuffix(".json")))
        except UnreadableCell as error:
            problems.append(str(error))
        else:
            if cell:
                cells.append(cell)
    return cells, problems


def write_records(records: Sequence[Record], path: Path) -> None:
    """Writes flat records as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(list(records), indent=1) + "\n")


def _with_suffix(base: Path, suffix: str) -> Path:
    return base.with_name(base.name + suffix)


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(data)
    part.replace(path)
