"""Rows that a stage leaves out: written down with the reason, counted, and limited."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import apache_beam as beam
from tensorflow.io import gfile

from components.refusal import Refused

DIRECTORY = "quarantine"
_REJECTED = "rejected.jsonl"
_COUNTS = "counts.json"
_SHOWN = 3


class Rejection(NamedTuple):
    """One row left out.

    Attributes:
        source: The file, or the artifact's split, that holds the row.
        row: Its number there, as people count; 0 where rows have no number.
        field: The column at fault; empty where the whole row is.
        reason: What is wrong with which value, and the cure.
    """

    source: str
    row: int
    field: str
    reason: str

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(self._asdict(), ensure_ascii=False)


@dataclasses.dataclass(frozen=True)
class Counts:
    """What a stage read and left out.

    Attributes:
        tally: Named counts, `read` at least.
        rejected: Rows left out.
        first: The first rejections by source and row.
        failures: Sentences on files that could not be read at all.
    """

    tally: dict[str, int]
    rejected: int
    first: list[Rejection]
    failures: list[str]

    @property
    def read(self) -> int:
        """Rows read, good and bad."""
        return self.tally.get("read", 0)


class WriteQuarantine(beam.PTransform):
    """Writes `rejected.jsonl` and `counts.json` into the quarantine folder of an artifact.

    Expands on a dict of PCollections: `rejected` of `Rejection`, `tally` of `(name, int)`, and
    optionally `failures` of `str`.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        self._directory = os.path.join(uri, DIRECTORY)

    def expand(self, pcolls: dict[str, beam.PCollection]) -> beam.PCollection:
        """Adds the steps to the pipeline."""
        pipeline = next(iter(pcolls.values())).pipeline
        # One group and one file: rejections are few by their limit, and in order for people.
        named = [
            pcoll | f"Name[{name}]" >> beam.Map(_named, name) for name, pcoll in pcolls.items()
        ]
        # So that the files are written where nothing came in, too.
        named.append(pipeline | "Nothing" >> beam.Create([(None, ("", None))]))
        return (
            named
            | "Flatten" >> beam.Flatten()
            | "Together" >> beam.GroupByKey()
            | "Write" >> beam.Map(_write, self._directory)
        )


def _named(value: Any, name: str) -> tuple[None, tuple[str, Any]]:
    return None, (name, value)


def _write(group: tuple[None, Iterable[tuple[str, Any]]], directory: str) -> None:
    rejected: list[Rejection] = []
    failures: list[str] = []
    tally: Counter[str] = Counter()
    for name, value in group[1]:
        if name == "rejected":
            rejected.append(Rejection(*value))
        elif name == "failures":
            failures.append(value)
        elif name == "tally":
            tally[value[0]] += value[1]
    rejected.sort()
    gfile.makedirs(directory)
    with gfile.GFile(os.path.join(directory, _REJECTED), "w") as file:
        for rejection in rejected:
            file.write(rejection.to_json() + "\n")
    counts = {
        "tally": dict(sorted(tally.items())),
        "rejected": len(rejected),
        "first": rejected[:_SHOWN],
        "failures": sorted(failures),
    }
    with gfile.GFile(os.path.join(directory, _COUNTS), "w") as file:
        file.write(json.dumps(counts, ensure_ascii=False) + "\n")


def read_counts(uri: str) -> Counts:
    """Reads what `WriteQuarantine` counted for the artifact at `uri`."""
    with gfile.GFile(os.path.join(uri, DIRECTORY, _COUNTS)) as file:
        content = json.loads(file.read())
    return Counts(
        content["tally"],
        content["rejected"],
        [Rejection(*fields) for fields in content["first"]],
        content["failures"],
    )


def keep_quarantine(uri: str) -> str:
    """Copies the quarantine of an artifact beside it and returns the copy's folder.

    TFX removes the outputs of a stage that fails, and with them the reasons.
    """
    kept = f"{uri.rstrip('/')}-refused"
    gfile.makedirs(kept)
    source = os.path.join(uri, DIRECTORY)
    for name in gfile.listdir(source):
        gfile.copy(os.path.join(source, name), os.path.join(kept, name), overwrite=True)
    return kept


def check_share(uri: str, counts: Counts, what: str, limit: float, key: str) -> None:
    """Refuses when too many rows were left out.

    Args:
        uri: The artifact whose quarantine holds the rows.
        counts: What was read and left out.
        what: The rows' name for people, e.g. `"ads"`.
        limit: Largest share of rows that may be left out.
        key: Configuration key of the limit.

    Raises:
        Refused: The share is above the limit.
    """
    share = counts.rejected / counts.read if counts.read else 0.0
    if share <= limit:
        return
    kept = os.path.join(keep_quarantine(uri), _REJECTED)
    first = "; ".join(
        f"{os.path.basename(r.source)} row {r.row}: {r.field} {r.reason}".replace("  ", " ")
        for r in counts.first
    )
    raise Refused(
        f"{counts.rejected:,} of {counts.read:,} {what} rejected ({share:.1%}, limit {limit:.1%} "
        f"by {key}), first: {first}. All of them with reasons: {kept}"
    )
