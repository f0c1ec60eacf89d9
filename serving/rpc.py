"""Turns a `ServingError` inside a handler into the gRPC status of the call."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from serving.errors import ServingError

log = logging.getLogger(__name__)

Handler = TypeVar("Handler", bound=Callable[..., Any])
# gRPC sends the message as an HTTP/2 header, and clients refuse headers past 8 KiB.
_MAX_MESSAGE = 2048


def handler(method: Handler) -> Handler:
    """Decorates a servicer method: errors become statuses, surprises INTERNAL and a log entry."""

    @functools.wraps(method)
    def call(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request, context)
        except ServingError as error:
            code, message = error.code, error.message
        except Exception as error:
            log.exception("%s failed", method.__name__)
            code, message = grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}"
        context.abort(code, message[:_MAX_MESSAGE])

    return call  # type: ignore[return-value]
