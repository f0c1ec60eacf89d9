"""TensorProto to NumPy and back, in the form TF Serving puts on the wire."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto

# TF Serving answers in typed fields, not in `tensor_content`; clients that read
# `outputs["scores"].float_val` depend on it.
_FIELDS = {
    tf.float32: "float_val",
    tf.float64: "double_val",
    tf.int8: "int_val",
    tf.int16: "int_val",
    tf.int32: "int_val",
    tf.uint8: "int_val",
    tf.uint16: "int_val",
    tf.int64: "int64_val",
    tf.uint32: "uint32_val",
    tf.uint64: "uint64_val",
    tf.bool: "bool_val",
    tf.string: "string_val",
}

_DECODED = {
    dtype.as_datatype_enum: (np.dtype(dtype.as_numpy_dtype), _FIELDS.get(dtype))
    for dtype in (*_FIELDS, tf.float16, tf.bfloat16, tf.complex64, tf.complex128)
}
# TensorFlow's own.
_MAX_RANK = 254
# How much of a repeated value is filled in at a time: others get the interpreter in between.
_FILLED_AT_ONCE = 64 * 1024


def fill(proto: TensorProto, array: np.ndarray) -> None:
    """Writes a NumPy array into an empty TensorProto as typed fields; objects are bytes.

    Example:

    >>> request = PredictRequest()
    >>> fill(request.inputs["ad_ids"], np.array([b"ad1"], dtype=object))
    """
    dtype = tf.dtypes.as_dtype(array.dtype)
    field = _FIELDS.get(dtype)
    if field is None:
        # Half precision and complex numbers have packed forms of their own.
        proto.CopyFrom(tf.make_tensor_proto(array, dtype))
        return
    proto.dtype = dtype.as_datatype_enum
    dims = proto.tensor_shape.dim
    for size in array.shape:
        dims.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())


def shape_of(proto: TensorProto) -> tuple[int, ...]:
    """The shape a TensorProto declares, whether or not its values fill it.

    Raises:
        ValueError: the rank is unknown or larger than TensorFlow's, or a dimension negative.
    """
    if len(proto.tensor_shape.dim) > _MAX_RANK:
        # The product of thousands of large sizes would alone take seconds.
        raise ValueError(f"a tensor has at most {_MAX_RANK} dimensions")
    shape = tuple([dim.size for dim in proto.tensor_shape.dim])
    if proto.tensor_shape.unknown_rank or (shape and min(shape) < 0):
        raise ValueError(f"a tensor value needs a full shape, this one declares {list(shape)}")
    return shape


def declared_bytes(proto: TensorProto, most: int) -> int:
    """What a TensorProto decodes to by the shape it declares, bad ones included.

    Args:
        proto: the tensor.
        most: where to stop counting: what is more is `most + 1`.
    """
    known = _DECODED.get(proto.dtype)
    size = 1 if known is None else known[0].itemsize
    for dim in proto.tensor_shape.dim:
        size *= dim.size
        if not 0 <= size <= most:
            return most + 1
    return size


def to_array(proto: TensorProto, max_bytes: int) -> np.ndarray:
    """A TensorProto as a NumPy array.

    Args:
        proto: the tensor.
        max_bytes: bound on the decoded size. A proto may declare a huge shape over one repeated
            value, so the size on the wire bounds nothing.

    Raises:
        ValueError: bad dtype, shape, values or size.
    """
    shape = shape_of(proto)
    known = _DECODED.get(proto.dtype)
    if known is None:
        raise ValueError(f"dtype {proto.dtype} is not one a tensor on the wire may have")
    dtype, field = known
    size = math.prod(shape)
    if size * dtype.itemsize > max_bytes:
        raise ValueError(
            f"shape {list(shape)} decodes to {size * dtype.itemsize} bytes, more than {max_bytes}"
        )
    if not proto.tensor_content and field is not None:
        values = getattr(proto, field)
        # The usual case, several times faster than make_ndarray.
        if len(values) == size:
            return np.array(values, dtype=dtype).reshape(shape)
        if dtype.hasobject and len(values) < size:
            return _filled_up(values, size).reshape(shape)
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(str(error)) from error


def _filled_up(values: Sequence[bytes], size: int) -> np.ndarray:
    """Strings of which the last, or an empty one, stands for all that follow."""
    array = np.empty(size, dtype=object)
    given = len(values)
    array[:given] = np.array(values, dtype=object)
    last = values[-1] if given else b""
    for start in range(given, size, _FILLED_AT_ONCE):
        array[start : start + _FILLED_AT_ONCE] = last
    return array
