"""Generated requests that no sane client sends, each with the answers it may get."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from grpc import StatusCode
from tensorflow.core.framework.types_pb2 import DataType
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    predict_pb2,
)

from serving.tensors import fill
from tests.serving.toy_servable import AD_IDS, DIM, EXCLUDE, HISTORY

MAX_MESSAGE = 1_000_000
_SERVICE = "/tensorflow.serving.{}"
_DTYPES = [number for number in DataType.values() if 0 < number < 24]
_STRING, _FLOAT = DataType.Value("DT_STRING"), DataType.Value("DT_FLOAT")


@dataclass(frozen=True)
class Hostile:
    """One request and the codes it may be answered with: of gRPC, or of HTTP."""

    what: str
    method: str
    body: bytes
    codes: Set


Rng = np.random.Generator


def _ids(rng: Rng, *shape: int) -> np.ndarray:
    pool = [*(ad.encode() for ad in AD_IDS), b"", b"?", "é".encode(), b"\xff\xfe", b"x" * 300]
    block = np.empty(int(np.prod(shape)), dtype=object)
    block[:] = [pool[index] for index in rng.integers(len(pool), size=block.size)]
    return block.reshape(shape)


def good_inputs(rng: Rng, signature: str) -> dict[str, np.ndarray]:
    """Inputs that fit, of strange ids and numbers."""
    rows = int(rng.integers(1, 5))
    history = {"history": _ids(rng, rows, HISTORY)}
    if signature == "recommend":
        return history
    if signature == "similar_ads":
        return {"ad_ids": _ids(rng, rows)}
    if signature == "similar_to_embedding":
        values = rng.normal(size=(rows, DIM)).astype(np.float32)
        values[rng.random(values.shape) < 0.3] = rng.choice([np.nan, np.inf, -np.inf, 3e38, 1e-45])
        return {"embedding": values}
    return {
        **history,
        "exclude_ad_ids": _ids(rng, rows, EXCLUDE),
        "filter_seen": rng.random(rows) < 0.5,
        "mode": _ids(rng, rows),
    }


SIGNATURES = ("recommend", "recommend_filtered", "similar_ads", "similar_to_embedding")


def good_request(rng: Rng) -> predict_pb2.PredictRequest:
    """A request that must be answered."""
    signature = str(rng.choice(SIGNATURES))
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "sid_tfx", signature
    for alias, value in good_inputs(rng, signature).items():
        fill(request.inputs[alias], value)
    return request


def _word(rng: Rng) -> str:
    letters = list("abk_/:\\\"'{}%é\u2603 \n0-9")
    return "".join(rng.choice(letters, size=rng.integers(1, 40)))


def _an_input(rng: Rng, request: predict_pb2.PredictRequest) -> str:
    return str(rng.choice(sorted(request.inputs)))


def _change_model(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.name = _word(rng)
    return StatusCode.NOT_FOUND


def _change_version(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.version.value = int(rng.choice([0, 2, -1, 2**63 - 1, -(2**63)]))
    return StatusCode.NOT_FOUND


def _change_label(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.version_label = _word(rng)
    return StatusCode.INVALID_ARGUMENT


def _change_signature(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.model_spec.signature_name = _word(rng)
    return StatusCode.FAILED_PRECONDITION


def _drop_spec(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("model_spec")
    return StatusCode.INVALID_ARGUMENT


def _rename_input(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    alias = _an_input(rng, request)
    request.inputs[_word(rng)].CopyFrom(request.inputs[alias])
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


def _long_history(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """10^6 ads of history: in a few bytes, as one repeated value, or in full."""
    request.ClearField("inputs")
    request.model_spec.signature_name = "recommend"
    proto = request.inputs["history"]
    proto.dtype = _STRING
    proto.tensor_shape.dim.add(size=1)
    proto.tensor_shape.dim.add(size=10**6)
    if rng.random() < 0.9:
        proto.string_val.append(b"ad01")
        return StatusCode.INVALID_ARGUMENT
    proto.string_val.extend([b"ad01"] * 10**6)
    return StatusCode.RESOURCE_EXHAUSTED


def _too_many_rows_at_once(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    """More rows than a batch takes, in few bytes."""
    request.ClearField("inputs")
    request.model_spec.signature_name = "recommend"
    proto = request.inputs["history"]
    proto.dtype = _STRING
    proto.tensor_shape.dim.add(size=int(rng.integers(2_000, 20_000)))
    proto.tensor_shape.dim.add(size=HISTORY)
    proto.string_val.append(b"ad01")
    return StatusCode.INVALID_ARGUMENT


def _unequal_rows(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.ClearField("inputs")
    request.model_spec.signature_name = "recommend_filtered"
    for alias, value in good_inputs(rng, "recommend_filtered").items():
        fill(request.inputs[alias], value)
    fill(request.inputs["mode"], _ids(rng, 7))
    return StatusCode.INVALID_ARGUMENT


def _bad_filter(rng: Rng, request: predict_pb2.PredictRequest) -> StatusCode:
    request.output_filter.extend([_word(rng)] if rng.random() < 0.5 else ["count", "count"])
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
    _unknown_rank, _more_values_than_the_shape, _broken_content, _long_history,
    _too_many_rows_at_once, _unequal_rows, _bad_filter, _bad_example, _nothing,
)  # fmt: skip
_PREDICT = _SERVICE.format("PredictionService/Predict")


def grpc_case(rng: Rng) -> Hostile:
    """One request of any RPC."""
    kind = rng.random()
    if kind < 0.80:
        mutate = _MUTATIONS[rng.integers(len(_MUTATIONS))]
        if rng.random() < 0.005:
            mutate = _oversized
        request = good_request(rng)
        code = mutate(rng, request)
        return Hostile(mutate.__name__, _PREDICT, request.SerializeToString(), {code})
    if kind < 0.90:
        cut = _malformed(rng)
        # What does not parse is INTERNAL, as it is from gRPC's C++ server.
        return Hostile("malformed", _PREDICT, cut, {StatusCode.INTERNAL})
    return _other_rpc(rng)


def _malformed(rng: Rng) -> bytes:
    while True:
        whole = good_request(rng).SerializeToString()
        cut = whole[: rng.integers(1, len(whole))] + b"\xff" * int(rng.integers(1, 9))
        try:
            predict_pb2.PredictRequest.FromString(cut)
        except DecodeError:
            return cut


def _other_rpc(rng: Rng) -> Hostile:
    kind = int(rng.integers(6))
    if kind == 0:
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = _word(rng)
        return _rpc("ModelService/GetModelStatus", status, StatusCode.NOT_FOUND)
    if kind == 1:
        metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[_word(rng)])
        metadata.model_spec.name = "sid_tfx"
        return _rpc("PredictionService/GetModelMetadata", metadata, StatusCode.INVALID_ARGUMENT)
    if kind == 2:
        classify = classification_pb2.ClassificationRequest()
        classify.model_spec.name = "sid_tfx"
        classify.model_spec.signature_name = _word(rng)
        return _rpc("PredictionService/Classify", classify, StatusCode.INVALID_ARGUMENT)
    if kind == 3:
        reload = model_management_pb2.ReloadConfigRequest()
        for _ in range(2):
            reload.config.model_config_list.config.add(name=_word(rng), base_path="/nowhere")
        reload.config.model_config_list.config[1].name = reload.config.model_config_list.config[
            0
        ].name
        return _rpc("ModelService/HandleReloadConfigRequest", reload, StatusCode.INVALID_ARGUMENT)
    if kind == 4:
        empty = model_management_pb2.ReloadConfigRequest()
        return _rpc("ModelService/HandleReloadConfigRequest", empty, StatusCode.INVALID_ARGUMENT)
    return Hostile(
        "no such method",
        _SERVICE.format("PredictionService/" + str(rng.choice(["predict", "Drop", "X"]))),
        rng.bytes(20),
        {StatusCode.UNIMPLEMENTED},
    )


def _rpc(method: str, request: Any, code: StatusCode) -> Hostile:
    return Hostile(method, _SERVICE.format(method), request.SerializeToString(), {code})


def rest_case(rng: Rng) -> Hostile:
    """One HTTP request to the REST API; `method` is verb and path."""
    path = "/v1/models/sid_tfx"
    row: list[Any] = ["ad01", "ad02", "", "", ""]
    body: Any = {"instances": [row]}
    codes, verb = {400}, "POST"
    what = str(rng.choice(_REST))
    if what == "good":
        codes = {200}
    elif what == "cut":
        text = json.dumps(body).encode()
        return Hostile(what, f"POST {path}:predict", text[: rng.integers(len(text))], {400})
    elif what == "bytes":
        return Hostile(what, f"POST {path}:predict", b"\xff" + rng.bytes(30), {400})
    elif what == "model":
        path, codes = f"/v1/models/{rng.choice(['a', 'sid', 'SID_TFX', '%00', '..'])}", {404}
    elif what == "version":
        path, codes = f"{path}/versions/{rng.integers(2, 10**9)}", {404}
    elif what == "label":
        path = f"{path}/labels/l{rng.integers(9)}"
    elif what == "verb":
        verb = str(rng.choice(["GET", "PUT", "DELETE", "PATCH"]))
    elif what == "path":
        path, codes = f"/{rng.choice(['v2', 'models', '..', '%2e%2e', 'etc/passwd'])}", {404}
    elif what == "keys":
        body = {str(rng.choice(["instance", "input", "x", ""])): [row]}
    elif what == "both":
        body = {"instances": [row], "inputs": [row]}
    elif what == "signature":
        body = {"signature_name": 5 if rng.random() < 0.3 else _word(rng), **body}
    elif what == "value":
        row[rng.integers(HISTORY)] = [None, 1, 1.5, True, {}, {"b64": "%"}, {"b64": 1}, []][
            rng.integers(8)
        ]
    elif what == "ragged":
        body = {"instances": [row, row[: rng.integers(HISTORY)]]}
    elif what == "wide":
        body = {"inputs": [["ad01"] * int(rng.choice([0, 1, 6, 50_000]))]}
    elif what == "deep":
        depth = int(rng.integers(3, 50_000))
        return Hostile(
            what, f"POST {path}:predict", b'{"inputs":' + b"[" * depth + b"]" * depth + b"}", {400}
        )
    elif what == "number":
        values = [1.0] * DIM
        number = json.dumps({"signature_name": "similar_to_embedding", "inputs": [values]})
        odd, codes = {
            0: ("1e39", {400}), 1: ("NaN", {200}), 2: ("-Infinity", {200}), 3: ("9" * 5000, {400}),
            4: ('"1"', {400}), 5: ("true", {400}), 6: ("16777217", {200}), 7: ("1e-400", {200}),
        }[int(rng.integers(8))]  # fmt: skip
        return Hostile(what, f"POST {path}:predict", number.replace("1.0", odd, 1).encode(), codes)
    elif what == "example":
        broken = base64.b64encode(b"\x0a\xff\x01" + rng.bytes(5)).decode()
        body = {"signature_name": "encode_ads", "instances": [{"b64": broken}]}
    elif what == "method":
        path, codes = f"{path}:{rng.choice(['classify', 'regress', 'drop', ''])}", {400}
        return Hostile(what, f"POST {path}", json.dumps(body).encode(), codes)
    suffix = ":predict" if what != "path" else ""
    return Hostile(what, f"{verb} {path}{suffix}", json.dumps(body, default=str).encode(), codes)


_REST = (
    "good", "cut", "bytes", "model", "version", "label", "verb", "path", "keys", "both",
    "signature", "value", "ragged", "wide", "deep", "number", "example", "method",
)  # fmt: skip
