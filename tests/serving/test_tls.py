"""TLS of the gRPC port, with and without client certificates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import grpc
import pytest
from tensorflow_serving.apis import model_service_pb2_grpc
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusRequest

from serving.server import ModelServer
from serving.tls import TlsConfig, read_pem_files, read_ssl_config
from tests.serving.certificates import Authority, authority

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def ours() -> Authority:
    return authority("ours")


def status_code(port: int, root: bytes, key: bytes | None, chain: bytes | None) -> grpc.StatusCode:
    """The code of GetModelStatus, NOT_FOUND for a server that is reached and has no model yet."""
    credentials = grpc.ssl_channel_credentials(root, key, chain)
    request = GetModelStatusRequest()
    request.model_spec.name = "sid_tfx"
    with grpc.secure_channel(f"localhost:{port}", credentials) as channel:
        stub = model_service_pb2_grpc.ModelServiceStub(channel)
        with pytest.raises(grpc.RpcError) as caught:
            stub.GetModelStatus(request, timeout=10)
    return caught.value.code()


REACHED, REFUSED = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE


def test_clients_without_a_certificate_of_the_authority_are_refused(
    ours: Authority, tmp_path: Path
) -> None:
    other = authority("other")
    key, certificate = ours.issue("server")
    for name, content in (("key", key), ("certificate", certificate), ("ca", ours.pem)):
        (tmp_path / name).write_bytes(content)
    tls = read_pem_files(tmp_path / "key", tmp_path / "certificate", tmp_path / "ca")
    with ModelServer("sid_tfx", tmp_path / "none", host="localhost", tls=tls) as server:
        assert status_code(server.port, ours.pem, *ours.issue("client")) == REACHED
        assert status_code(server.port, ours.pem, None, None) == REFUSED
        assert status_code(server.port, ours.pem, *other.issue("client")) == REFUSED
        assert status_code(server.port, other.pem, *ours.issue("client")) == REFUSED


def test_tf_servings_file_serves_anyone_unless_it_asks_for_verification(
    ours: Authority, tmp_path: Path
) -> None:
    key, certificate = (text.decode() for text in ours.issue("server"))
    path = tmp_path / "ssl.config"
    path.write_text(f"server_key: {key!r} server_cert: {certificate!r}")
    tls = read_ssl_config(path)
    assert not tls.client_verify
    with ModelServer("sid_tfx", tmp_path / "none", host="localhost", tls=tls) as server:
        assert status_code(server.port, ours.pem, None, None) == REACHED
        with grpc.insecure_channel(f"localhost:{server.port}") as channel:
            stub = model_service_pb2_grpc.ModelServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.GetModelStatus(GetModelStatusRequest(), timeout=5)
            assert caught.value.code() in (REFUSED, grpc.StatusCode.DEADLINE_EXCEEDED)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TlsConfig(b"", b"x"), "TLS needs both"),
        (lambda: TlsConfig(b"x", b"x", b"", True), "by no authority"),
    ],
)
def test_half_a_configuration_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
