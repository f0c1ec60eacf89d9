"""Tables of ads and events for research: a file or a DataFrame in, checked canonical columns out.

The pipeline ingests through its ExampleGen, which streams and quarantines. This is the small road:
everything in memory, and an error at the first thing that cannot be right.
"""

import dataclasses
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sid_tfx.features import AdSchema

TOKENS = {"title": 24, "description": 48}
"""Words kept of the usual text columns."""

OTHER_TEXT_TOKENS = 32
SUMMARY_TOKENS = 16
MAX_CATEGORY_DEPTH = 4
CATEGORY_SEPARATOR = " > "
MAX_TIMESTAMP = 4_102_444_800
"""Unix seconds of 2100-01-01; milliseconds are past it."""

_DENSE_SUFFIX = "_embedding"
_MAX_CATEGORY_WORDS = 4.0
_READERS: dict[str, Callable[..., pd.DataFrame]] = {
    ".parquet": pd.read_parquet,
    ".csv": lambda path: pd.read_csv(path, dtype={"ad_id": str, "user_id": str}),
    ".jsonl": lambda path: pd.read_json(
        path, lines=True, dtype={"ad_id": str, "user_id": str}, convert_dates=False
    ),
}


@dataclasses.dataclass(frozen=True)
class AdTable:
    """Ads in memory.

    Args:
        frame: One row an ad, ascending by `ad_id`; `category_path` holds lists of strings.
        schema: The columns that models read.
    """

    frame: pd.DataFrame
    schema: AdSchema

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def ad_ids(self) -> np.ndarray:
        """Ad ids, str `[ads]`, ascending: row `i` of every feature array is ad `ad_ids[i]`."""
        return self.frame["ad_id"].to_numpy(dtype=str)

    def select(self, rows: np.ndarray) -> "AdTable":
        """Returns the ads at `rows` (positions or a mask), in ascending order of their id."""
        frame = self.frame.iloc[rows].sort_values("ad_id", ignore_index=True)
        return AdTable(frame, self.schema)


def load_ads(source: str | Path | pd.DataFrame, schema: AdSchema | None = None) -> AdTable:
    """Reads a table of ads.

    Args:
        source: A `.parquet`, `.csv` or `.jsonl` file, or a DataFrame. Needs `ad_id`;
            `category_path` may be a list or a string such as `"Hair > Dye"`.
        schema: The columns to use; None infers them: `title`, `description` and other long text,
            `advertiser` and other repeated strings, `category_path`, numbers, `*_embedding`.

    Returns:
        The ads, ascending by id.

    Raises:
        ValueError: A column is missing, an id is empty or occurs twice, a vector has another size
            than the others, or nothing can be inferred.

    Example:

    >>> ads = load_ads(pd.DataFrame({"ad_id": ["b", "a"], "title": ["Red shoe", "Blue shoe"]}))
    >>> ads.ad_ids.tolist(), ads.schema.text
    (['a', 'b'], {'title': 24})
    """
    frame = read_table(source, ("ad_id",), "ads")
    frame["ad_id"] = _ids(frame, "ad_id", "ads")
    twice = frame["ad_id"][frame["ad_id"].duplicated()]
    if len(twice):
        raise ValueError(f"ads: ad_id {twice.iloc[0]!r} occurs twice; ids must be unique.")
    if "category_path" in frame:
        frame["category_path"] = frame["category_path"].map(_category_path)
    schema = schema or infer_schema(frame)
    wanted = [*schema.text, *schema.categorical, *schema.numeric, *schema.dense]
    wanted += ["category_path"] if schema.category_depth else []
    missing = [column for column in wanted if column not in frame]
    if missing:
        raise ValueError(f"ads: no column {missing}, which the schema names; {_has(frame)}")
    for column, size in schema.dense.items():
        _check_vectors(frame, column, size)
    return AdTable(frame.sort_values("ad_id", ignore_index=True), schema)


def load_events(source: str | Path | pd.DataFrame, ads: AdTable | None = None) -> pd.DataFrame:
    """Reads an event log.

    Args:
        source: A `.parquet`, `.csv` or `.jsonl` file, or a DataFrame, with `user_id`, `ad_id`,
            `timestamp` (Unix seconds) and optionally `event` and `weight`.
        ads: Where given, events of other ads are dropped, with a warning that counts them.

    Returns:
        The events, sorted by user, time, then ad.

    Raises:
        ValueError: A column is missing, an id is empty, a timestamp is no whole number of seconds
            between 1970 and 2100, or a weight is negative.
    """
    frame = read_table(source, ("user_id", "ad_id", "timestamp"), "events")
    for column in ("user_id", "ad_id"):
        frame[column] = _ids(frame, column, "events")
    seconds = pd.to_numeric(frame["timestamp"], errors="coerce")
    wrong = ~(seconds.between(0, MAX_TIMESTAMP) & (seconds % 1 == 0))
    _refuse(frame, "timestamp", wrong, "events", "must be Unix seconds between 1970 and 2100")
    frame["timestamp"] = seconds.astype(np.int64)
    if "weight" in frame:
        weight = pd.to_numeric(frame["weight"], errors="coerce")
        # 0 is a weight that nobody knows, in the pipeline too.
        wrong = (weight < 0) | np.isinf(weight) | (weight.isna() & frame["weight"].notna())
        _refuse(frame, "weight", wrong, "events", "must be a finite number of at least 0")
        frame["weight"] = weight.fillna(0.0).astype(np.float32)
    if ads is not None:
        known = frame["ad_id"].isin(ads.ad_ids)
        if not known.all():
            unknown = int((~known).sum())
            warnings.warn(
                f"{unknown} of {len(frame)} events name ads that are not in the table; dropped.",
                stacklevel=2,
            )
            frame = frame[known]
    return frame.sort_values(["user_id", "timestamp", "ad_id"], ignore_index=True)


def event_columns(events: pd.DataFrame) -> dict[str, Any]:
    """What a log has beside user, ad and time, as `leave_one_out` takes it.

    Args:
        events: Of `load_events`.

    Returns:
        `events`: event types, str, "" where missing; `weights`: float32; each where there is one.
    """
    found = {}
    if "event" in events:
        found["events"] = events["event"].fillna("").to_numpy(dtype=str)
    if "weight" in events:
        found["weights"] = events["weight"].to_numpy(np.float32)
    return found


def infer_schema(frame: pd.DataFrame) -> AdSchema:
    """Says which columns of a table of ads a model should read, and as what.

    Args:
        frame: Canonical columns, `category_path` as lists.

    Raises:
        ValueError: There is no usable column.
    """
    text: dict[str, int] = {}
    categorical, numeric, dense, depth = [], [], {}, 0
    for column in frame.columns:
        values = frame[column].dropna()
        if column in ("ad_id", "summary") or values.empty:
            continue
        if column == "category_path":
            depth = min(MAX_CATEGORY_DEPTH, int(values.map(len).max()))
        elif column.endswith(_DENSE_SUFFIX):
            dense[column] = len(values.iloc[0])
        elif column in TOKENS or (column != "advertiser" and _is_text(values)):
            text[column] = TOKENS.get(column, OTHER_TEXT_TOKENS)
        elif pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
            numeric.append(column)
        elif column == "advertiser" or _is_categorical(values):
            categorical.append(column)
    return AdSchema(
        text=text,
        categorical=tuple(categorical),
        category_depth=depth,
        numeric=tuple(numeric),
        dense=dense,
        summary_tokens=SUMMARY_TOKENS if depth or "summary" in frame or categorical else 0,
    )


def read_table(
    source: str | Path | pd.DataFrame, needed: tuple[str, ...], table: str
) -> pd.DataFrame:
    """Reads a table as it is.

    Args:
        source: A `.parquet`, `.csv` or `.jsonl` file, or a DataFrame.
        needed: Columns that it must have.
        table: What errors call it.

    Returns:
        A frame of its own.

    Raises:
        ValueError: Another suffix, a column is missing, or there are no rows.
    """
    if isinstance(source, pd.DataFrame):
        frame = source.reset_index(drop=True)
    else:
        reader = _READERS.get(Path(source).suffix)
        if reader is None:
            raise ValueError(f"{table}: {source} must end in one of {sorted(_READERS)}.")
        frame = reader(source)
    missing = [column for column in needed if column not in frame]
    if missing:
        raise ValueError(f"{table}: no column {missing}; {_has(frame)}")
    if frame.empty:
        raise ValueError(f"{table}: no rows.")
    return frame.copy(deep=False)


def _is_text(values: pd.Series) -> bool:
    strings = values.map(lambda value: isinstance(value, str)).all()
    return bool(strings and values.str.split().str.len().mean() > _MAX_CATEGORY_WORDS)


def _is_categorical(values: pd.Series) -> bool:
    strings = values.map(lambda value: isinstance(value, str)).all()
    # A column of distinct short strings is a name or a link: neither text nor category helps.
    return bool(strings and values.nunique() <= 0.5 * len(values))


def _has(frame: pd.DataFrame) -> str:
    return f"the table has {list(frame.columns)}."


def _ids(frame: pd.DataFrame, column: str, table: str) -> pd.Series:
    values = frame[column]
    empty = values.isna() | (values.astype(str).str.strip() == "")
    _refuse(frame, column, empty, table, "must not be empty")
    return values.astype(str)


def _refuse(frame: pd.DataFrame, column: str, wrong: Any, table: str, rule: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        value = frame[column].iloc[rows[0]]
        raise ValueError(f"{table}: {column} {rule}; row {rows[0]} has {value!r}.")


def _category_path(value: Any) -> list[str]:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return []
    parts = value.split(CATEGORY_SEPARATOR.strip()) if isinstance(value, str) else value
    return [part.strip() for part in parts if part and part.strip()]


def _check_vectors(frame: pd.DataFrame, column: str, size: int) -> None:
    present = frame[column].notna()
    wrong = present & (frame[column].map(np.size) != size)
    _refuse(frame, column, wrong, "ads", f"must hold vectors of {size} numbers")
