"""Predict requests and answers in the JSON of TF Serving's REST API, by row or by column."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from tensorflow_serving.apis import predict_pb2

from serving.errors import ServingError, invalid_argument
from serving.json_tensors import is_base64, shown, to_json, to_tensor
from serving.servable import DEFAULT_SIGNATURE, Port, Runnable
from serving.tensors import fill, to_array

_SHOWN_DIGITS = 40


def parse_object(body: bytes) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        ServingError: INVALID_ARGUMENT, with the place of the mistake.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise invalid_argument(f"JSON Parse error: {error.msg} at offset: {error.pos}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from error
    except RecursionError as error:
        raise invalid_argument("JSON Parse error: lists or objects are nested too deep") from error
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {shown(document)} Is not object")
    return document


def _finite(number: str) -> float:
    # Python reads a number past the range of doubles as the infinity that JSON spells `Infinity`.
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"Number too big to be stored in double: {number[:_SHOWN_DIGITS]}")
    return value


def signature_name(document: Mapping[str, Any]) -> str:
    """The name of the signature that a body asks for; empty for the default one.

    Raises:
        ServingError: INVALID_ARGUMENT when it is no string.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {shown(document)} not formatted correctly. 'signature_name' key must be "
            "a string value."
        )
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise invalid_argument(f"JSON Value: {shown(name)} is no valid UTF-8") from error
    return name


def fill_inputs(
    request: predict_pb2.PredictRequest, document: Mapping[str, Any], servable: Runnable
) -> bool:
    """Fills the inputs of a PredictRequest, by the dtypes of the signature that it names.

    Returns:
        Whether they are given by row, as `instances`, and not as `inputs`, a tensor by name.

    Raises:
        ServingError: INVALID_ARGUMENT, in TF Serving's words and in its order: of a body that has
            several mistakes a client is told the same one.
    """
    name = request.model_spec.signature_name
    signature = servable.signatures.get(name or DEFAULT_SIGNATURE)
    if signature is None:
        raise invalid_argument(
            f'Serving signature name: "{name or DEFAULT_SIGNATURE}" not found in signature def'
        )
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {name or 'DEFAULT'}")
    by_row, values = _values(document)
    by_name = (_rows if by_row else _columns)(values, signature.inputs)
    for alias, value in by_name.items():
        fill(request.inputs[alias], value)
    return by_row


def _values(document: Mapping[str, Any]) -> tuple[bool, Any]:
    if "instances" not in document and "inputs" not in document:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    if "instances" in document and "inputs" in document:
        raise invalid_argument(
            f"JSON Value: {shown(document)} Not formatted correctly expecting only one of 'inputs' "
            "or 'instances' keys to exist "
        )
    if "inputs" in document:
        return False, document["inputs"]
    rows = document["instances"]
    if not isinstance(rows, list):
        raise invalid_argument(
            f"JSON Value: {shown(document)} Excepting 'instances' to be an list/array"
        )
    if not rows:
        raise invalid_argument(f"JSON Value: {shown(document)} No values in 'instances' array")
    return True, rows


def _rows(rows: list[Any], ports: Mapping[str, Port]) -> dict[str, np.ndarray]:
    plain = not isinstance(rows[0], dict) or is_base64(rows[0])
    if plain and len(ports) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors "
            "required as per tensorinfo_map"
        )
    if plain:
        [(alias, port)] = ports.items()
        for index, row in enumerate(rows):
            if isinstance(row, dict) and not is_base64(row):
                raise invalid_argument(
                    f"Expecting value/list but got object at item {index} of input list"
                )
        return {alias: _instances(rows, port)}
    for index, row in enumerate(rows):
        if not isinstance(row, dict) or is_base64(row):
            raise invalid_argument(f"Expecting object but got list at item {index} of input list")
        if row.keys() != ports.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: "
                f"{shown(row)} keys must be equal to: {','.join(ports)}"
            )
    return {alias: _instances([row[alias] for row in rows], port) for alias, port in ports.items()}


def _instances(rows: list[Any], port: Port) -> np.ndarray:
    try:
        return to_tensor(rows, port.dtype)
    except ServingError as error:
        raise ServingError(
            error.code, f"Failed to process 'instances' list. Error: {error.message}"
        ) from error


def _columns(values: Any, ports: Mapping[str, Port]) -> dict[str, np.ndarray]:
    if not isinstance(values, dict) or is_base64(values):
        if len(ports) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors "
                "required as per tensorinfo_map"
            )
        [(alias, port)] = ports.items()
        return {alias: to_tensor(values, port.dtype)}
    for alias in ports:
        if alias not in values:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
    return {alias: to_tensor(values[alias], port.dtype) for alias, port in ports.items()}


def answer(response: predict_pb2.PredictResponse, by_row: bool, max_bytes: int) -> dict[str, Any]:
    """The body of the answer: `predictions` by row, or `outputs` by column.

    Raises:
        ServingError: INVALID_ARGUMENT when rows are asked for and an output has none.
    """
    arrays = {alias: to_array(response.outputs[alias], max_bytes) for alias in response.outputs}
    if by_row:
        _check_rows(arrays)
    columns = {alias: to_json(alias, arrays[alias]) for alias in sorted(arrays)}
    if not by_row:
        return {"outputs": next(iter(columns.values())) if len(columns) == 1 else columns}
    if len(columns) == 1:
        return {"predictions": next(iter(columns.values()))}
    rows = zip(*columns.values(), strict=True)
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in rows]}


def _check_rows(arrays: Mapping[str, np.ndarray]) -> None:
    size = None
    for alias, array in arrays.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if size is not None and len(array) != size:
            raise invalid_argument(
                f"Tensor name: {alias} has inconsistent batch size: {len(array)} expecting: {size}"
            )
        size = len(array)
