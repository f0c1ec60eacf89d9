"""Tensors as they come over the wire: what a few bytes may declare, and what it costs to read."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import predict_pb2

from serving.predict import is_small
from serving.tensors import declared_bytes, shape_of, to_array

pytestmark = pytest.mark.unit

MIB = 1024 * 1024


def declared(dtype: tf.DType, *sizes: int) -> TensorProto:
    proto = TensorProto(dtype=dtype.as_datatype_enum)
    for size in sizes:
        proto.tensor_shape.dim.add(size=size)
    return proto


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.binary(max_size=4), max_size=6),
    shape=st.lists(st.integers(0, 4), max_size=3),
)
def test_the_last_string_stands_for_all_that_follow(values: list[bytes], shape: list[int]) -> None:
    proto = declared(tf.string, *shape)
    proto.string_val.extend(values)
    size = int(np.prod(shape, dtype=int))
    if len(values) > size:
        with pytest.raises(ValueError, match="reshape"):
            to_array(proto, MIB)
        return
    flat = values + (values[-1:] or [b""]) * (size - len(values))
    array = to_array(proto, MIB)
    assert (array.dtype, array.shape) == (np.dtype(object), tuple(shape))
    assert array.ravel().tolist() == flat[:size]


def test_a_string_is_repeated_in_a_fraction_of_what_tensorflow_takes() -> None:
    proto = declared(tf.string, 200_000, 20)
    proto.string_val.append(b"ad01")

    def seconds(read: Callable[[], np.ndarray]) -> float:
        begin = time.thread_time()
        assert read()[-1, -1] == b"ad01"
        return time.thread_time() - begin

    own = min(seconds(lambda: to_array(proto, 256 * MIB)) for _ in range(3))
    assert own < 0.6 * min(seconds(lambda: tf.make_ndarray(proto)) for _ in range(3))


@pytest.mark.parametrize(
    ("proto", "size"),
    [
        (declared(tf.string, 1_600_000, 20), 101),
        (declared(tf.float32, 5, 5), 100),
        (declared(tf.float32, 26), 101),
        (declared(tf.string), 8),
        (declared(tf.bool, 100), 100),
        (declared(tf.int64, 0, 2**62), 0),
        (declared(tf.int64, 2**62, 0), 101),
        (declared(tf.int64, -1), 101),
        (declared(tf.int64, *[2**62] * 100_000), 101),
        (TensorProto(dtype=999), 1),
    ],
)
def test_a_shape_is_measured_without_its_values(proto: TensorProto, size: int) -> None:
    assert declared_bytes(proto, most=100) == size


def test_a_request_is_as_large_as_all_its_inputs() -> None:
    request = predict_pb2.PredictRequest()
    assert is_small(request, 0)
    for alias in "abc":
        request.inputs[alias].CopyFrom(declared(tf.float32, 10))
    assert is_small(request, 120)
    assert not is_small(request, 119)


def test_more_dimensions_than_tensorflow_knows_are_refused() -> None:
    assert len(shape_of(declared(tf.int64, *[1] * 254))) == 254
    # Their product would be a number of millions of digits.
    with pytest.raises(ValueError, match="at most 254 dimensions"):
        to_array(declared(tf.int64, *[2**62] * 300_000), MIB)


def test_what_decodes_to_more_than_the_bound_is_refused() -> None:
    one = declared(tf.float32, MIB // 4)
    one.float_val.append(1.0)
    assert to_array(one, MIB).nbytes == MIB
    one.tensor_shape.dim.add(size=2)
    with pytest.raises(ValueError, match=f"decodes to {2 * MIB} bytes, more than {MIB}"):
        to_array(one, MIB)
