"""The packets without a tag that open a connection (section "Start-up" of the protocol chapter)."""

from __future__ import annotations

import enum

import attrs

from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import StartupCode


class Negotiation(enum.Enum):
    """A request for encryption ahead of the StartupMessage."""

    SSL = "SSLRequest"
    GSSENC = "GSSENCRequest"


@attrs.frozen
class CancelRequest:
    """Asks to cancel whatever the client with this key is doing.

    `secret` has 4 bytes, or up to 256 in protocol 3.2.
    """

    process_id: int
    secret: bytes


@attrs.frozen
class StartupMessage:
    """The client's opening: protocol version and parameters (user, database, options, settings, `_pq_.`
    options).
    """

    minor: int
    parameters: dict[str, str]


def read_startup(body: bytes) -> Negotiation | CancelRequest | StartupMessage:
    """What a packet without a tag asks for. Raises `FramingError`, whose text may be shown to the peer."""
    code = int.from_bytes(body[:4], "big")
    if code == StartupCode.SSL:
        return Negotiation.SSL
    if code == StartupCode.GSSENC:
        return Negotiation.GSSENC
    if code == StartupCode.CANCEL:
        if not 12 <= len(body) <= 8 + 256:
            raise FramingError("invalid length of cancel request packet")
        return CancelRequest(int.from_bytes(body[4:8], "big"), body[8:])
    major, minor = code >> 16, code & 0xFFFF
    if major != 3:
        raise FramingError(f"unsupported frontend protocol {major}.{minor}: server supports 3.0 to 3.2")
    return StartupMessage(minor, _pairs(body[4:]))


def _pairs(data: bytes) -> dict[str, str]:
    """Name and value strings up to an empty name, which must be the last byte (`ProcessStartupPacket`)."""
    if not data.endswith(b"\0"):
        raise FramingError("invalid startup packet layout: expected terminator as last byte")
    parts = data.split(b"\0")
    pairs: dict[str, str] = {}
    for position in range(0, len(parts) - 1, 2):
        if not parts[position]:
            if position != len(parts) - 2:
                break
            return pairs
        name, value = parts[position], parts[position + 1]
        pairs[name.decode(errors="surrogateescape")] = value.decode(errors="surrogateescape")
    raise FramingError("invalid startup packet layout: expected terminator as last byte")
