"""The remote calls of TF Serving's API for one model, over connections that take turns."""

from __future__ import annotations

import itertools
from typing import Any

import grpc
from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

from serving.messages import Messages


class Stubs:
    """Opens connections and makes their calls.

    Args:
        library: `grpc`, or `grpc.aio`, which has the same functions for asyncio.
        messages: knows target and options.
        credentials: for TLS; None connects without.
        connections: HTTP/2 connections that calls of `predict` take turns on.

    Raises:
        ValueError: there is to be no connection.
    """

    def __init__(
        self,
        library: Any,
        messages: Messages,
        credentials: grpc.ChannelCredentials | None,
        connections: int,
    ) -> None:
        if connections < 1:
            raise ValueError(f"connections is {connections}: give at least 1")
        target, options = messages.target, messages.channel_options

        def channel() -> Any:
            if credentials is None:
                return library.insecure_channel(target, options)
            return library.secure_channel(target, credentials, options)

        self.channels = [channel() for _ in range(connections)]
        services = [
            prediction_service_pb2_grpc.PredictionServiceStub(channel) for channel in self.channels
        ]
        # `next` on a cycle is one C call, and so needs no lock.
        self._turn = itertools.cycle([service.Predict for service in services])
        self.metadata = services[0].GetModelMetadata
        self.status = model_service_pb2_grpc.ModelServiceStub(self.channels[0]).GetModelStatus

    @property
    def predict(self) -> Any:
        """Predict on the connection whose turn it is."""
        return next(self._turn)
