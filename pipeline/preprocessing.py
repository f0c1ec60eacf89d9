"""The TF Transform half of the features: raw ads to what every model reads.

Transform takes `preprocessing_fn` by its dotted path. The graph it makes is applied again to the
raw ads of a served request, so it uses core TensorFlow operations only, and every column is
optional in it.
"""

from typing import Any

import tensorflow as tf
import tensorflow_transform as tft

from sid_tfx.datasets import fields
from sid_tfx.features import UNKNOWN, AdSchema, FeatureSizes

_FIRST_KNOWN = UNKNOWN + 1
_WORDS = "words"
_CATEGORY = "category"


def make_custom_config(schema: AdSchema, limits: fields.VocabularyLimits) -> dict[str, Any]:
    """Returns what Transform's `custom_config` must hold for `preprocessing_fn`."""
    return {"schema": schema.to_dict(), "limits": limits.to_dict()}


def preprocessing_fn(inputs: dict[str, Any], custom_config: dict[str, Any]) -> dict[str, tf.Tensor]:
    """Makes the transformed features of a batch of raw ads.

    Args:
        inputs: Raw columns as `SparseTensor`, shape `[B, None]`. Columns of the schema that are
            absent count as missing in every row.
        custom_config: `make_custom_config`'s result.

    Returns:
        The features of `AdSchema.features()`, and `ad_id`, string `[B]`.

    Raises:
        ValueError: A column of the schema is not among the inputs.
    """
    schema = AdSchema.from_dict(custom_config["schema"])
    limits = fields.VocabularyLimits(**custom_config["limits"])
    _check_columns(schema, inputs)

    wanted = {*schema.text, *schema.categorical, fields.SUMMARY, fields.ADVERTISER}
    strings = {name: _first(inputs[name], "") for name in sorted(wanted & set(inputs))}
    ad_id = _first(inputs["ad_id"], "")
    path = _ragged(inputs[fields.CATEGORY_PATH]) if fields.CATEGORY_PATH in inputs else None
    looked_up = fields.string_fields(schema, strings, _no_path(ad_id) if path is None else path)

    features: dict[str, tf.Tensor] = {"ad_id": ad_id}
    if looked_up.words is not None:
        ids = _ids(looked_up.words, _WORDS, limits.text, limits.text_min_count)
        features |= fields.split_word_features(schema, ids)
    if looked_up.category is not None:
        features[_CATEGORY] = _ids(looked_up.category, _CATEGORY, limits.category)
    for column, values in looked_up.categorical.items():
        features[column] = _ids(values, _vocabulary_of(column), limits.categorical)
    if schema.numeric:
        scores, present = zip(*(_z_score(inputs[c]) for c in schema.numeric), strict=True)
        features["numeric"] = tf.stack(scores, axis=1)
        features["numeric_present"] = tf.stack(present, axis=1)
    for column, size in schema.dense.items():
        vectors = _ragged(inputs[column]).to_tensor(0.0, shape=[None, size])
        features[column] = _finite_or_zero(vectors)
    return features


def feature_sizes(tft_output: tft.TFTransformOutput, schema: AdSchema) -> FeatureSizes:
    """Reads the vocabulary sizes that Transform found.

    Args:
        tft_output: Transform's output, made by `preprocessing_fn`.
        schema: The schema it was made with.

    Returns:
        Sizes, the ids for missing and unknown included.
    """

    def size(vocabulary: str) -> int:
        return int(tft_output.vocabulary_size_by_name(vocabulary)) + _FIRST_KNOWN

    return FeatureSizes(
        text=size(_WORDS) if schema.text or schema.summary_tokens else 0,
        category=size(_CATEGORY) if schema.category_depth else 0,
        categorical={c: size(_vocabulary_of(c)) for c in schema.categorical},
    )


def _check_columns(schema: AdSchema, inputs: dict[str, Any]) -> None:
    wanted = {"ad_id", *schema.text, *schema.categorical, *schema.numeric, *schema.dense}
    if schema.category_depth:
        wanted.add(fields.CATEGORY_PATH)
    missing = sorted(wanted - set(inputs))
    if missing:
        raise ValueError(
            f"The ads have no column {missing}; they have {sorted(inputs)}. "
            "Leave the column out of the AdSchema, or add it to the raw schema."
        )


def _vocabulary_of(column: str) -> str:
    # Prefixed: a column may be called like one of the vocabularies that several columns share.
    return f"categorical_{column}"


def _ragged(values: Any) -> tf.RaggedTensor:
    return values if isinstance(values, tf.RaggedTensor) else tf.RaggedTensor.from_sparse(values)


def _no_path(ad_id: tf.Tensor) -> tf.RaggedTensor:
    return tf.RaggedTensor.from_row_lengths(
        tf.constant([], tf.string), tf.zeros_like(ad_id, dtype=tf.int64)
    )


def _first(values: Any, default: Any) -> tf.Tensor:
    """Returns the first value of each row, shape `[B]`, `default` where the row is empty."""
    return _ragged(values).to_tensor(default, shape=[None, 1])[:, 0]


def _ids(values: tf.Tensor, name: str, top_k: int, min_count: int | None = None) -> tf.Tensor:
    """Looks strings up in a new vocabulary: 0 for `""`, 1 for unknown, then by frequency."""
    vocabulary = tft.vocabulary(
        values, top_k=top_k, frequency_threshold=min_count, vocab_filename=name
    )
    ids = tft.apply_vocabulary(values, vocabulary, default_value=-1) + _FIRST_KNOWN
    return tf.where(values == "", tf.zeros_like(ids), ids)


def _z_score(values: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Standardizes a number over the ads that have it: score and presence, both float `[B]`."""
    values = _first(values, float("nan"))
    finite = tf.math.is_finite(values)
    # Beam sums in no fixed order. In float32 the last digit of the mean would depend on it, and
    # with it every code of a catalogue; in float64 the difference is gone after the cast.
    known = tf.SparseTensor(
        tf.where(finite),
        tf.cast(tf.boolean_mask(values, finite), tf.float64),
        tf.shape(values, tf.int64),
    )
    scaled = tf.cast(tft.scale_to_z_score(known, output_dtype=tf.float64).values, tf.float32)
    scores = tf.scatter_nd(known.indices, scaled, known.dense_shape)
    bounded = tf.clip_by_value(scores, -fields.MAX_Z_SCORE, fields.MAX_Z_SCORE)
    return bounded, tf.cast(finite, tf.float32)


def _finite_or_zero(values: tf.Tensor) -> tf.Tensor:
    return tf.where(tf.math.is_finite(values), values, tf.zeros_like(values))
