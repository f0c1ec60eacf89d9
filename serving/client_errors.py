"""What the client raises. Each keeps the gRPC code and the server's own message."""

from __future__ import annotations

import grpc


class RecommenderError(Exception):
    """A call that failed.

    Args:
        message: what the server, or the transport, said.
        code: the gRPC status code.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class ModelNotFoundError(RecommenderError):
    """The server has no such model, or no such version of it is loaded (yet)."""


class InvalidRequestError(RecommenderError):
    """The servable refuses the request: a name, dtype, shape or value is wrong."""


class ServerUnavailableError(RecommenderError):
    """No server answered within the timeout, retries included."""


class RequestTimeoutError(RecommenderError):
    """The server was reached and did not answer in time."""


class ServerOverloadedError(RecommenderError):
    """The server's queue is full, or the message is past its size bound."""


_BY_CODE = {
    grpc.StatusCode.NOT_FOUND: ModelNotFoundError,
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequestError,
    grpc.StatusCode.UNAVAILABLE: ServerUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RequestTimeoutError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ServerOverloadedError,
}


def from_rpc_error(error: grpc.RpcError, target: str) -> RecommenderError:
    """The exception for a failed call to `target`."""
    code = error.code()
    kind = _BY_CODE.get(code, RecommenderError)
    return kind(f"{target} answered {code.name}: {error.details()}", code)
