"""HTTP requests to a local server, without a library that would tidy up what a test sends."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from typing import Any


def call(
    port: int,
    method: str,
    path: str,
    body: bytes = b"",
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body or None, dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read(), dict(response.getheaders())
    finally:
        connection.close()


def call_json(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Status and decoded JSON body."""
    sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    status, content, headers = call(port, method, path, sent)
    assert headers["Content-Type"].startswith("application/json")
    return status, json.loads(content)
