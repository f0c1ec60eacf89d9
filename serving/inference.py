"""`tensorflow.serving.PredictionService` without a transport: what gRPC and REST both answer.

A deadline is a `time.monotonic()` past which the caller has stopped waiting.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import NoReturn

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.caller import Caller, Done
from serving.errors import ServingError, invalid_argument
from serving.metrics import Metrics
from serving.models import Models
from serving.predict import begin_predict, predict
from serving.servable import DEFAULT_SIGNATURE, Runnable

_SIGNATURE_DEF = "signature_def"
_KINDS = {
    "tensorflow/serving/classify": "classification",
    "tensorflow/serving/regress": "regression",
}
_CLASSIFY, _REGRESS = _KINDS


class Inference:
    """Answers as TF Serving does.

    Args:
        models: the served models.
        metrics: where runs are counted.
    """

    def __init__(self, models: Models, metrics: Metrics) -> None:
        self._models, self._metrics = models, metrics

    def begin_predict(
        self, request: predict_pb2.PredictRequest, caller: Caller, done: Done
    ) -> None:
        """Runs a signature; `done` is told the response or the error, later where it is batched.

        Raises:
            ServingError: with TF Serving's code and message; `done` is told nothing then.
        """
        _require_spec(request)
        held = ExitStack()
        begin = time.perf_counter()

        def release(response: predict_pb2.PredictResponse | Exception) -> None:
            held.close()
            if not isinstance(response, Exception):
                self._metrics.observe_run(servable.name, time.perf_counter() - begin)
            done(response)

        try:
            servable = held.enter_context(self._models.use(request.model_spec))
            begin_predict(servable, request, caller, release)
        except BaseException:
            held.close()
            raise

    def predict_on(
        self, servable: Runnable, request: predict_pb2.PredictRequest, deadline: float | None
    ) -> predict_pb2.PredictResponse:
        """Runs a signature of a servable that the caller holds.

        Raises:
            ServingError: with TF Serving's code and message.
        """
        begin = time.perf_counter()
        response = predict(servable, request, deadline)
        self._metrics.observe_run(servable.name, time.perf_counter() - begin)
        return response

    def metadata(
        self, request: get_model_metadata_pb2.GetModelMetadataRequest
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version.

        Raises:
            ServingError: with TF Serving's code and message.
        """
        _require_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != _SIGNATURE_DEF:
                raise invalid_argument(f"Metadata field {field} is not supported")
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        signatures = get_model_metadata_pb2.SignatureDefMap()
        with self._models.use(request.model_spec) as servable:
            for key, definition in servable.meta_graph.signature_def.items():
                signatures.signature_def[key].CopyFrom(definition)
            response.model_spec.name = request.model_spec.name
            response.model_spec.version.value = servable.version
        response.metadata[_SIGNATURE_DEF].Pack(signatures)
        return response

    def classify(self, request: classification_pb2.ClassificationRequest) -> NoReturn:
        """Refused: no servable of this project has a classification signature.

        Raises:
            ServingError: always.
        """
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            _refuse(servable, request.model_spec, _CLASSIFY)

    def regress(self, request: regression_pb2.RegressionRequest) -> NoReturn:
        """Refused: no servable of this project has a regression signature.

        Raises:
            ServingError: always.
        """
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            _refuse(servable, request.model_spec, _REGRESS)

    def multi_inference(self, request: inference_pb2.MultiInferenceRequest) -> NoReturn:
        """Refused, with the reason TF Serving gives for the first task.

        Raises:
            ServingError: always.
        """
        if not request.tasks or not request.tasks[0].model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        task = request.tasks[0]
        with self._models.use(task.model_spec) as servable:
            key = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if key not in servable.signatures:
                raise invalid_argument(f"Requested signature not found in model graph: {key}")
            if task.method_name not in _KINDS:
                raise ServingError(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"Unsupported signature method_name: {task.method_name}",
                )
            _refuse(servable, task.model_spec, task.method_name)


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):  # type: ignore[attr-defined]
        raise invalid_argument("Missing ModelSpec")


def _refuse(servable: Runnable, spec: ModelSpec, method_name: str) -> NoReturn:
    key, kind = spec.signature_name or DEFAULT_SIGNATURE, _KINDS[method_name]
    signature = servable.signatures.get(key)
    if signature is None:
        raise invalid_argument(f"No signature was found with the name: {key}")
    if signature.method_name != method_name:
        raise invalid_argument(
            f"Expected {kind} signature method_name to be {method_name}. "
            f"Was: {signature.method_name}"
        )
    raise ServingError(
        grpc.StatusCode.UNIMPLEMENTED,
        f"This server answers Predict only; {kind} signatures need TF Serving.",
    )
