"""The one error the server raises inside and answers with outside."""

from __future__ import annotations

import grpc
import tensorflow as tf

_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


class ServingError(Exception):
    """A request or a load that cannot be served.

    Args:
        code: the gRPC status code that TF Serving answers with in this case.
        message: the sentence that goes on the wire.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def number(self) -> int:
        """The code as `tensorflow.error.Code` has it; both enumerations agree by design."""
        return int(self.code.value[0])


def invalid_argument(message: str) -> ServingError:
    """An error that says the request, not the server, is wrong."""
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)


def servable_not_found(name: str, version: int | None) -> ServingError:
    """An error that says no such model or version is loaded."""
    asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
    return ServingError(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {asked}")


def deadline_exceeded() -> ServingError:
    """An error that says the caller has stopped waiting."""
    return ServingError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline passed before the request was answered"
    )


def check_rows(rows: int, most: int) -> None:
    """Refuses a request of more rows than are taken, whoever bounds them, in TF Serving's words.

    Raises:
        ServingError: INVALID_ARGUMENT.
    """
    if rows > most:
        raise invalid_argument(f"Task size {rows} is larger than maximum batch size {most}")


def too_many_bytes(in_flight: int, limit: int) -> ServingError:
    """An error that says the messages of other requests take the memory there is for them."""
    return ServingError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"The requests in flight have {in_flight} bytes, the limit is {limit}",
    )


def shutting_down() -> ServingError:
    """An error that says another server has to be asked."""
    return ServingError(grpc.StatusCode.UNAVAILABLE, "The server is shutting down")


def from_exception(error: Exception) -> ServingError:
    """Any exception of a load or a run as a `ServingError`, TensorFlow's own codes kept."""
    if isinstance(error, ServingError):
        return error
    if isinstance(error, tf.errors.OpError):
        code = _BY_NUMBER.get(error.error_code, grpc.StatusCode.UNKNOWN)
        return ServingError(code, error.message)
    return ServingError(grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}")
