"""`tensorflow.serving.PredictionService`: Predict, GetModelMetadata and the inference calls."""

from __future__ import annotations

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    inference_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.errors import ServingError, invalid_argument
from serving.models import Models
from serving.predict import predict
from serving.rpc import handler
from serving.servable import DEFAULT_SIGNATURE, Servable

_SIGNATURE_DEF = "signature_def"
_CLASSIFY = "tensorflow/serving/classify"
_REGRESS = "tensorflow/serving/regress"


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Answers as TF Serving does.

    Args:
        models: the served models.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    @handler
    def Predict(  # noqa: N802
        self, request: predict_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predict_pb2.PredictResponse:
        """Runs a signature."""
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            return predict(servable, request)

    @handler
    def GetModelMetadata(  # noqa: N802
        self,
        request: get_model_metadata_pb2.GetModelMetadataRequest,
        context: grpc.ServicerContext,
    ) -> get_model_metadata_pb2.GetModelMetadataResponse:
        """The signatures of a version."""
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

    @handler
    def Classify(  # noqa: N802
        self, request: classification_pb2.ClassificationRequest, context: grpc.ServicerContext
    ) -> None:
        """Refused: no servable of this project has a classification signature."""
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            _refuse(servable, request.model_spec, _CLASSIFY, "classification")

    @handler
    def Regress(  # noqa: N802
        self, request: regression_pb2.RegressionRequest, context: grpc.ServicerContext
    ) -> None:
        """Refused: no servable of this project has a regression signature."""
        _require_spec(request)
        with self._models.use(request.model_spec) as servable:
            _refuse(servable, request.model_spec, _REGRESS, "regression")

    @handler
    def MultiInference(  # noqa: N802
        self, request: inference_pb2.MultiInferenceRequest, context: grpc.ServicerContext
    ) -> None:
        """Refused, with the reason TF Serving gives for the first task."""
        if not request.tasks or not request.tasks[0].model_spec.name:
            raise invalid_argument("Found ModelSpec with an empty model name.")
        task = request.tasks[0]
        with self._models.use(task.model_spec) as servable:
            key = task.model_spec.signature_name or DEFAULT_SIGNATURE
            if key not in servable.signatures:
                raise invalid_argument(f"Requested signature not found in model graph: {key}")
            if task.method_name not in (_CLASSIFY, _REGRESS):
                raise ServingError(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"Unsupported signature method_name: {task.method_name}",
                )
            kind = "classification" if task.method_name == _CLASSIFY else "regression"
            _refuse(servable, task.model_spec, task.method_name, kind)


def _require_spec(request: object) -> None:
    if not request.HasField("model_spec"):  # type: ignore[attr-defined]
        raise invalid_argument("Missing ModelSpec")


def _refuse(servable: Servable, spec: ModelSpec, method_name: str, kind: str) -> None:
    key = spec.signature_name or DEFAULT_SIGNATURE
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
