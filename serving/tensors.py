"""TensorProto to NumPy and back, in the form TF Serving puts on the wire."""

from __future__ import annotations

import math

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


def to_proto(array: np.ndarray) -> TensorProto:
    """A NumPy array as TensorProto with typed fields; an object array holds bytes.

    Example:

    >>> to_proto(np.array([b"ad1"], dtype=object)).string_val[0]
    b'ad1'
    """
    dtype = tf.dtypes.as_dtype(array.dtype)
    field = _FIELDS.get(dtype)
    if field is None:
        return tf.make_tensor_proto(array, dtype)
    proto = TensorProto(dtype=dtype.as_datatype_enum)
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    getattr(proto, field).extend(array.ravel().tolist())
    return proto


def shape_of(proto: TensorProto) -> tuple[int, ...]:
    """The shape a TensorProto declares, whether or not its values fill it.

    Raises:
        ValueError: the rank is unknown or a dimension negative.
    """
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if proto.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError(f"a tensor value needs a full shape, this one declares {list(shape)}")
    return shape


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
    try:
        dtype = tf.dtypes.as_dtype(proto.dtype)
        item_bytes = np.dtype(dtype.as_numpy_dtype).itemsize
    except (TypeError, KeyError) as error:
        raise ValueError(f"unknown dtype {proto.dtype}") from error
    decoded = math.prod(shape) * item_bytes
    if decoded > max_bytes:
        raise ValueError(f"shape {list(shape)} decodes to {decoded} bytes, more than {max_bytes}")
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise ValueError(str(error)) from error
