"""The two gRPC services of TF Serving's API: which method is worked on by what, and where."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_management_pb2,
    model_service_pb2,
    predict_pb2,
    prediction_service_pb2,
    regression_pb2,
)

from serving.caller import Caller, Done
from serving.grpc_calls import SMALL_BYTES, Admission, Begin, UnaryMethod
from serving.grpc_loop import LoopThread
from serving.inference import Inference
from serving.management import Management
from serving.metrics import Metrics
from serving.predict import is_small
from serving.settings import ServerSettings

PREDICTION_SERVICE = prediction_service_pb2.DESCRIPTOR.services_by_name[
    "PredictionService"
].full_name
MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"].full_name


class PredictionService:
    """Predict, GetModelMetadata and the inference calls over gRPC.

    Args:
        inference: what answers.
        metrics: where requests are counted.
        settings: the bounds.
        loop: where the calls wait.
    """

    def __init__(
        self, inference: Inference, metrics: Metrics, settings: ServerSettings, loop: LoopThread
    ) -> None:
        self._inference, self._metrics, self._loop = inference, metrics, loop
        workers, batching = settings.max_workers, settings.batching is not None
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="rpc")
        self._admission = Admission(workers + settings.max_queue, settings.max_inflight_bytes)
        if not batching:
            metrics.waiting("GRPC", lambda: max(0, self._admission.in_hand - workers))
        # A batched request waits in its batch's queue, and holds no thread meanwhile.
        self._predict_in_loop = _is_small if batching else None

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server registers."""
        inference = self._inference
        methods = {
            "Predict": self._method(
                "Predict",
                predict_pb2.PredictRequest,
                inference.begin_predict,
                in_loop=self._predict_in_loop,
            ),
            "GetModelMetadata": UnaryMethod(
                f"/{PREDICTION_SERVICE}/GetModelMetadata",
                get_model_metadata_pb2.GetModelMetadataRequest,
                _at_once(inference.metadata),
                self._loop,
                self._admission,
                self._pool,
            ),
            "Classify": self._method(
                "Classify",
                classification_pb2.ClassificationRequest,
                _at_once(inference.classify),
            ),
            "Regress": self._method(
                "Regress", regression_pb2.RegressionRequest, _at_once(inference.regress)
            ),
            "MultiInference": self._method(
                "MultiInference",
                inference_pb2.MultiInferenceRequest,
                _at_once(inference.multi_inference),
                model_of=_first_model,
            ),
        }
        return _generic(PREDICTION_SERVICE, methods)

    def close(self) -> None:
        """Runs nothing further; what has begun is not waited for."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _method(
        self,
        api: str,
        request_class: Any,
        begin: Begin,
        model_of: Callable[[Any], str] = lambda request: str(request.model_spec.name),
        in_loop: Callable[[Any], bool] | None = None,
    ) -> UnaryMethod:
        return UnaryMethod(
            f"/{PREDICTION_SERVICE}/{api}",
            request_class,
            begin,
            self._loop,
            self._admission,
            self._pool,
            in_loop,
            model_of,
            partial(self._observe, api),
        )

    def _observe(self, api: str, model: str, status: str, seconds: float) -> None:
        self._metrics.observe_request(model, api, "GRPC", status, seconds)


class ModelService:
    """GetModelStatus and HandleReloadConfigRequest over gRPC.

    Args:
        management: what answers.
        settings: the bounds.
        loop: where the calls wait.
    """

    def __init__(self, management: Management, settings: ServerSettings, loop: LoopThread) -> None:
        self._management, self._loop = management, loop
        self._limits = (settings.max_workers + settings.max_queue, settings.max_inflight_bytes)
        # A reload waits for models to load, and the next one for it: in a thread of their own, they
        # keep no request from being answered.
        self._reloads = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._large = ThreadPoolExecutor(1, thread_name_prefix="status")

    def handlers(self) -> grpc.GenericRpcHandler:
        """What a server registers."""
        methods = {
            # In the loop, so that a server that has all hands full still says how it is.
            "GetModelStatus": UnaryMethod(
                f"/{MODEL_SERVICE}/GetModelStatus",
                get_model_status_pb2.GetModelStatusRequest,
                _at_once(self._management.status),
                self._loop,
                Admission(*self._limits),
                self._large,
                in_loop=lambda request: True,
            ),
            "HandleReloadConfigRequest": UnaryMethod(
                f"/{MODEL_SERVICE}/HandleReloadConfigRequest",
                model_management_pb2.ReloadConfigRequest,
                _at_once(self._management.reload),
                self._loop,
                Admission(*self._limits),
                self._reloads,
            ),
        }
        return _generic(MODEL_SERVICE, methods)

    def close(self) -> None:
        """Runs nothing further; what has begun is not waited for."""
        self._reloads.shutdown(wait=False, cancel_futures=True)
        self._large.shutdown(wait=False, cancel_futures=True)


def _at_once(call: Callable[[Any], Any]) -> Begin:
    """Work that is over when it returns."""

    def begin(request: Any, caller: Caller, done: Done) -> None:
        done(call(request))

    return begin


def _is_small(request: predict_pb2.PredictRequest) -> bool:
    # The message may be small and what it says large: one value stands for all that follow.
    return is_small(request, SMALL_BYTES)


def _first_model(request: inference_pb2.MultiInferenceRequest) -> str:
    return request.tasks[0].model_spec.name if request.tasks else ""


def _generic(service: str, methods: dict[str, UnaryMethod]) -> grpc.GenericRpcHandler:
    return grpc.method_handlers_generic_handler(
        service, {name: method.handler() for name, method in methods.items()}
    )
