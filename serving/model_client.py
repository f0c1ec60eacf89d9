"""The part of the client that holds for any model: connection, status, metadata, readiness."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar

import grpc

from serving.client_errors import RecommenderError
from serving.connection import Connection
from serving.messages import Messages, available_version
from serving.results import ModelMetadata, VersionState

Client = TypeVar("Client", bound="ModelClient")


class ModelClient:
    """A model on a server of TF Serving's API. Thread-safe.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call, reading the signatures included. While the server cannot be
            reached (a restart) a call is retried until then.
        max_message_bytes: bound on a request's and an answer's size.
        version_label: see `RecommenderClient`.
        credentials: see `RecommenderClient`.
        connections: see `RecommenderClient`.
    """

    def __init__(
        self,
        target: str,
        model_name: str = "sid_tfx",
        timeout: float = 10.0,
        max_message_bytes: int = 64 * 1024 * 1024,
        *,
        version_label: str | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        connections: int = 1,
    ) -> None:
        messages = Messages(target, model_name, timeout, max_message_bytes, version_label)
        self._connection = Connection(messages, credentials, connections)
        self._known: ModelMetadata | None = None

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def __enter__(self: Client) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def status(self) -> list[VersionState]:
        """The versions the server knows, as it reports them.

        Raises:
            RecommenderError: the call failed, see `client_errors`.
        """
        return self._connection.status()

    def metadata(self) -> ModelMetadata:
        """The signatures of the version that serves.

        Raises:
            RecommenderError: the call failed, see `client_errors`.
        """
        return self._learn(None)

    def wait_until_available(self, timeout: float = 60.0) -> int:
        """Waits until the server has a version to serve.

        Returns:
            The version.

        Raises:
            TimeoutError: none within `timeout` seconds; the message has the last state.
        """
        deadline = time.monotonic() + timeout
        last = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            try:
                version, last = available_version(self._connection.status(deadline))
            except RecommenderError as error:
                last = str(error)
            else:
                if version is not None:
                    return version
            time.sleep(min(0.05, max(left, 0)))
        raise self._connection.messages.not_available(timeout, last)

    def _learn(self, deadline: float | None) -> ModelMetadata:
        self._known = self._connection.metadata(deadline)
        return self._known
