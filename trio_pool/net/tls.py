"""TLS contexts: for clients who connect to us, and for origins that we connect to.

Source: PostgreSQL 18, sections "Secure TCP/IP Connections with SSL" and "SSL Support" of libpq. Contexts read
their files once, when they are made.
"""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

from trio_pool.config.origin import Origin, SslMode

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from trio_pool.config.access import ListenTLS
    from trio_pool.config.tunnel import TunnelListen

ALPN = "postgresql"
"""The protocol name that makes a direct TLS connection (without SSLRequest) safe from cross-protocol attacks;
required there.
"""

HANDSHAKE_RECORD = 0x16
"""First byte of a TLS handshake, which no packet without a tag begins with."""


def listen_context(tls: ListenTLS) -> ssl.SSLContext:
    """The context for clients.

    Certificates of clients are verified where `client_ca` is set, and demanded only by the method `cert`.
    """
    assert tls.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(tls.certificate, tls.key)
    context.set_alpn_protocols([ALPN])
    if tls.client_ca is not None:
        context.load_verify_locations(tls.client_ca)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def origin_context(origin: Origin) -> ssl.SSLContext:
    """The context for an origin.

    As in libpq, `require` verifies the chain if (and only if) sslrootcert is given.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    verified = origin.sslmode in (SslMode.VERIFY_CA, SslMode.VERIFY_FULL) or (
        origin.sslmode is SslMode.REQUIRE and origin.sslrootcert is not None
    )
    context.check_hostname = origin.sslmode is SslMode.VERIFY_FULL
    if not verified:
        context.verify_mode = ssl.CERT_NONE
    elif origin.sslrootcert is not None:
        context.load_verify_locations(origin.sslrootcert)
    else:
        context.load_default_certs()
    if origin.sslcert is not None:
        context.load_cert_chain(origin.sslcert, origin.sslkey)
    return context


def own_certificate(context_of: ListenTLS | TunnelListen) -> bytes:
    """Our certificate as DER, for channel binding: the first of the file."""
    assert context_of.certificate is not None
    pem = context_of.certificate.read_text()
    begin = pem.index("-----BEGIN CERTIFICATE-----")
    end = pem.index("-----END CERTIFICATE-----", begin)
    return ssl.PEM_cert_to_DER_cert(pem[begin : end + len("-----END CERTIFICATE-----")])


def names(certificate: Mapping[str, object] | None) -> frozenset[str]:
    """The common names of a verified client certificate, in the form of `SSLObject.getpeercert`."""
    return frozenset(_common_names(certificate or {}))


def _common_names(certificate: Mapping[str, object]) -> Iterator[str]:
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    for relative_name in subject:
        for kind, value in relative_name:
            if kind == "commonName":
                yield value
