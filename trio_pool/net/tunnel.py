"""What both ends of a tunnel agree on: TLS, the greeting, and what is said while nobody uses it.

A tunnel is a TCP connection from an origin to an edge with mutual TLS: the edge is the server of both, the
origin shows a certificate with its name. Inside:

    origin                                     edge
      | trio-pool tunnel 1 <instance>\\n         |
      |---------------------------------------->|   is one of the certificate's names allowed?
      |                     ready <seconds>\\n   |   or: refused <why>\\n
      |<----------------------------------------|
      |                                    ?    |   every so many seconds, while it is unused:
      |<----------------------------------------|   are you there?
      | !                                       |
      |---------------------------------------->|
      |                                    >    |   somebody wants it
      |<----------------------------------------|
      | <                                       |   and from here on it is a connection to the origin:
      |---------------------------------------->|   StartupMessage or CancelRequest, in the clear inside TLS

The answer to ">" costs a round trip, and for that a tunnel that is dead is found out before anything of
PostgreSQL's has been said over it: another one can be taken without harm.

An *instance* is one run of an origin's process. A cancel request has to reach the very process that gave out
its key.
"""

from __future__ import annotations

import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_pool.net import tls
from trio_pool.net.conversation import Conversation, EndOfStream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.config.tunnel import Tunnel, TunnelDial, TunnelListen
    from trio_pool.net.transport import TLSTransport

ALPN: Final = "trio-pool-tunnel"
"""No other protocol's TLS connection can be taken for a tunnel, nor the other way round."""
GREETING: Final = 15.0
"""Seconds for TLS and the greeting."""
PATIENCE: Final = 3
"""So many pings long may the other side be silent."""
ASK: Final = b"?"
HERE: Final = b"!"
TAKE: Final = b">"
TAKEN: Final = b"<"
BY_TUNNEL: Final = socket.AF_UNSPEC
"""Stands for the address family of what no address leads to."""
_LONGEST_LINE: Final = 200
_HELLO: Final = re.compile(r"trio-pool tunnel 1 ([0-9a-f]{8,64})")
_READY: Final = re.compile(r"ready ([0-9]{1,6}(?:\.[0-9]{1,6})?)")


class TunnelFault(Exception):
    """A tunnel did not come about, or is no good; the text says why, for the log."""


@attrs.frozen
class Numbers:
    """Tunnels of one name, or to one edge."""

    ready: int = 0
    used: int = 0
    taken: int = 0
    """So many have been used, those that still are among them."""
    lost: int = 0
    """So many have ended unused: broken, silent, too old."""


def listen_context(listen: TunnelListen) -> ssl.SSLContext:
    """An edge's. Raises OSError (`ssl.SSLError` is one)."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, listen.certificate, listen.key, listen.client_ca)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return context


def dial_context(dial: TunnelDial) -> ssl.SSLContext:
    """An origin's; verifies the edge's host name. Raises OSError."""
    return _context(ssl.PROTOCOL_TLS_CLIENT, dial.certificate, dial.key, dial.ca)


def _context(side: ssl._SSLMethod, certificate: Path, key: Path | None, ca: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    context.load_cert_chain(certificate, key)
    context.load_verify_locations(ca)
    return context


def unusable(config: Tunnel) -> Iterator[tuple[tuple[str, ...], OSError]]:
    """Tables whose certificates cannot be loaded, and why not."""
    if config.listen is not None:
        try:
            listen_context(config.listen)
        except OSError as error:
            yield ("tunnel", "listen", "certificate"), error
    for name, dial in config.dial.items():
        try:
            dial_context(dial)
        except OSError as error:
            yield ("tunnel", "dial", name, "certificate"), error


async def encrypt(
    conversation: Conversation, context: ssl.SSLContext, *, server_hostname: str | None = None
) -> TLSTransport:
    """TLS, as the server unless a name to verify is given. Raises `TunnelFault`."""
    try:
        transport = await conversation.upgrade(
            context, server_side=server_hostname is None, server_hostname=server_hostname
        )
    except ssl.SSLCertVerificationError as error:
        raise TunnelFault(
            f"the other side's certificate is not acceptable: {error.verify_message}"
        ) from error
    except ssl.SSLError as error:
        raise TunnelFault(_explain(error)) from error
    except EndOfStream as end:
        raise TunnelFault(_explain(end)) from end
    if transport.tls.selected_alpn_protocol() != ALPN:
        raise TunnelFault("the other side speaks no tunnels")
    return transport


async def line(conversation: Conversation) -> str:
    """The next line, without its end. Raises `TunnelFault`."""
    text = b""
    try:
        while (byte := await conversation.byte()) != b"\n":
            text += byte
            if len(text) > _LONGEST_LINE:
                raise TunnelFault("the other side speaks no tunnels")
    except EndOfStream as end:
        # With TLS 1.3 a server says only now what it thinks of a client's certificate.
        raise TunnelFault(_explain(end)) from end
    return text.decode("utf-8", "replace")


_SAID: Final = {
    "UNKNOWN_CA": "does not know who has signed our certificate",
    "CERTIFICATE_EXPIRED": "says that our certificate has expired",
    "CERTIFICATE_REVOKED": "says that our certificate has been revoked",
    "BAD_CERTIFICATE": "does not accept our certificate",
    "CERTIFICATE_UNKNOWN": "does not accept our certificate",
    "UNSUPPORTED_CERTIFICATE": "does not accept our certificate",
    "CERTIFICATE_REQUIRED": "wants a certificate, and we have shown none",
    "NO_APPLICATION_PROTOCOL": "speaks no tunnels",
}
"""Alerts of TLS (RFC 8446, 6.2)."""
_SEEN: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "has shown no certificate",
    "WRONG_VERSION_NUMBER": "does not speak TLS",
    "HTTP_REQUEST": "speaks HTTP",
    "HTTPS_PROXY_REQUEST": "speaks HTTP",
    "UNEXPECTED_EOF_WHILE_READING": "has closed the connection",
}


def _explain(error: EndOfStream | ssl.SSLError) -> str:
    """Why a handshake, or what came first after it, has failed; in words that say which side has to do
    something.
    """
    cause = error.error if isinstance(error, EndOfStream) else error
    reason = getattr(cause, "reason", None)
    if reason is None:
        return f"TLS failed: {error}"
    _, alert, name = str(reason).rpartition("ALERT_")
    what = _SAID.get(name) if alert else _SEEN.get(name)
    return f"the other side {what}" if what is not None else f"TLS failed: {reason}"


def hello(instance: str) -> bytes:
    return f"trio-pool tunnel 1 {instance}\n".encode()


def read_hello(text: str) -> str:
    """The instance. Raises `TunnelFault`."""
    found = _HELLO.fullmatch(text)
    if found is None:
        raise TunnelFault("the other side speaks no tunnels, or another version of them")
    return found[1]


def ready(ping: float) -> bytes:
    return f"ready {ping:.6f}\n".encode()


def refused(why: str) -> bytes:
    return f"refused {why}\n".encode()


def read_answer(text: str) -> float:
    """How often the edge is going to ask, in seconds. Raises `TunnelFault` if it has refused."""
    if text.startswith("refused "):
        raise TunnelFault(f"the edge refuses: {text.removeprefix('refused ')}")
    found = _READY.fullmatch(text)
    if found is None:
        raise TunnelFault("the other side speaks no tunnels, or another version of them")
    return float(found[1])


def good_until(transport: TLSTransport) -> float:
    """When the other side's verified certificate expires, as Unix time."""
    certificate: Any = transport.tls.getpeercert() or {}
    return float(ssl.cert_time_to_seconds(certificate["notAfter"]))


def names(transport: TLSTransport) -> frozenset[str]:
    """The names in the verified certificate of the other side: common names and DNS names."""
    certificate = transport.tls.getpeercert() or {}
    others: Any = certificate.get("subjectAltName", ())
    return tls.names(certificate) | {name for kind, name in others if kind == "DNS"}
