"""Certificates of the gRPC port."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.config_protos import read_config


@dataclass(frozen=True)
class TlsConfig:
    """A server's key and certificate, and whom it lets in. All in PEM.

    Args:
        key: the private key.
        certificate: the certificate, and the chain up to its authority.
        client_ca: the authority that signs client certificates; empty when none is asked for.
        client_verify: whether a client without a valid certificate is refused.
    """

    key: bytes
    certificate: bytes
    client_ca: bytes = b""
    client_verify: bool = False

    def __post_init__(self) -> None:
        if not self.key or not self.certificate:
            raise ValueError("TLS needs both: a private key and a certificate in PEM")
        if self.client_verify and not self.client_ca:
            raise ValueError(
                "client certificates are to be verified, but by no authority: give its "
                "certificate (custom_ca, --tls_client_ca)"
            )

    def credentials(self) -> grpc.ServerCredentials:
        """What a gRPC server listens with."""
        return grpc.ssl_server_credentials(
            [(self.key, self.certificate)],
            root_certificates=self.client_ca or None,
            require_client_auth=self.client_verify,
        )


def read_ssl_config(path: Path) -> TlsConfig:
    """Reads TF Serving's `--ssl_config_file`, an `SSLConfig` with the PEM texts in it.

    Raises:
        ValueError: the file cannot be read, or key or certificate is missing.
    """
    proto = read_config(path, "SSLConfig")
    try:
        return TlsConfig(
            proto.server_key.encode(),
            proto.server_cert.encode(),
            proto.custom_ca.encode(),
            proto.client_verify,
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_pem_files(key: Path, certificate: Path, client_ca: Path | None) -> TlsConfig:
    """Reads PEM files; with a client authority, clients need a certificate of its.

    Raises:
        ValueError: a file cannot be read.
    """
    try:
        authority = client_ca.read_bytes() if client_ca else b""
        return TlsConfig(key.read_bytes(), certificate.read_bytes(), authority, bool(authority))
    except OSError as error:
        raise ValueError(f"TLS: {error}") from error
