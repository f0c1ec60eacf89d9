"""What a Predict request does to a servable; knows nothing of gRPC transport.

The checks, their order and their messages follow TF Serving's `predict_util.cc`. Stricter in one
place: a wrong shape is refused by name before the graph runs, where TF Serving leaves it to the
ops, some of which accept it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_pb2 import TensorProto
from tensorflow_serving.apis import predict_pb2

from serving.caller import Caller, Done, answer_of
from serving.errors import ServingError, check_rows, from_exception, invalid_argument
from serving.servable import DEFAULT_SIGNATURE, Runnable, Signature
from serving.tensors import declared_bytes, fill, shape_of, to_array

MAX_TENSOR_BYTES = 256 * 1024 * 1024
# What a run may raise that says something of the request.
_REFUSED = (tf.errors.OpError, ValueError, TypeError)


def predict(
    servable: Runnable,
    request: predict_pb2.PredictRequest,
    deadline: float | None = None,
    max_rows: int | None = None,
) -> predict_pb2.PredictResponse:
    """Answers a Predict request on this servable; the model and version it names are not read.

    Args:
        servable: what answers.
        request: the request.
        deadline: `time.monotonic()` past which nobody waits for the answer.
        max_rows: of the request; None for no bound.

    Raises:
        ServingError: with TF Serving's code and message.
    """
    caller = Caller(deadline)
    response: predict_pb2.PredictResponse = answer_of(
        lambda done: begin_predict(servable, request, caller, done, max_rows), deadline
    )
    return response


def begin_predict(
    servable: Runnable,
    request: predict_pb2.PredictRequest,
    caller: Caller,
    done: Done,
    max_rows: int | None = None,
) -> None:
    """As `predict`; `done` is told the response or the error, where requests are batched later.

    Raises:
        ServingError: as `predict`; `done` is told nothing then.
    """
    key, inputs, outputs = _checked(servable, request, max_rows)

    def respond(values: list[np.ndarray] | Exception) -> None:
        if isinstance(values, Exception):
            done(from_exception(values) if isinstance(values, _REFUSED) else values)
            return
        try:
            response = _response(servable, request, key, outputs, values)
        except Exception as error:
            # Nobody above would tell the caller, who waits.
            done(error)
        else:
            done(response)

    try:
        servable.submit(key, inputs, outputs, caller, respond)
    except _REFUSED as error:
        raise from_exception(error) from error


def is_small(request: predict_pb2.PredictRequest, most: int) -> bool:
    """Whether the inputs of a request decode to no more than `most` bytes, by their shapes."""
    left = most
    for proto in request.inputs.values():
        left -= declared_bytes(proto, left)
        if left < 0:
            return False
    return True


def _checked(
    servable: Runnable,
    request: predict_pb2.PredictRequest,
    max_rows: int | None,
) -> tuple[str, dict[str, np.ndarray], list[str]]:
    key = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(key)
    if signature is None:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.'
        )
    inputs = _inputs(signature, request.inputs, max_rows)
    return key, inputs, _outputs(signature, request.output_filter)


def _response(
    servable: Runnable,
    request: predict_pb2.PredictRequest,
    key: str,
    outputs: Sequence[str],
    values: Sequence[np.ndarray],
) -> predict_pb2.PredictResponse:
    response = predict_pb2.PredictResponse()
    response.model_spec.name = request.model_spec.name
    response.model_spec.signature_name = key
    response.model_spec.version.value = servable.version
    for alias, value in zip(outputs, values, strict=True):
        fill(response.outputs[alias], value)
    return response


def _braces(names: Iterable[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _inputs(
    signature: Signature,
    given: Mapping[str, TensorProto],
    max_rows: int | None,
) -> dict[str, np.ndarray]:
    names, wanted = set(given), set(signature.inputs)
    if len(names) != len(wanted):
        raise invalid_argument(
            f"input size does not match signature: {len(names)}!={len(wanted)} "
            f"len({_braces(names)}) != len({_braces(wanted)}). "
            f"Sent extra: {_braces(names - wanted)}. "
            f"Missing but required: {_braces(wanted - names)}."
        )
    shapes = {alias: _shape(signature, alias, given[alias]) for alias in sorted(names)}
    if max_rows is not None:
        # Before anything is decoded: a few bytes declare millions of rows of one value.
        check_rows(max((shape[0] for shape in shapes.values() if shape), default=0), max_rows)
    arrays = {}
    for alias in shapes:
        try:
            arrays[alias] = to_array(given[alias], MAX_TENSOR_BYTES)
        except ValueError as error:
            raise _parsing_error(alias, error) from error
    return arrays


def _shape(signature: Signature, alias: str, proto: TensorProto) -> tuple[int, ...]:
    port = signature.inputs.get(alias)
    if port is None:
        raise invalid_argument(
            f"input tensor alias not found in signature: {alias}. "
            f"Inputs expected to be in the set {_braces(signature.inputs)}."
        )
    if proto.dtype != port.dtype.as_datatype_enum:
        raise invalid_argument(
            f"Expects arg[{list(signature.inputs).index(alias)}] to be {port.dtype.name} but "
            f"{_dtype_name(proto.dtype)} is provided, for input: {alias}"
        )
    try:
        shape = shape_of(proto)
    except ValueError as error:
        raise _parsing_error(alias, error) from error
    if not port.accepts(shape):
        raise invalid_argument(
            f"Expects input {alias} to be of shape {list(port.shape or ())} "
            f"but {list(shape)} is provided"
        )
    return shape


def _parsing_error(alias: str, error: ValueError) -> ServingError:
    return invalid_argument(f"tensor parsing error: {alias}: {error}")


def _dtype_name(number: int) -> str:
    try:
        return str(tf.dtypes.as_dtype(number).name)
    except TypeError:
        return f"dtype {number}"


def _outputs(signature: Signature, output_filter: Iterable[str]) -> list[str]:
    outputs: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {_braces(signature.outputs)}."
            )
        if alias in outputs:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        outputs.append(alias)
    return outputs or list(signature.outputs)
