"""The part of the client that holds for any model: connection, status, metadata, readiness."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TypeVar

from serving import wire
from serving.client_errors import RecommenderError
from serving.connection import Connection
from serving.results import ModelMetadata, VersionState

Client = TypeVar("Client", bound="ModelClient")


class ModelClient:
    """A model on a server of TF Serving's API. Thread-safe.

    Args:
        target: `host:port` of the server's gRPC port.
        model_name: the model's name on the server.
        timeout: seconds for a call. While the server cannot be reached (a restart) a call is
            retried until then.
        max_message_bytes: bound on a request's and an answer's size.
    """

    def __init__(
        self,
        target: str,
        model_name: str = "sid_tfx",
        timeout: float = 10.0,
        max_message_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout}: give the seconds a call may take")
        self._connection = Connection(target, model_name, timeout, max_message_bytes)
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
        return wire.states(self._connection.status())

    def metadata(self) -> ModelMetadata:
        """The signatures of the version that serves.

        Raises:
            RecommenderError: the call failed, see `client_errors`.
        """
        signatures, version = self._connection.metadata()
        self._known = wire.model_metadata(signatures, version)
        return self._known

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
                states = wire.states(self._connection.status(timeout=left))
            except RecommenderError as error:
                last = str(error)
            else:
                for state in states:
                    if state.state == "AVAILABLE":
                        return state.version
                last = ", ".join(f"{s.version} {s.state} {s.error}".strip() for s in states)
            time.sleep(min(0.05, max(left, 0)))
        raise TimeoutError(
            f"{self._connection.model_name} at {self._connection.target} is not available after "
            f"{timeout:g} s: {last}"
        )
