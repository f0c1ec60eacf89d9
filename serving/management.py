"""`tensorflow.serving.ModelService` without a transport: status of models, and their list."""

from __future__ import annotations

import grpc
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from serving.errors import ServingError, invalid_argument
from serving.model_config import model_configs
from serving.models import Models


class Management:
    """Answers as TF Serving does.

    Args:
        models: the served models.
    """

    def __init__(self, models: Models) -> None:
        self._models = models

    def status(
        self, request: get_model_status_pb2.GetModelStatusRequest
    ) -> get_model_status_pb2.GetModelStatusResponse:
        """State and, where it failed, reason of each version.

        Raises:
            ServingError: with TF Serving's code and message.
        """
        if not request.HasField("model_spec"):
            raise invalid_argument("Missing ModelSpec")
        spec = request.model_spec
        model = self._models.get(spec.name)
        statuses = [] if model is None else model.statuses()
        version = self._models.version_of(spec)
        if version is not None:
            statuses = [status for status in statuses if status.version == version]
            if not statuses:
                raise ServingError(
                    grpc.StatusCode.NOT_FOUND,
                    f"Could not find version {version} of model {spec.name}",
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

    def reload(
        self, request: model_management_pb2.ReloadConfigRequest, timeout: float = 300.0
    ) -> model_management_pb2.ReloadConfigResponse:
        """Replaces the list of served models and waits until they serve.

        Raises:
            ServingError: with TF Serving's code and message.
        """
        self._models.reload(model_configs(request.config), timeout)
        response = model_management_pb2.ReloadConfigResponse()
        response.status.error_code = 0
        return response
