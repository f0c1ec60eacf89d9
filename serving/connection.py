"""One gRPC connection to a model server: calls with retries inside a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving.client_errors import from_rpc_error
from serving.tensors import fill, to_array


class Connection:
    """Calls of TF Serving's API for one model, in NumPy arrays.

    Args:
        target: `host:port`.
        model_name: the model's name on the server.
        timeout: seconds for a call, retries included.
        max_message_bytes: bound on a request's and an answer's size.
    """

    def __init__(
        self, target: str, model_name: str, timeout: float, max_message_bytes: int
    ) -> None:
        self.target, self.model_name, self.timeout = target, model_name, timeout
        self._max_message_bytes = max_message_bytes
        self._closed = False
        self._channel = grpc.insecure_channel(
            target,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
                # gRPC backs off up to two minutes by default: longer than a server's restart.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
            ],
        )
        prediction = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._predict, self._metadata = prediction.Predict, prediction.GetModelMetadata
        self._status = model_service_pb2_grpc.ModelServiceStub(self._channel).GetModelStatus

    def close(self) -> None:
        """Closes the channel; calls in flight are cancelled."""
        self._closed = True
        self._channel.close()

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        version: int | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Runs a signature.

        Returns:
            The outputs by alias, and the version that answered.

        Raises:
            RecommenderError: see `client_errors`.
        """
        request = predict_pb2.PredictRequest(
            model_spec=self._spec(signature_name=signature), output_filter=outputs
        )
        if version is not None:
            request.model_spec.version.value = version
        for alias, value in inputs.items():
            fill(request.inputs[alias], value)
        response = self._call(self._predict, request)
        arrays = {
            alias: to_array(proto, self._max_message_bytes)
            for alias, proto in response.outputs.items()
        }
        return arrays, response.model_spec.version.value

    def metadata(self) -> tuple[get_model_metadata_pb2.SignatureDefMap, int]:
        """The signatures of the version that serves, and its number.

        Raises:
            RecommenderError: see `client_errors`.
        """
        request = get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )
        response = self._call(self._metadata, request)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return signatures, response.model_spec.version.value

    def status(self, timeout: float | None = None) -> get_model_status_pb2.GetModelStatusResponse:
        """The state of every version.

        Raises:
            RecommenderError: see `client_errors`.
        """
        request = get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())
        return self._call(self._status, request, timeout)

    def _spec(self, **fields: str) -> ModelSpec:
        return ModelSpec(name=self.model_name, **fields)

    def _may_retry(self, error: BaseException) -> bool:
        if not isinstance(error, grpc.RpcError) or self._closed:
            return False
        # A call that reaches a server in the instant it shuts down comes back as CANCELLED. All
        # calls of this API only read, so that asking again is safe.
        return error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)

    def _call(self, method: Callable[..., Any], request: Any, timeout: float | None = None) -> Any:
        seconds = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds

        def attempt() -> Any:
            return method(request, timeout=max(deadline - time.monotonic(), 0.001))

        try:
            try:
                return attempt()
            except grpc.RpcError as error:
                if not self._may_retry(error):
                    raise
            # Only the rare call pays for the machinery of retries.
            return Retrying(
                retry=retry_if_exception(self._may_retry),
                stop=stop_after_delay(max(deadline - time.monotonic(), 0)),
                wait=wait_random_exponential(multiplier=0.02, max=0.5),
                reraise=True,
            )(attempt)
        except grpc.RpcError as error:
            raise from_rpc_error(error, self.target) from error
