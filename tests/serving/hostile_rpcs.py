"""Generated requests of the RPCs beside Predict, each with the code it must get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grpc import StatusCode
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    regression_pb2,
)

from tests.serving.hostile import SERVICE, Hostile, Rng, word


def _rpc(method: str, request: Any, code: StatusCode) -> Hostile:
    return Hostile(method, SERVICE.format(method), request.SerializeToString(), {code})


def _status(rng: Rng) -> Hostile:
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = word(rng)
    return _rpc("ModelService/GetModelStatus", request, StatusCode.NOT_FOUND)


def _metadata(rng: Rng) -> Hostile:
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=[word(rng)])
    request.model_spec.name = "sid_tfx"
    return _rpc("PredictionService/GetModelMetadata", request, StatusCode.INVALID_ARGUMENT)


def _classify(rng: Rng) -> Hostile:
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "sid_tfx"
    request.model_spec.signature_name = word(rng)
    return _rpc("PredictionService/Classify", request, StatusCode.INVALID_ARGUMENT)


def _regress(rng: Rng) -> Hostile:
    request = regression_pb2.RegressionRequest()
    code = StatusCode.INVALID_ARGUMENT
    kind = rng.integers(4)
    if kind == 0:
        # No model at all, but an input.
        request.input.example_list.examples.add()
    elif kind == 1:
        request.model_spec.name, code = word(rng), StatusCode.NOT_FOUND
    else:
        request.model_spec.name = "sid_tfx"
        request.model_spec.signature_name = word(rng) if kind == 2 else "recommend"
    return _rpc("PredictionService/Regress", request, code)


def _multi_inference(rng: Rng) -> Hostile:
    request = inference_pb2.MultiInferenceRequest()
    code = StatusCode.INVALID_ARGUMENT
    kind = rng.integers(4)
    if kind > 0:
        task = request.tasks.add(method_name="tensorflow/serving/classify")
        task.model_spec.name = "sid_tfx"
        if kind == 1:
            task.model_spec.name, code = word(rng), StatusCode.NOT_FOUND
        elif kind == 2:
            task.method_name, code = word(rng), StatusCode.UNIMPLEMENTED
        request.tasks.extend([task] * int(rng.integers(500)))
    return _rpc("PredictionService/MultiInference", request, code)


def _reload(rng: Rng) -> Hostile:
    request = model_management_pb2.ReloadConfigRequest()
    if rng.random() < 0.5:
        name = word(rng)
        for _ in range(2):
            request.config.model_config_list.config.add(name=name, base_path="/nowhere")
    return _rpc("ModelService/HandleReloadConfigRequest", request, StatusCode.INVALID_ARGUMENT)


def _no_such_method(rng: Rng) -> Hostile:
    return Hostile(
        "no such method",
        SERVICE.format("PredictionService/" + str(rng.choice(["predict", "Drop", "X"]))),
        rng.bytes(20),
        {StatusCode.UNIMPLEMENTED},
    )


OTHER_RPCS: tuple[Callable[[Rng], Hostile], ...] = (
    _status, _metadata, _classify, _regress, _multi_inference, _reload, _no_such_method,
)  # fmt: skip
