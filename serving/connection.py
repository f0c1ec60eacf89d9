"""The blocking connection to a model server: calls with retries inside a deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grpc
import numpy as np
from tenacity import Retrying

from serving.messages import Messages
from serving.results import ModelMetadata, VersionState
from serving.retries import Attempts
from serving.stubs import Stubs


class Connection:
    """Calls of TF Serving's API for one model, in NumPy arrays. Thread-safe.

    A `deadline` is the `time.monotonic()` at which a call ends, retries included; None gives it the
    time of `messages`.

    Args:
        messages: makes the requests.
        credentials: for TLS; None connects without.
        connections: HTTP/2 connections that calls take turns on.
    """

    def __init__(
        self,
        messages: Messages,
        credentials: grpc.ChannelCredentials | None = None,
        connections: int = 1,
    ) -> None:
        self.messages = messages
        self._stubs = Stubs(grpc, messages, credentials, connections)
        self._closed = False

    def close(self) -> None:
        """Closes the connections; calls in flight are cancelled."""
        self._closed = True
        for channel in self._stubs.channels:
            channel.close()

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        deadline: float | None = None,
    ) -> tuple[dict[str, np.ndarray], int]:
        """Runs a signature.

        Returns:
            The outputs by alias, and the version that answered.

        Raises:
            RecommenderError: see `client_errors`.
        """
        request = self.messages.predict(signature, inputs, outputs)
        return self.messages.read_predict(self._call(self._stubs.predict, request, deadline))

    def metadata(self, deadline: float | None = None) -> ModelMetadata:
        """The signatures of the version that serves.

        Raises:
            RecommenderError: see `client_errors`.
        """
        response = self._call(self._stubs.metadata, self.messages.metadata(), deadline)
        return self.messages.read_metadata(response)

    def status(self, deadline: float | None = None) -> list[VersionState]:
        """The state of every version.

        Raises:
            RecommenderError: see `client_errors`.
        """
        response = self._call(self._stubs.status, self.messages.status(), deadline)
        return self.messages.read_status(response)

    def _call(self, method: Callable[..., Any], request: Any, deadline: float | None) -> Any:
        until = self.messages.deadline() if deadline is None else deadline
        attempts = Attempts(until, self.messages.target, lambda: self._closed)

        def attempt() -> Any:
            return method(request, timeout=attempts.seconds_left)

        try:
            try:
                return attempt()
            except grpc.RpcError as error:
                if not attempts.worth_another(error):
                    raise
            # Only the rare call pays for the machinery of retries.
            return Retrying(**attempts.policy())(attempt)
        except grpc.RpcError as error:
            raise attempts.failure(error) from error
