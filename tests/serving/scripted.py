"""A server whose answers a test decides: how long they take, and what the servable's bounds are."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.tensors import fill

HISTORY = 3


class Scripted(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Serves `recommend` and `recommend_filtered`; the fields may be changed at any time.

    Args:
        seconds: what a call takes.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.version, self.k, self.exclude, self.width = 1, 4, 3, HISTORY
        self.calls: list[str] = []
        self._server = grpc.server(ThreadPoolExecutor(4))
        prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")

    def __enter__(self) -> Scripted:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait()

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._begin("metadata")
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name in ("recommend", "recommend_filtered"):
            signature = signatures.signature_def[name]
            _port(signature.inputs["history"], self.width)
            _port(signature.outputs["ad_ids"], self.k)
            if name == "recommend_filtered":
                _port(signature.inputs["exclude_ad_ids"], self.exclude)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.version.value = self.version
        response.metadata["signature_def"].Pack(signatures)
        return response

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self._begin("predict")
        rows, width = (dim.size for dim in request.inputs["history"].tensor_shape.dim)
        if width != self.width:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "history has another shape")
        response = predict_pb2.PredictResponse()
        response.model_spec.version.value = self.version
        ads = np.array([[f"ad{place}".encode() for place in range(self.k)]] * rows, dtype=object)
        fill(response.outputs["ad_ids"], ads)
        fill(response.outputs["scores"], np.zeros([rows, self.k], np.float32))
        fill(response.outputs["count"], np.full(rows, self.k, np.int32))
        return response

    def _begin(self, call: str) -> None:
        self.calls.append(call)
        time.sleep(self.seconds)


def _port(info: Any, width: int) -> None:
    info.dtype = types_pb2.DT_STRING
    for size in (-1, width):
        info.tensor_shape.dim.add(size=size)
