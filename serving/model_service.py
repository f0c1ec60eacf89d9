"""`tensorflow.serving.ModelService`: GetModelStatus and HandleReloadConfigRequest."""

from __future__ import annotations

import time
from pathlib import Path

import grpc
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
)
from tensorflow_serving.config.model_server_config_pb2 import ModelConfig as ModelConfigProto

from serving.errors import ServingError, invalid_argument
from serving.models import ModelConfig, Models
from serving.rpc import handler


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """Answers as TF Serving does.

    Args:
        models: the served models.
        load_timeout: seconds a reload waits for the models it adds.
    """

    def __init__(self, models: Models, load_timeout: float = 300.0) -> None:
        self._models, self._load_timeout = models, load_timeout

    @handler
    def GetModelStatus(  # noqa: N802
        self,
        request: get_model_status_pb2.GetModelStatusRequest,
        context: grpc.ServicerContext,
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """State and, where it failed, reason of each version."""
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        model = self._models.get(spec.name)
        statuses = [] if model is None else model.statuses()
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
        if spec.HasField("version"):
            statuses = [status for status in statuses if status.version == spec.version.value]
            if not statuses:
                raise ServingError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Could not find version {spec.version.value} of model {spec.name}",
                )
        if not statuses:
            raise ServingError(
                grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {spec.name}"
            )
        response = get_model_status_pb2.GetModelStatusResponse()
        for status in statuses:
            entry = response.model_version_status.add(version=status.version, state=status.state)
            # An explicit OK, so that JSON renderings show it as TF Serving's do.
            entry.status.error_code = 0
            if status.error is not None:
                entry.status.error_code = status.error.number
                entry.status.error_message = status.error.message
        return response

    @handler
    def HandleReloadConfigRequest(  # noqa: N802
        self,
        request: model_management_pb2.ReloadConfigRequest,
        context: grpc.ServicerContext,
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of served models and waits until the added ones serve."""
        if request.config.WhichOneof("config") != "model_config_list":
            raise invalid_argument(
                "ServerModelConfig type not supported by HandleReloadConfigRequest. "
                "Only ModelConfigList is currently supported"
            )
        configs = [_config(proto) for proto in request.config.model_config_list.config]
        added = self._models.reload(configs)
        deadline = time.monotonic() + self._load_timeout
        for model in added:
            model.wait_until_settled(max(0.0, deadline - time.monotonic()))
        late = [model for model in added if model.available is None]
        if late:
            reasons = [
                f"{{name: {model.name} version: {status.version}}} due to error: {status.error}"
                for model in late
                for status in model.statuses()
                if status.error is not None
            ] or [f"{model.name}: no version under {model.base_path}" for model in late]
            raise ServingError(
                grpc.StatusCode.UNKNOWN,
                f"{len(late)} servable(s) did not become available: " + "; ".join(reasons),
            )
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = 0
        return response


def _config(proto: ModelConfigProto) -> ModelConfig:
    if proto.model_platform not in ("", "tensorflow"):
        raise invalid_argument(
            f"ModelConfig.model_platform of {proto.name} is {proto.model_platform!r}; "
            "this server serves 'tensorflow'"
        )
    policy = proto.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind not in (None, "latest") or (kind == "latest" and policy.latest.num_versions > 1):
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED,
            f"The version policy of {proto.name} is {kind!r}; this server serves the latest one",
        )
    return ModelConfig(proto.name, Path(proto.base_path))
