"""The string side of the transformed features: what is looked up in which vocabulary.

TF Transform and the research path both call `string_fields` and differ only in how they count
and look up the strings it returns.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from sid_tfx.datasets import text
from sid_tfx.features import AdSchema

PATH_SEPARATOR = "\x1f"
"""Joins a path prefix. `text.clean` removes control characters, so no category can contain it."""

MAX_Z_SCORE = 10.0
"""Bound of a standardized number: one absurd price in a request must not saturate the encoder."""

ADVERTISER = "advertiser"
SUMMARY = "summary"
CATEGORY_PATH = "category_path"

# As many as the schema allows; a request may have a million.
_MOST_LEVELS = 32


@dataclasses.dataclass(frozen=True)
class VocabularyLimits:
    """How large each vocabulary may become: the most frequent values are kept.

    Args:
        text: Words, over all text columns and the summary.
        text_min_count: A word seen less often has no id of its own: it could not be learned.
        category: Category path prefixes.
        categorical: Values of each categorical column.
    """

    text: int = 20_000
    text_min_count: int = 2
    category: int = 20_000
    categorical: int = 50_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"VocabularyLimits.{field.name} must be an integer of at least 1, "
                    f"got {value!r}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Returns the limits as JSON-able values."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class StringFields:
    """Strings to look up, `""` for missing or padding.

    Args:
        words: Shape `[B, n]`: the text columns in the schema's order, then the summary, side by
            side, so that one lookup serves them all; None without any.
        category: Shape `[B, category_depth]`: path prefixes; None at depth 0.
        categorical: Column -> shape `[B]`.
    """

    words: tf.Tensor | None
    category: tf.Tensor | None
    categorical: dict[str, tf.Tensor]


def string_fields(
    schema: AdSchema, strings: Mapping[str, tf.Tensor], category_path: tf.RaggedTensor
) -> StringFields:
    """Cleans and splits the string columns of a batch of ads.

    Args:
        schema: The columns to make.
        strings: Column -> string tensor of shape `[B]`, `""` where missing: the schema's text and
            categorical columns, and optionally `summary` and `advertiser`.
        category_path: Ragged string tensor, shape `[B, None]`, root first.

    Returns:
        The strings to look up.
    """
    # Operations on a ragged tensor take the room of the longest row for each.
    levels = max(_MOST_LEVELS, schema.category_depth)
    path = tf.ragged.map_flat_values(text.clean, category_path[:, :levels])
    path = tf.ragged.boolean_mask(path, path != "")
    blocks = [
        text.pad_words(text.split_words(strings[column]), size)
        for column, size in schema.text.items()
    ]
    if schema.summary_tokens:
        words = text.split_words(_summary(strings, path))
        blocks.append(text.pad_words(words, schema.summary_tokens))
    return StringFields(
        words=tf.concat(blocks, axis=1) if blocks else None,
        category=path_prefixes(path, schema.category_depth) if schema.category_depth else None,
        categorical={column: text.clean(strings[column]) for column in schema.categorical},
    )


def split_word_features(schema: AdSchema, words: tf.Tensor) -> dict[str, tf.Tensor]:
    """Takes the word block apart again: shape `[B, n]` -> one feature per text column."""
    sizes = {f"{column}_tokens": size for column, size in schema.text.items()}
    if schema.summary_tokens:
        sizes["summary_tokens"] = schema.summary_tokens
    blocks = tf.split(words, list(sizes.values()), axis=1)
    return dict(zip(sizes, blocks, strict=True))


def path_prefixes(category_path: tf.RaggedTensor, depth: int) -> tf.Tensor:
    """Names the branch that each ad sits on at each depth of the category tree.

    Args:
        category_path: Ragged string tensor, shape `[B, None]`, root first.
        depth: Levels kept.

    Returns:
        String tensor, shape `[B, depth]`: the path joined up to each depth, so that equal strings
        mean the same branch; `""` where the path is shorter.

    Example:

    >>> path = tf.ragged.constant([["Hair", "Dye"], ["Hair"]])
    >>> path_prefixes(path, 2).numpy().tolist()
    [[b'Hair', b'Hair\\x1fDye'], [b'Hair', b'']]
    """
    levels = text.pad_words(category_path, depth)
    prefixes = [levels[:, 0]]
    for level in range(1, depth):
        longer = tf.strings.join([prefixes[-1], levels[:, level]], PATH_SEPARATOR)
        prefixes.append(tf.where(levels[:, level] == "", "", longer))
    return tf.stack(prefixes, axis=1)


def _summary(strings: Mapping[str, tf.Tensor], path: tf.RaggedTensor) -> tf.Tensor:
    empty = tf.fill([path.nrows()], "")
    template = text.summarize(path, text.clean(strings.get(ADVERTISER, empty)))
    given = strings.get(SUMMARY, empty)
    return tf.where(text.clean(given) == "", template, given)
