"""The features of an ad: which columns a model reads, their names, shapes and dtypes."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

MISSING = 0
"""Id of an absent value, and of padding."""

UNKNOWN = 1
"""Id of a value outside the vocabulary."""

COLLABORATIVE = "collaborative_embedding"
"""The dense column of vectors made from training events (`sid_tfx.datasets.collaborative`)."""

COLLABORATIVE_DIM = 64
"""Size of those vectors."""

ESCAPE_CODE = "escape_code"
"""Feature of a training batch, int32 `[2B]`: the last code an ad shall have; -1 for any."""

_RESERVED = (
    *("ad_id", "ad_row", "category", "numeric", "numeric_present", "summary_tokens"),
    ESCAPE_CODE,
)

_Self = TypeVar("_Self", bound="_Json")


class _Json:
    """JSON round trip of a flat dataclass."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        fields = dataclasses.asdict(self)  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}

    def to_json(self) -> str:
        """Returns the fields as one line of JSON with sorted keys."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_dict(cls: type[_Self], fields: Mapping[str, Any]) -> _Self:
        """Makes the object from `to_dict()`'s result.

        Raises:
            ValueError: A key is not a field of the class.
        """
        known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
        unknown = sorted(set(fields) - set(known))
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {unknown}; its fields are {known}.")
        return cls(**fields)

    @classmethod
    def from_json(cls: type[_Self], text: str) -> _Self:
        """Makes the object from `to_json()`'s result."""
        return cls.from_dict(json.loads(text))


def _column_sizes(field: str, sizes: Mapping[str, int], least: int) -> dict[str, int]:
    """Checks a mapping column -> size and puts it in the canonical order, by name."""
    for column, size in sizes.items():
        _check_size(f"{field}[{column!r}]", size, least)
    return {column: int(sizes[column]) for column in sorted(sizes)}


def _check_size(field: str, size: int, least: int) -> None:
    if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < least:
        raise ValueError(f"{field} must be an integer of at least {least}, got {size!r}.")


def _columns(field: str, columns: Any) -> tuple[str, ...]:
    if isinstance(columns, str):
        raise ValueError(f"{field} must be a sequence of column names, got the string {columns!r}.")
    return tuple(columns)


@dataclasses.dataclass(frozen=True)
class AdSchema(_Json):
    """The columns of an ad that a model reads.

    Text and dense columns are kept sorted by name, so that two schemas with the same content are
    equal and make the same model.

    Args:
        text: Text column -> number of word ids kept.
        categorical: Categorical columns, such as `advertiser`. Not the category path.
        category_depth: Levels of the category path that are kept, root first; 0 for none.
        numeric: Numeric columns, in the order of the `numeric` feature's last axis.
        dense: Dense vector column -> size of the vector.
        summary_tokens: Word ids kept of the summary, a training target and never an input;
            0 for none.

    Raises:
        ValueError: No input column at all, a size below 1, or two features of one name.

    Example:

    >>> schema = AdSchema(text={"title": 24}, categorical=("advertiser",), category_depth=3)
    >>> schema.features()["title_tokens"]
    ('int64', (24,))
    """

    text: dict[str, int] = dataclasses.field(default_factory=dict)
    categorical: tuple[str, ...] = ()
    category_depth: int = 0
    numeric: tuple[str, ...] = ()
    dense: dict[str, int] = dataclasses.field(default_factory=dict)
    summary_tokens: int = 0

    def __post_init__(self) -> None:
        normalized = {
            "text": _column_sizes("text", self.text, 1),
            "dense": _column_sizes("dense", self.dense, 1),
            "categorical": _columns("categorical", self.categorical),
            "numeric": _columns("numeric", self.numeric),
        }
        for name, value in normalized.items():
            object.__setattr__(self, name, value)
        _check_size("category_depth", self.category_depth, 0)
        _check_size("summary_tokens", self.summary_tokens, 0)
        if len(set(self.numeric)) < len(self.numeric):
            raise ValueError(f"numeric names a column twice: {list(self.numeric)}.")
        named = [*(f"{c}_tokens" for c in self.text), *self.categorical, *self.dense]
        for name in named:
            if name in _RESERVED or named.count(name) > 1:
                raise ValueError(
                    f"The feature {name!r} is reserved or made by two columns; rename the column. "
                    f"Reserved: {list(_RESERVED)}."
                )
        if not self.input_features():
            raise ValueError(
                "AdSchema has no input: name at least one text, categorical, numeric or dense "
                "column, or set category_depth above 0."
            )

    def input_features(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns what a model reads: name -> (dtype, shape without the batch axis)."""
        features: dict[str, tuple[str, tuple[int, ...]]] = {}
        for column, size in self.text.items():
            features[f"{column}_tokens"] = ("int64", (size,))
        for column in self.categorical:
            features[column] = ("int64", ())
        if self.category_depth:
            features["category"] = ("int64", (self.category_depth,))
        if self.numeric:
            features["numeric"] = ("float32", (len(self.numeric),))
            features["numeric_present"] = ("float32", (len(self.numeric),))
        for column, size in self.dense.items():
            features[column] = ("float32", (size,))
        return features

    def features(self) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Returns every transformed feature, targets too: name -> (dtype, shape without batch)."""
        features = self.input_features()
        if self.summary_tokens:
            features["summary_tokens"] = ("int64", (self.summary_tokens,))
        return features


@dataclasses.dataclass(frozen=True)
class FeatureSizes(_Json):
    """Vocabulary sizes, the ids for missing (0) and unknown (1) included.

    Args:
        text: Size of the one word vocabulary that all text columns and the summary share.
        categorical: Categorical column -> size of its vocabulary.
        category: Size of the vocabulary of category path prefixes.

    Raises:
        ValueError: A vocabulary in use is smaller than 2.

    Example:

    >>> FeatureSizes(text=10_000, categorical={"advertiser": 500}, category=80).text
    10000
    """

    text: int = 0
    categorical: dict[str, int] = dataclasses.field(default_factory=dict)
    category: int = 0

    def __post_init__(self) -> None:
        least = UNKNOWN + 1
        object.__setattr__(
            self, "categorical", _column_sizes("categorical", self.categorical, least)
        )
        for field in ("text", "category"):
            _check_size(field, getattr(self, field), least if getattr(self, field) else 0)

    def check(self, schema: AdSchema) -> None:
        """Checks that every vocabulary the schema needs has a size.

        Raises:
            ValueError: A size is missing; the message names the vocabulary.
        """
        missing = [c for c in schema.categorical if c not in self.categorical]
        if (schema.text or schema.summary_tokens) and not self.text:
            missing.append("text")
        if schema.category_depth and not self.category:
            missing.append("category")
        if missing:
            raise ValueError(f"FeatureSizes lacks the vocabulary size of {missing}, got {self}.")


def empty_features(schema: AdSchema, rows: int) -> dict[str, np.ndarray]:
    """Returns the transformed features of `rows` ads with every value missing.

    Args:
        schema: The columns.
        rows: Number of ads.

    Returns:
        Feature name -> array of zeros, shape `[rows, ...]`, in the contract's dtype.
    """
    return {
        name: np.zeros((rows, *shape), dtype) for name, (dtype, shape) in schema.features().items()
    }
