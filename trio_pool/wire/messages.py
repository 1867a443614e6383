"""The messages that a pooler builds, and the few whose bodies it reads.

Source: PostgreSQL 18, chapter "Frontend/Backend Protocol", sections "Message Formats" and "Error and Notice
Message Fields". Builders return the whole message, tag and length included. Readers take a body (what follows
the length) and raise `FramingError` when it is not what its tag promises.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import attrs

from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import AuthenticationCode, Backend, Frontend, StartupCode, Status, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_int16 = struct.Struct("!H")
_int32 = struct.Struct("!I")


def message(tag: int, body: bytes = b"") -> bytes:
    """A message of any kind."""
    return b"%c%b%b" % (tag, _int32.pack(len(body) + 4), body)


def untagged(body: bytes) -> bytes:
    """A message without a tag: start-up, cancel and negotiation requests."""
    return _int32.pack(len(body) + 4) + body


def text(value: str) -> bytes:
    """A null-terminated string.

    A null byte inside would end it early and smuggle the rest, so it is refused.
    """
    encoded = value.encode(errors="surrogateescape")
    if b"\0" in encoded:
        raise ValueError("a protocol string cannot contain a null byte")
    return encoded + b"\0"


# -- what a server sends -------------------------------------------------------------------------------------

PARSE_COMPLETE = message(Backend.PARSE_COMPLETE)
BIND_COMPLETE = message(Backend.BIND_COMPLETE)
CLOSE_COMPLETE = message(Backend.CLOSE_COMPLETE)
NO_DATA = message(Backend.NO_DATA)
EMPTY_QUERY = message(Backend.EMPTY_QUERY_RESPONSE)
AUTHENTICATION_OK = message(Backend.AUTHENTICATION, _int32.pack(AuthenticationCode.OK))
READY = {
    s: message(Backend.READY_FOR_QUERY, bytes([s]))
    for s in (Status.IDLE, Status.IN_TRANSACTION, Status.FAILED)
}
"""ReadyForQuery by transaction status."""


def authentication(code: int, data: bytes = b"") -> bytes:
    """An Authentication request."""
    return message(Backend.AUTHENTICATION, _int32.pack(code) + data)


def sasl_mechanisms(names: Iterable[str]) -> bytes:
    """AuthenticationSASL: what the server offers, best first."""
    return authentication(AuthenticationCode.SASL, b"".join(map(text, names)) + b"\0")


def parameter_status(name: str, value: str) -> bytes:
    return message(Backend.PARAMETER_STATUS, text(name) + text(value))


def backend_key_data(process_id: int, secret: bytes) -> bytes:
    """What a client needs for a CancelRequest. Protocol 3.0 has 4 bytes of secret, 3.2 up to 256."""
    return message(Backend.BACKEND_KEY_DATA, _int32.pack(process_id) + secret)


def negotiate_protocol_version(minor: int, unknown_options: Iterable[str]) -> bytes:
    """NegotiateProtocolVersion: the newest version we speak, and the `_pq_.` options we do not."""
    names = [text(name) for name in unknown_options]
    version = StartupCode.PROTOCOL_3_0 | minor
    return message(
        Backend.NEGOTIATE_PROTOCOL_VERSION, struct.pack("!II", version, len(names)) + b"".join(names)
    )


def notification(process_id: int, channel: bytes, payload: bytes) -> bytes:
    """A NotificationResponse."""
    body = b"%b%b\0%b\0" % (_int32.pack(process_id), channel, payload)
    return message(Backend.NOTIFICATION_RESPONSE, body)


def command_complete(tag: str) -> bytes:
    return message(Backend.COMMAND_COMPLETE, text(tag))


def _fields(severity: str, sqlstate: str, summary: str, detail: str | None, hint: str | None) -> bytes:
    fields = {"S": severity, "V": severity, "C": sqlstate, "M": summary, "D": detail, "H": hint}
    return (
        b"".join(k.encode() + text(v.replace("\0", "")) for k, v in fields.items() if v is not None) + b"\0"
    )


def error(
    sqlstate: str,
    summary: str,
    *,
    severity: str = "ERROR",
    detail: str | None = None,
    hint: str | None = None,
) -> bytes:
    """An ErrorResponse."""
    return message(Backend.ERROR_RESPONSE, _fields(severity, sqlstate, summary, detail, hint))


def notice(
    sqlstate: str,
    summary: str,
    *,
    severity: str = "NOTICE",
    detail: str | None = None,
    hint: str | None = None,
) -> bytes:
    """A NoticeResponse."""
    return message(Backend.NOTICE_RESPONSE, _fields(severity, sqlstate, summary, detail, hint))


# -- what a client sends -------------------------------------------------------------------------------------

SYNC = message(Frontend.SYNC)
FLUSH = message(Frontend.FLUSH)
TERMINATE = message(Frontend.TERMINATE)
SSL_REQUEST = untagged(_int32.pack(StartupCode.SSL))
GSSENC_REQUEST = untagged(_int32.pack(StartupCode.GSSENC))


def startup(parameters: Mapping[str, str], version: int = StartupCode.PROTOCOL_3_0) -> bytes:
    """StartupMessage."""
    pairs = b"".join(text(k) + text(v) for k, v in parameters.items())
    return untagged(_int32.pack(version) + pairs + b"\0")


def cancel_request(process_id: int, secret: bytes) -> bytes:
    return untagged(struct.pack("!II", StartupCode.CANCEL, process_id) + secret)


def query(sql: str) -> bytes:
    return message(Frontend.QUERY, text(sql))


def quoted(identifier: bytes) -> bytes:
    """A name as SQL, in an encoding in which no other character holds the byte of a quote."""
    return b'"' + identifier.replace(b'"', b'""') + b'"'


def parse(name: bytes, rest: bytes) -> bytes:
    """Parse; `rest` is what follows the name: the text and the parameter types."""
    return message(Frontend.PARSE, name + b"\0" + rest)


def bind(statement: bytes, parameters: Iterable[str | None]) -> bytes:
    """Bind of the unnamed portal; text parameters (None is NULL), text results."""
    values = [None if p is None else p.encode(errors="surrogateescape") for p in parameters]
    body = b"".join(NULL if v is None else _int32.pack(len(v)) + v for v in values)
    return message(Frontend.BIND, b"\0%b\0\0\0%b%b\0\0" % (statement, _int16.pack(len(values)), body))


NO_PARAMETERS = message(Backend.PARAMETER_DESCRIPTION, b"\0\0")
"""ParameterDescription of a statement without any."""
NULL = b"\xff\xff\xff\xff"
"""The length of a value that is NULL, in Bind and DataRow."""

EXECUTE = message(Frontend.EXECUTE, b"\0\0\0\0\0")
"""Execute of the unnamed portal, without a row limit."""


def close_statement(name: bytes) -> bytes:
    return message(Frontend.CLOSE, b"%c%b\0" % (Target.STATEMENT, name))


def close_portal(name: bytes) -> bytes:
    return message(Frontend.CLOSE, b"%c%b\0" % (Target.PORTAL, name))


def copy_fail(why: str) -> bytes:
    return message(Frontend.COPY_FAIL, text(why))


MAX_SPOILED = 1 << 24
"""How many bytes are invented at most to complete a message whose rest will not come."""


def spoiled(size: int) -> bytes:
    """So many bytes to complete a message of which only the beginning is there, so that PostgreSQL refuses
    it: they end no string, and are no count that could be right.
    """
    return b"\1" * size


def password(value: bytes) -> bytes:
    """PasswordMessage; the terminating null is added."""
    return message(Frontend.PASSWORD, value + b"\0")


def sasl_initial_response(mechanism: str, data: bytes) -> bytes:
    """SASLInitialResponse with an initial response."""
    return message(Frontend.PASSWORD, text(mechanism) + _int32.pack(len(data)) + data)


def sasl_response(data: bytes) -> bytes:
    """SASLResponse."""
    return message(Frontend.PASSWORD, data)


# -- bodies that are read ------------------------------------------------------------------------------------


@attrs.frozen
class ErrorFields:
    """The fields of an ErrorResponse or NoticeResponse that somebody here acts on or logs."""

    severity: str
    sqlstate: str
    summary: str
    detail: str | None = None
    hint: str | None = None


def read_error(body: bytes) -> ErrorFields:
    """The fields of an ErrorResponse's body; what is missing becomes empty, so that nonsense can still be
    logged.
    """
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return ErrorFields(
        severity=fields.get(b"V", fields.get(b"S", "")),
        sqlstate=fields.get(b"C", ""),
        summary=fields.get(b"M", ""),
        detail=fields.get(b"D"),
        hint=fields.get(b"H"),
    )


def read_parameter_status(body: bytes) -> tuple[str, str]:
    parts = body.split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise FramingError("malformed ParameterStatus")
    return parts[0].decode(errors="surrogateescape"), parts[1].decode(errors="surrogateescape")


def read_backend_key_data(body: bytes) -> tuple[int, bytes]:
    if not 8 <= len(body) <= 4 + 256:
        raise FramingError("malformed BackendKeyData")
    return int.from_bytes(body[:4], "big"), body[4:]


def read_negotiate_protocol_version(body: bytes) -> tuple[int, list[str]]:
    """The version that the server will speak (as in StartupMessage), and the options unknown to it."""
    if len(body) < 8:
        raise FramingError("malformed NegotiateProtocolVersion")
    version, count = struct.unpack_from("!II", body)
    names = body[8:].split(b"\0")
    if len(names) != count + 1 or names.pop():
        raise FramingError("malformed NegotiateProtocolVersion")
    return version, [name.decode(errors="surrogateescape") for name in names]


def read_row(body: bytes) -> list[str | None]:
    """The columns of a DataRow whose values are text."""
    columns: list[str | None] = []
    at = 2
    for _ in range(int.from_bytes(body[:2], "big")):
        size = body[at : at + 4]
        at += 4
        if size == NULL:
            columns.append(None)
            continue
        end = at + int.from_bytes(size, "big")
        if len(size) < 4 or end > len(body):
            raise FramingError("malformed DataRow")
        columns.append(body[at:end].decode(errors="surrogateescape"))
        at = end
    return columns


def read_notification(body: bytes) -> tuple[bytes, bytes]:
    """Channel and payload of a NotificationResponse; the sender's process ID is in front of them."""
    parts = body[4:].split(b"\0")
    if len(parts) != 3 or parts[2]:
        raise FramingError("malformed NotificationResponse")
    return parts[0], parts[1]


def read_bound_values(body: bytes) -> list[bytes | None]:
    """The parameter values of a Bind, as they are encoded there; no more of them than the body holds."""
    at = body.find(b"\0", body.find(b"\0") + 1) + 1
    formats = int.from_bytes(body[at : at + 2], "big")
    at += 2 + 2 * formats
    values: list[bytes | None] = []
    for _ in range(int.from_bytes(body[at : at + 2], "big")):
        size = body[at + 2 : at + 6]
        if len(size) < 4:
            break
        at += 4
        if size == NULL:
            values.append(None)
        else:
            length = int.from_bytes(size, "big")
            values.append(body[at + 2 : at + 2 + length])
            at += length
    return values


def read_int32(body: bytes) -> int:
    if len(body) < 4:
        raise FramingError("a message ends before its first integer does")
    return int.from_bytes(body[:4], "big")


def read_strings(body: bytes) -> list[str]:
    """A list of null-terminated strings, itself ended by an empty one (AuthenticationSASL)."""
    if not body.endswith(b"\0"):
        raise FramingError("a list of strings does not end")
    return [part.decode(errors="replace") for part in body.split(b"\0") if part]
