"""Tensors as the JSON of TF Serving's REST API.

Values are lists of lists; a string that is not text is `{"b64": "<base64>"}`; floats may be NaN and
Infinity, which JSON proper lacks. In answers, outputs named `*_bytes` are base64.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from serving.errors import ServingError, invalid_argument

_BASE64 = "b64"
_BYTES_SUFFIX = "_bytes"
_NO_SPACE = str.maketrans("", "", " \t\n\v\f\r")
# An error repeats the value it is about; a whole request would not fit an HTTP header.
_SHOWN = 200
# NumPy's own.
_MAX_RANK = 32
_INTEGERS = (
    tf.int8, tf.int16, tf.int32, tf.int64, tf.uint8, tf.uint16, tf.uint32, tf.uint64,
)  # fmt: skip
_TYPES = {dict: "Object", list: "Array", str: "String", bool: "Bool", type(None): "Null"}


def shown(value: Any) -> str:
    """A JSON value in an error message."""
    text = json.dumps(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def is_base64(value: Any) -> bool:
    """Whether a JSON value is a base64 string."""
    return isinstance(value, dict) and len(value) == 1 and isinstance(value.get(_BASE64), str)


def to_tensor(value: Any, dtype: tf.DType) -> np.ndarray:
    """Reads a scalar, or lists of equal lengths at each depth.

    Returns:
        An array of `dtype`; objects are bytes.

    Raises:
        ServingError: INVALID_ARGUMENT for a ragged list or a value that is not of this dtype.
    """
    shape: list[int] = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        if not probe:
            break
        probe = probe[0]
    if len(shape) > _MAX_RANK:
        raise invalid_argument(f"Encountered lists nested deeper than {_MAX_RANK} levels")
    leaves = [value]
    for level, size in enumerate(shape):
        below: list[Any] = []
        for item in leaves:
            if not isinstance(item, list):
                raise invalid_argument(
                    f"JSON Value: {shown(item)} found at incorrect level: {level + 1} in the JSON "
                    f"DOM. Expected at level: {len(shape)}"
                )
            if len(item) != size:
                raise invalid_argument(
                    f"Encountered list at unexpected size: {len(item)} at level: {level} "
                    f"expected size: {size}"
                )
            below.extend(item)
        leaves = below
    convert = _converter(dtype)
    array = np.empty(len(leaves), dtype=dtype.as_numpy_dtype)
    for index, leaf in enumerate(leaves):
        if type(leaf) is list:
            raise invalid_argument(
                f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}"
            )
        array[index] = convert(leaf)
    return array.reshape(shape)


def to_json(alias: str, array: np.ndarray) -> Any:
    """Nested lists, or a scalar, of an output."""
    if array.dtype == object:
        write: Callable[[bytes], Any] = _write_base64 if alias.endswith(_BYTES_SUFFIX) else _write
        values = [write(value) for value in array.ravel()]
    elif array.dtype in (np.float32, np.float16, tf.bfloat16.as_numpy_dtype):
        # As doubles they would show digits that the model never computed: 0.2 as 0.200000003.
        values = [float(str(value)) for value in array.ravel()]
    else:
        return array.tolist()
    for size in reversed(array.shape[1:]):
        values = [values[start : start + size] for start in range(0, len(values), size or 1)]
    return values if array.ndim else values[0]


def _write(value: bytes) -> str:
    return value.decode("utf-8", "replace")


def _write_base64(value: bytes) -> Mapping[str, str]:
    return {_BASE64: base64.b64encode(value).decode()}


def _converter(dtype: tf.DType) -> Callable[[Any], Any]:
    if dtype == tf.string:
        return _to_bytes
    if dtype == tf.bool:
        return _to_bool
    if dtype in (tf.float32, tf.float64):
        return _to_float(dtype)
    if dtype in _INTEGERS:
        return _to_integer(dtype)

    def refuse(value: Any) -> Any:
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"Conversion of JSON Value: {shown(value)} to type: {dtype.name}",
        )

    return refuse


def _type_error(value: Any, dtype: tf.DType) -> ServingError:
    kind = _TYPES.get(type(value), "Number")
    return invalid_argument(
        f"JSON Value: {shown(value)} Type: {kind} is not of expected type: {dtype.name}"
    )


def _to_bytes(value: Any) -> bytes:
    if type(value) is str:
        try:
            return value.encode()
        except UnicodeEncodeError as error:
            raise invalid_argument(f"JSON Value: {shown(value)} is no valid UTF-8") from error
    if isinstance(value, dict):
        if not is_base64(value):
            raise invalid_argument(
                f"JSON Value: {shown(value)} not formatted correctly for base64 data"
            )
        return _from_base64(value[_BASE64])
    raise _type_error(value, tf.string)


def _from_base64(text: str) -> bytes:
    # The rules of absl's Base64Unescape, which TF Serving calls: white space is skipped, padding is
    # whole or left out, and may be dots.
    data = text.translate(_NO_SPACE)
    bare = data.rstrip("=.")
    padding = -len(bare) % 4
    try:
        if len(data) - len(bare) not in (0, padding):
            raise ValueError(f"{len(data) - len(bare)} characters of padding, not {padding}")
        return base64.b64decode(bare + "=" * padding, validate=True)
    except ValueError as error:
        raise invalid_argument("Unable to base64 decode") from error


def _to_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise _type_error(value, tf.bool)
    return value


def _to_integer(dtype: tf.DType) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if type(value) is not int or not dtype.min <= value <= dtype.max:
            raise _type_error(value, dtype)
        return value

    return convert


def _to_float(dtype: tf.DType) -> Callable[[Any], float]:
    # A number between two of the dtype becomes the nearest, as TF Serving's documentation of the
    # REST API has it; past the range there is none. An infinity was sent as one: the parser lets no
    # number overflow into it.
    largest = float(np.finfo(dtype.as_numpy_dtype).max)

    def convert(value: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise _type_error(value, dtype)
        if largest < abs(value) != math.inf:
            raise invalid_argument(
                f"Cannot convert JSON value: {shown(value)} to {dtype.name} without loss of "
                "precision."
            )
        return float(value)

    return convert
