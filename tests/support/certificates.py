"""Certificates for one run of the tests, by trustme."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import attrs
import trustme

from trio_pool.cli.postgres import ServerCertificate

if TYPE_CHECKING:
    from pathlib import Path


@attrs.frozen
class Certificates:
    """PEM files: an authority, a server's certificate for localhost, a client's, an authority of strangers.

    The client's certificate has the common name "app", the tests' user. Nobody's certificate is signed by
    `stranger_ca`: who trusts only that must refuse every connection.
    """

    ca: Path
    server_certificate: Path
    server_key: Path
    client_certificate: Path
    client_key: Path
    stranger_ca: Path

    @classmethod
    def issue(cls, directory: Path) -> Certificates:
        """Make all of them, in a directory that exists."""
        authority = trustme.CA()
        server = authority.issue_cert("localhost", "127.0.0.1", "::1")
        client = authority.issue_cert("app@example.org", common_name="app")
        issued = cls(
            ca=directory / "ca.crt",
            server_certificate=directory / "server.crt",
            server_key=directory / "server.key",
            client_certificate=directory / "client.crt",
            client_key=directory / "client.key",
            stranger_ca=directory / "stranger.crt",
        )
        authority.cert_pem.write_to_path(issued.ca)
        trustme.CA().cert_pem.write_to_path(issued.stranger_ca)
        for leaf, certificate, key in (
            (server, issued.server_certificate, issued.server_key),
            (client, issued.client_certificate, issued.client_key),
        ):
            certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
            leaf.private_key_pem.write_to_path(key)
            key.chmod(0o600)  # libpq refuses keys that others can read
        return issued

    @property
    def server(self) -> ServerCertificate:
        """For `LocalPostgres`."""
        return ServerCertificate(self.server_certificate, self.server_key)

    def client_context(self, ca: Path | None = None) -> ssl.SSLContext:
        """What verify-full is to libpq: the certificate and the name in it are verified."""
        return ssl.create_default_context(cafile=ca or self.ca)
