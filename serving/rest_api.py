"""TF Serving's REST API without a transport: method, path and body in, status and JSON out."""

from __future__ import annotations

import json
import logging
import re
import time
from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import unquote

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
    regression_pb2,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving import json_requests
from serving.errors import ServingError, from_exception, invalid_argument
from serving.inference import Inference
from serving.management import Management
from serving.metrics import Metrics
from serving.models import Models
from serving.version_dirs import MAX_VERSION

log = logging.getLogger(__name__)

_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_METHODS = ("classify", "predict", "regress")
_METADATA = "metadata"
# TF Serving's expressions. They match in either case; that a method is written small is checked
# later, and METADATA is no metadata but the status.
_INFERENCE = re.compile(rf"(?i)/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<method>\w+)")
_STATUS = re.compile(rf"(?i)/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<part>metadata))?")

_HTTP = {
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}


@dataclass(frozen=True)
class Answer:
    """An HTTP status and a JSON body."""

    status: int
    body: bytes


def error_answer(error: ServingError) -> Answer:
    """A refusal as TF Serving writes it."""
    body = json.dumps({"error": error.message}).encode()
    return Answer(_HTTP.get(error.code, 500), body)


class RestApi:
    """Answers as TF Serving does.

    Args:
        models: the served models.
        inference: answers `:predict`, `:classify`, `:regress` and `/metadata`.
        management: answers the status.
        metrics: where requests are counted.
        max_answer_bytes: bound on one output's decoded size.
    """

    def __init__(
        self,
        models: Models,
        inference: Inference,
        management: Management,
        metrics: Metrics,
        max_answer_bytes: int,
    ) -> None:
        self._models, self._inference, self._management = models, inference, management
        self._metrics, self._max_answer_bytes = metrics, max_answer_bytes

    def answer(self, method: str, path: str, body: bytes, deadline: float) -> Answer:
        """Answers one request.

        Args:
            method: GET or POST; no path knows another.
            path: the path, percent-encoding untouched.
            body: the body.
            deadline: `time.monotonic()` past which the caller has stopped waiting.
        """
        inference = _inference(method, path)
        status = _status(method, path)
        try:
            if inference:
                return Answer(200, self._infer(inference, body, deadline))
            if status:
                return Answer(200, self._describe(status))
            raise invalid_argument(f"Malformed request: {method} {path}")
        except ServingError as error:
            return error_answer(error)
        except Exception as error:
            log.exception("%s %s failed", method, path)
            return error_answer(from_exception(error))

    def refuse(self, method: str, path: str, error: ServingError) -> Answer:
        """Answers a request that is not worked on, and counts it as one that is."""
        if match := _inference(method, path):
            self._metrics.observe_request(
                unquote(match["name"]), match["method"], "REST", error.code.name, 0.0
            )
        return error_answer(error)

    def _infer(self, match: re.Match, body: bytes, deadline: float) -> bytes:
        begin, code = time.perf_counter(), grpc.StatusCode.UNKNOWN
        method, name = match["method"], unquote(match["name"])
        try:
            spec = _spec(match)
            if method != "predict":
                self._refuse(method, spec, body)
            answer = self._predict(spec, body, deadline)
            code = grpc.StatusCode.OK
            return answer
        except ServingError as error:
            code = error.code
            raise
        finally:
            seconds = time.perf_counter() - begin
            self._metrics.observe_request(name, method, "REST", code.name, seconds)

    def _predict(self, spec: ModelSpec, body: bytes, deadline: float) -> bytes:
        document = json_requests.parse_object(body)
        request = predict_pb2.PredictRequest(model_spec=spec)
        request.model_spec.signature_name = json_requests.signature_name(document)
        # The servable is held, so that no version switch falls between its dtypes and its run.
        with self._models.use(spec) as servable:
            by_row = json_requests.fill_inputs(request, document, servable)
            response = self._inference.predict_on(servable, request, deadline)
        answer = json_requests.answer(response, by_row, self._max_answer_bytes)
        return json.dumps(answer, indent=4, ensure_ascii=False).encode()

    def _refuse(self, method: str, spec: ModelSpec, body: bytes) -> NoReturn:
        spec.signature_name = json_requests.signature_name(json_requests.parse_object(body))
        if method == "classify":
            self._inference.classify(classification_pb2.ClassificationRequest(model_spec=spec))
        self._inference.regress(regression_pb2.RegressionRequest(model_spec=spec))

    def _describe(self, match: re.Match) -> bytes:
        if not match["name"]:
            raise invalid_argument("Missing model name in request.")
        spec = _spec(match)
        if match["part"] != _METADATA:
            status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
            return json.dumps(_to_dict(self._management.status(status)), indent=1).encode()
        response = self._inference.metadata(
            get_model_metadata_pb2.GetModelMetadataRequest(
                model_spec=spec, metadata_field=["signature_def"]
            )
        )
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        described = {
            "model_spec": _to_dict(response.model_spec),
            "metadata": {"signature_def": _to_dict(signatures)},
        }
        return json.dumps(described, indent=1).encode()


def asks_for_status(method: str, path: str) -> bool:
    """Whether a request asks which versions serve, which takes no servable to answer."""
    match = _status(method, path)
    return match is not None and match["part"] != _METADATA


def _status(method: str, path: str) -> re.Match | None:
    return _STATUS.fullmatch(path) if method == "GET" else None


def _inference(method: str, path: str) -> re.Match | None:
    match = _INFERENCE.fullmatch(path) if method == "POST" else None
    return match if match and match["method"] in _METHODS else None


def _spec(match: re.Match) -> ModelSpec:
    spec = ModelSpec(name=unquote(match["name"]))
    if match["label"]:
        spec.version_label = unquote(match["label"])
    elif match["version"]:
        version = int(match["version"]) if len(match["version"]) < 20 else MAX_VERSION + 1
        if version > MAX_VERSION:
            raise invalid_argument(f"Failed to convert version: {match['version']} to numeric.")
        spec.version.value = version
    return spec


def _to_dict(message: Message) -> dict:
    # The type stubs are of a newer protobuf, which has another name for the last argument.
    return json_format.MessageToDict(  # type: ignore[call-arg]
        message, preserving_proto_field_name=True, including_default_value_fields=True
    )
