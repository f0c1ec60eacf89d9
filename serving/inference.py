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
from serving.signature_checks import CLASSIFY, REGRESS, WORDS, check_inference, check_predict

_SIGNATURE_DEF = "signature_def"


class Inference:
    """Answers as TF Serving does.

    Args:
        models: the served models.
        metrics: where runs are counted.
        max_rows: of a request; None for no bound.
        check_method_names: whether a call wants signatures of its own method name, TF Serving's
            `--enable_signature_method_name_check`.
    """

    def __init__(
        self,
        models: Models,
        metrics: Metrics,
        max_rows: int | None = None,
        check_method_names: bool = False,
    ) -> None:
        self._models, self._metrics, self._max_rows = models, metrics, max_rows
        self._check_method_names = check_method_names

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
            self._check_predict(servable, request.model_spec)
            begin_predict(servable, request, caller, release, self._max_rows)
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
        self._check_predict(servable, request.model_spec)
        begin = time.perf_counter()
        response = predict(servable, request, deadline, self._max_rows)
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
            self._refuse(servable, request.model_spec, CLASSIFY)

    def regress(self, request: regression_pb2.RegressionRequest) -> NoReturn:
        """Refused: no servable of this project has a regression signature.

        Raises:
            ServingError: always.
        """
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            self._refuse(servable, request.model_spec, REGRESS)

    def multi_inference(self, request: inference_pb2.MultiInferenceRequest) -> NoReturn:
        """Refused, with the reason TF Serving gives for the first task.

        Raises:
            ServingError: always.
        """
        if not request.tasks:
            raise invalid_argument("ModelSpec has no name specified.")
        task = request.tasks[0]
        with self._models.use(task.model_spec) as servable:
            key = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if key not in servable.meta_graph.signature_def:
                raise invalid_argument(f"Requested signature not found in model graph: {key}")
            if task.method_name not in WORDS:
                raise ServingError(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"Unsupported signature method_name: {task.method_name}",
                )
            self._refuse(servable, task.model_spec, task.method_name)

    def _check_predict(self, servable: Runnable, spec: ModelSpec) -> None:
        signature = servable.signatures.get(spec.signature_name or DEFAULT_SIGNATURE)
        if self._check_method_names and signature is not None:
            check_predict(signature.method_name)

    def _refuse(self, servable: Runnable, spec: ModelSpec, method_name: str) -> NoReturn:
        key = spec.signature_name or DEFAULT_SIGNATURE
        definitions = servable.meta_graph.signature_def
        if key not in definitions:
            raise invalid_argument(f"No signature was found with the name: {key}")
        check_inference(method_name, definitions[key], self._check_method_names)
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"This server answers Predict only; {WORDS[method_name]} signatures need TF Serving.",
        )


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):  # type: ignore[attr-defined]
        raise invalid_argument("Missing ModelSpec")
