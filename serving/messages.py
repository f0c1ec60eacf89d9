"""Requests and answers of TF Serving's API for one model, without a connection."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    predict_pb2,
)
from tensorflow_serving.apis.model_pb2 import ModelSpec

from serving import wire
from serving.results import ModelMetadata, VersionState
from serving.tensors import fill, to_array


@dataclass(frozen=True)
class Messages:
    """Makes requests and reads answers; both kinds of connection use it.

    Args:
        target: `host:port`.
        model_name: the model's name on the server.
        timeout: seconds for a call, retries included.
        max_message_bytes: bound on a request's and an answer's size.
        version_label: label of the version to ask; the newest when None.
    """

    target: str
    model_name: str
    timeout: float
    max_message_bytes: int
    version_label: str | None = None

    def __post_init__(self) -> None:
        if self.timeout <= 0:
            raise ValueError(f"timeout is {self.timeout}: give the seconds a call may take")

    def deadline(self) -> float:
        """`time.monotonic()` at which a call that begins now has to be answered."""
        return time.monotonic() + self.timeout

    @property
    def channel_options(self) -> list[tuple[str, int]]:
        """Options of a gRPC channel."""
        return [
            ("grpc.max_send_message_length", self.max_message_bytes),
            ("grpc.max_receive_message_length", self.max_message_bytes),
            # gRPC backs off up to two minutes by default: longer than a server's restart.
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # Channels of equal options would share one connection.
            ("grpc.use_local_subchannel_pool", 1),
        ]

    def predict(
        self, signature: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> predict_pb2.PredictRequest:
        """A Predict request."""
        spec = self._spec(signature_name=signature)
        request = predict_pb2.PredictRequest(model_spec=spec, output_filter=outputs)
        for alias, value in inputs.items():
            fill(request.inputs[alias], value)
        return request

    def read_predict(
        self, response: predict_pb2.PredictResponse
    ) -> tuple[dict[str, np.ndarray], int]:
        """Outputs by alias, and the version that answered."""
        arrays = {
            alias: to_array(proto, self.max_message_bytes)
            for alias, proto in response.outputs.items()
        }
        return arrays, response.model_spec.version.value

    def metadata(self) -> get_model_metadata_pb2.GetModelMetadataRequest:
        """A GetModelMetadata request."""
        return get_model_metadata_pb2.GetModelMetadataRequest(
            model_spec=self._spec(), metadata_field=["signature_def"]
        )

    def read_metadata(
        self, response: get_model_metadata_pb2.GetModelMetadataResponse
    ) -> ModelMetadata:
        """The signatures of the version that answered."""
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata["signature_def"].Unpack(signatures)
        return wire.model_metadata(signatures, response.model_spec.version.value)

    def status(self) -> get_model_status_pb2.GetModelStatusRequest:
        """A GetModelStatus request."""
        return get_model_status_pb2.GetModelStatusRequest(model_spec=self._spec())

    def read_status(
        self, response: get_model_status_pb2.GetModelStatusResponse
    ) -> list[VersionState]:
        """The state of every version."""
        return wire.states(response)

    def not_available(self, timeout: float, last: str) -> TimeoutError:
        """What waiting for a version ends with."""
        return TimeoutError(
            f"{self.model_name} at {self.target} is not available after {timeout:g} s: {last}"
        )

    def _spec(self, **fields: str) -> ModelSpec:
        spec = ModelSpec(name=self.model_name, **fields)
        if self.version_label is not None:
            spec.version_label = self.version_label
        return spec


def available_version(states: Sequence[VersionState]) -> tuple[int | None, str]:
    """The newest version that serves, or None, and a sentence on all of them."""
    serving = [state.version for state in states if state.state == "AVAILABLE"]
    words = ", ".join(f"{s.version} {s.state} {s.error}".strip() for s in states)
    return max(serving, default=None), words
