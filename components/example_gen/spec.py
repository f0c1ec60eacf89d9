"""What ingest is told: which columns to keep, how they are called, and the limits."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from sid_tfx.features import AdSchema

MANDATORY = {"ads": ("ad_id",), "events": ("user_id", "ad_id", "timestamp")}
"""Role -> columns that every row must have."""

YEAR_2100 = 4_102_444_800
"""Unix seconds of 2100-01-01."""


@dataclasses.dataclass(frozen=True)
class IngestSpec:
    """Columns and limits of one input table. All names are canonical ones.

    Args:
        role: `"ads"` or `"events"`.
        columns: Canonical column -> the file's own column name, where they differ.
        text: Text columns, kept as UTF-8.
        categorical: Columns with one category a row.
        category_path: Whether to read `category_path`, root first.
        numeric: Columns with one finite number a row; NaN counts as missing.
        dense: Vector column -> its size.
        category_separator: Splits `category_path` where the file holds it as one string;
            blanks around the parts are dropped.
        format: `"parquet"`, `"jsonl"`, `"csv"`, `"tfrecord"`, or `""` to tell by file name and
            content.
        max_rejected_share: Rejected rows past this share of all rows stop the run.
        max_text_bytes: Longer text is trimmed to this many bytes, at a character's boundary.
        max_id_bytes: Longer ids are rejected.
        min_timestamp: Earliest timestamp accepted, Unix seconds.
        max_timestamp: Latest timestamp accepted, Unix seconds.

    Raises:
        ValueError: An argument is out of range, or two columns have one name.

    Example:

    >>> spec = IngestSpec("ads", text=("title",), categorical=("advertiser",),
    ...                   dense={"text_embedding": 384}, columns={"title": "headline"})
    >>> spec.source("title")
    'headline'
    """

    role: str
    columns: dict[str, str] = dataclasses.field(default_factory=dict)
    text: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    category_path: bool = False
    numeric: tuple[str, ...] = ()
    dense: dict[str, int] = dataclasses.field(default_factory=dict)
    category_separator: str = " > "
    format: str = ""
    max_rejected_share: float = 0.01
    max_text_bytes: int = 20_000
    max_id_bytes: int = 512
    min_timestamp: int = 0
    max_timestamp: int = YEAR_2100

    def __post_init__(self) -> None:
        for field in ("text", "categorical", "numeric"):
            object.__setattr__(self, field, tuple(getattr(self, field)))
        if self.role not in MANDATORY:
            raise ValueError(f"role must be one of {sorted(MANDATORY)}, got {self.role!r}.")
        if self.format not in ("", "parquet", "jsonl", "csv", "tfrecord"):
            raise ValueError(
                f"format must be parquet, jsonl, csv, tfrecord or empty, got {self.format!r}."
            )
        if not 0.0 <= self.max_rejected_share <= 1.0:
            raise ValueError(
                f"max_rejected_share must lie in [0, 1], got {self.max_rejected_share!r}."
            )
        for field in ("max_text_bytes", "max_id_bytes"):
            if getattr(self, field) < 4:
                raise ValueError(f"{field} must be at least 4, got {getattr(self, field)!r}.")
        if not self.category_separator:
            raise ValueError("category_separator must not be empty.")
        if self.min_timestamp >= self.max_timestamp:
            raise ValueError(
                f"min_timestamp {self.min_timestamp} must lie before max_timestamp "
                f"{self.max_timestamp}."
            )
        for column, size in self.dense.items():
            if size < 1:
                raise ValueError(f"dense[{column!r}] must be at least 1, got {size!r}.")
        names = self.kept()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"The columns {twice} are named for two uses; name each once.")

    def kept(self) -> list[str]:
        """Every canonical column that is kept, the mandatory ones first."""
        names = [*MANDATORY[self.role], *self.text, *self.categorical]
        names += ["category_path"] if self.category_path else []
        names += [*self.numeric, *self.dense]
        return names + (["event", "weight"] if self.role == "events" else [])

    def source(self, column: str) -> str:
        """The file's own name of a canonical column."""
        return self.columns.get(column, column)

    def to_json(self) -> str:
        """Returns the fields as one line of JSON with sorted keys."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "IngestSpec":
        """Makes the spec from `to_json()`'s result."""
        return cls(**json.loads(text))

    @classmethod
    def for_ads(
        cls, schema: AdSchema, *, also_text: Sequence[str] = (), **arguments: Any
    ) -> "IngestSpec":
        """Makes the spec that keeps what an `AdSchema` reads.

        Args:
            schema: The columns that models read.
            also_text: Further text columns to keep, such as `title` for people to read. Those
                of the schema may be named again.
            **arguments: The other arguments of `IngestSpec`.
        """
        summary = ["summary"] if schema.summary_tokens else []
        known = {*schema.categorical, *schema.numeric, *schema.dense}
        text = [*schema.text, *(c for c in [*summary, *also_text] if c not in known)]
        return cls(
            "ads",
            text=tuple(dict.fromkeys(text)),
            categorical=schema.categorical,
            category_path=schema.category_depth > 0,
            numeric=schema.numeric,
            dense=schema.dense,
            **arguments,
        )
