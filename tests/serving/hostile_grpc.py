"""Generated gRPC requests that no sane client sends, each with the code it must get."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis import (
    predict_pb2,
)

from serving.tensors import fill
from tests.serving.hostile import (
    MAX_MESSAGE,
    SERVICE,
    Hostile,
    Rng,
    good_inputs,
    good_request,
    ids,
    word,
)
from tests.serving.hostile_rpcs import OTHER_RPCS
from tests.serving.toy_servable import DIM, HISTORY

_DTYPES = [number for number in DataType.values() if 0 < number < 24]
_STRING, _FLOAT = DataType.Value("DT_STRING"), DataType.Value("DT_FLOAT")


def _an_input(rng: Rng, request: predict_pb2.PredictRequest) -> str:
    return str(rng.choice(sorted(request.inputs)))


def _change_model(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.name = word(rng)
    return StatusCode.NOT_FOUND


def _change_version(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.version.value = int(rng.choice([0, 2, -1, 2**63 - 1, -(2**63)]))
    return StatusCode.NOT_FOUND


def _change_label(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.version_label = word(rng)
    return StatusCode.INVALID_ARGUMENT


def _change_signature(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.signature_name = word(rng)
    return StatusCode.FAILED_PRECONDITION


def _drop_spec(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("model_spec")
    return StatusCode.INVALID_ARGUMENT


def _rename_input(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    alias = _an_input(rng, request)
    request.inputs[word(rng)].CopyFrom(request.inputs[alias])
    del request.inputs[alias]
    return StatusCode.INVALID_ARGUMENT


def _drop_input(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    del request.inputs[_an_input(rng, request)]
    return StatusCode.INVALID_ARGUMENT


def _ask_for_k(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    # The number of ads is the servable's; there is no input to ask for another.
    k = int(rng.choice([0, -1, 10**6, 2**31 - 1, -(2**31)]))
    fill(request.inputs["k"], np.array([k], np.int32))
    return StatusCode.INVALID_ARGUMENT


def _change_dtype(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    proto.dtype = int(rng.choice([number for number in _DTYPES if number != proto.dtype]))
    return StatusCode.INVALID_ARGUMENT


def _change_shape(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    del proto.tensor_shape.dim[:]
    for size in rng.choice([0, 1, 2, 7, 10**6, 2**40, 2**62], size=rng.integers(3, 6)):
        proto.tensor_shape.dim.add(size=int(size))
    return StatusCode.INVALID_ARGUMENT


def _negative_size(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    proto.tensor_shape.dim[0].size = -int(rng.integers(1, 2**40))
    return StatusCode.INVALID_ARGUMENT


def _huge_rows(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    proto.tensor_shape.dim[0].size = int(rng.integers(2**35, 2**50))
    return StatusCode.INVALID_ARGUMENT


def _unknown_rank(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.inputs[_an_input(rng, request)].tensor_shape.unknown_rank = True
    return StatusCode.INVALID_ARGUMENT


def _more_values_than_the_shape(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    for field in (proto.string_val, proto.float_val, proto.bool_val):
        if len(field):
            field.extend([field[0]] * int(rng.integers(1, 50)))
    return StatusCode.INVALID_ARGUMENT


def _broken_content(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    for field in ("string_val", "float_val", "bool_val"):
        proto.ClearField(field)
    proto.tensor_content = rng.bytes(int(rng.integers(1, 4)))
    if proto.dtype not in (_STRING, _FLOAT):
        proto.tensor_content += rng.bytes(7)
    return StatusCode.INVALID_ARGUMENT


def history_block(request: predict_pb2.PredictRequest, rows: int, columns: int) -> TensorProto:
    """`recommend`'s only input, of a shape and without values."""
    request.ClearField("inputs")
    request.model_spec.signature_name = "recommend"
    proto = request.inputs["history"]
    proto.dtype = _STRING
    for size in (rows, columns):
        proto.tensor_shape.dim.add(size=size)
    return proto


def _long_history(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """10^6 ads of history: in a few bytes, as one repeated value, or in full."""
    proto = history_block(request, 1, 10**6)
    proto.string_val.extend([b"ad01"] * (1 if rng.random() < 0.95 else 10**6))
    return StatusCode.INVALID_ARGUMENT


def _ragged_history(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """Histories of unlike lengths laid end to end: too few values are filled up, too many not."""
    rows = int(rng.integers(2, 5))
    values = 1 + int(sum(rng.integers(0, 2 * HISTORY, size=rows)))
    proto = history_block(request, rows, HISTORY)
    proto.string_val.extend(ids(rng, values).tolist())
    return StatusCode.OK if values <= rows * HISTORY else StatusCode.INVALID_ARGUMENT


def _not_numbers(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("inputs")
    request.model_spec.signature_name = "similar_to_embedding"
    odd = rng.choice([np.nan, np.inf, -np.inf], size=(int(rng.integers(1, 5)), DIM))
    fill(request.inputs["embedding"], odd.astype(np.float32))
    return StatusCode.OK


def _too_many_rows_at_once(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """More rows than a batch takes, in few bytes."""
    proto = history_block(request, int(rng.integers(2_000, 20_000)), HISTORY)
    proto.string_val.append(b"ad01")
    return StatusCode.INVALID_ARGUMENT


def _million_rows(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """10^6 rows and more of one value, a thousand times what a batch takes."""
    proto = history_block(request, int(rng.integers(10**6, 6 * 10**6)), HISTORY)
    proto.string_val.append(b"ad01")
    return StatusCode.INVALID_ARGUMENT


def _thousands_of_dimensions(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    proto = request.inputs[_an_input(rng, request)]
    for size in rng.choice([0, 1, 2**62], size=3000, p=[0.001, 0.4, 0.599]):
        proto.tensor_shape.dim.add(size=int(size))
    return StatusCode.INVALID_ARGUMENT


def _unequal_rows(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("inputs")
    request.model_spec.signature_name = "recommend_filtered"
    for alias, value in good_inputs(rng, "recommend_filtered").items():
        fill(request.inputs[alias], value)
    fill(request.inputs["mode"], ids(rng, 7))
    return StatusCode.INVALID_ARGUMENT


def _bad_filter(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.output_filter.extend([word(rng)] if rng.random() < 0.5 else ["count", "count"])
    return StatusCode.INVALID_ARGUMENT


def _bad_example(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("inputs")
    request.model_spec.signature_name = "encode_ads"
    # Field 1 with a length past the end: never a tf.Example, whatever follows.
    broken = b"\x0a\xff\x01" + rng.bytes(int(rng.integers(1, 20)))
    fill(request.inputs["examples"], np.array([broken], dtype=object))
    return StatusCode.INVALID_ARGUMENT


def _oversized(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.inputs["padding"].tensor_content = bytes(MAX_MESSAGE + int(rng.integers(10**5)))
    return StatusCode.RESOURCE_EXHAUSTED


def _nothing(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    return StatusCode.OK


_MUTATIONS: tuple[Callable[[Rng, predict_pb2.PredictRequest], StatusCode], ...] = (
    _change_model, _change_version, _change_label, _change_signature, _drop_spec, _rename_input,
    _drop_input, _ask_for_k, _change_dtype, _change_shape, _negative_size, _huge_rows,
    _unknown_rank, _more_values_than_the_shape, _broken_content, _long_history, _ragged_history,
    _not_numbers, _too_many_rows_at_once, _million_rows, _thousands_of_dimensions, _unequal_rows,
    _bad_filter, _bad_example, _nothing,
)  # fmt: skip
PREDICT = SERVICE.format("PredictionService/Predict")


def grpc_case(rng: Rng) -> Hostile:
    """One request of any RPC."""
    kind = rng.random()
    if kind < 0.80:
        mutate = _MUTATIONS[rng.integers(len(_MUTATIONS))]
        if rng.random() < 0.005:
            mutate = _oversized
        request = good_request(rng)
        code = mutate(rng, request)
        return Hostile(mutate.__name__, PREDICT, request.SerializeToString(), {code})
    if kind < 0.90:
        cut = _malformed_bytes(rng)
        # What does not parse is INTERNAL, as it is from gRPC's C++ server.
        return Hostile("_malformed", PREDICT, cut, {StatusCode.INTERNAL})
    make = OTHER_RPCS[rng.integers(len(OTHER_RPCS))]
    case = make(rng)
    return Hostile(make.__name__, case.method, case.body, case.codes)


def _malformed_bytes(rng: Rng) -> bytes:
    while True:
        whole = good_request(rng).SerializeToString()
        cut = whole[: rng.integers(1, len(whole))] + b"\xff" * int(rng.integers(1, 9))
        try:
            predict_pb2.PredictRequest.FromString(cut)
        except DecodeError:
            return cut


GRPC_KINDS = {"_malformed", "_oversized"} | {kind.__name__ for kind in (*_MUTATIONS, *OTHER_RPCS)}
