"""The two gRPC services of TF Serving's API."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.errors import ServingError, deadline_exceeded
from serving.inference import Inference
from serving.management import Management
from serving.metrics import Metrics

log = logging.getLogger(__name__)

# gRPC sends the message as an HTTP/2 header, a byte that is not plain ASCII as three, and clients
# refuse headers past 8 KiB.
_MAX_MESSAGE_BYTES = 2048
_Call = Callable[[float | None], Any]


def _deadline(context: grpc.ServicerContext) -> float | None:
    left = context.time_remaining()
    # A call without a deadline has centuries left.
    return None if left is None or left > 1e9 else time.monotonic() + left


def _answer(
    context: grpc.ServicerContext,
    name: str,
    call: _Call,
    observe: Callable[[str], None] = lambda status: None,
) -> Any:
    """The response of a call; a refusal becomes the status of the RPC, a surprise INTERNAL."""
    try:
        deadline = _deadline(context)
        if deadline is not None and deadline <= time.monotonic():
            raise deadline_exceeded()
        response = call(deadline)
        observe("OK")
        return response
    except ServingError as error:
        code, message = error.code, error.message
    except Exception as error:
        log.exception("%s failed", name)
        code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
    observe(code.name)
    context.abort(
        code, message.encode(errors="replace")[:_MAX_MESSAGE_BYTES].decode(errors="ignore")
    )


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Predict, GetModelMetadata and the inference calls over gRPC.

    Args:
        inference: what answers.
        metrics: where requests are counted.
    """

    def __init__(self, inference: Inference, metrics: Metrics) -> None:
        self._inference, self._metrics = inference, metrics

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Inference.predict`."""
        return self._measured(
            "Predict",
            request.model_spec.name,
            context,
            lambda deadline: self._inference.predict(request, deadline),
        )

    def GetModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Inference.metadata`."""
        return _answer(
            context, "GetModelMetadata", lambda deadline: self._inference.metadata(request)
        )

    def Classify(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Inference.classify`."""
        return self._measured(
            "Classify",
            request.model_spec.name,
            context,
            lambda deadline: self._inference.classify(request),
        )

    def Regress(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Inference.regress`."""
        return self._measured(
            "Regress",
            request.model_spec.name,
            context,
            lambda deadline: self._inference.regress(request),
        )

    def MultiInference(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Inference.multi_inference`."""
        return self._measured(
            "MultiInference",
            request.tasks[0].model_spec.name if request.tasks else "",
            context,
            lambda deadline: self._inference.multi_inference(request),
        )

    def _measured(
        self, api: str, model_name: str, context: grpc.ServicerContext, call: _Call
    ) -> Any:
        begin = time.perf_counter()

        def observe(status: str) -> None:
            seconds = time.perf_counter() - begin
            self._metrics.observe_request(model_name, api, "GRPC", status, seconds)

        return _answer(context, api, call, observe)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """GetModelStatus and HandleReloadConfigRequest over gRPC.

    Args:
        management: what answers.
    """

    def __init__(self, management: Management) -> None:
        self._management = management

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        """See `Management.status`."""
        return _answer(context, "GetModelStatus", lambda deadline: self._management.status(request))

    def HandleReloadConfigRequest(  # noqa: N802
        self, request: Any, context: grpc.ServicerContext
    ) -> Any:
        """See `Management.reload`."""
        return _answer(
            context,
            "HandleReloadConfigRequest",
            lambda deadline: self._management.reload(request),
        )
