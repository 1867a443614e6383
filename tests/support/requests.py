"""What clients send, as bytes, and what they get, as something that tests can compare."""

from __future__ import annotations

import struct

import attrs

from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LARGE, Assembler

SYNC = messages.SYNC
FLUSH = messages.FLUSH
TERMINATE = messages.TERMINATE
NULL = messages.NULL
COPY_DONE = messages.message(ord("c"))
REVERSE = 3062
"""The oid of reverse(text)."""

query = messages.query
copy_fail = messages.copy_fail


def parse(name: str, sql: str, *types: int) -> bytes:
    listed = struct.pack(f"!H{len(types)}I", len(types), *types)
    return messages.parse(name.encode(), messages.text(sql) + listed)


def bind(statement: str, *parameters: str | None, portal: str = "") -> bytes:
    values = b"".join(
        NULL if p is None else struct.pack("!I", len(p.encode())) + p.encode() for p in parameters
    )
    head = messages.text(portal) + messages.text(statement) + struct.pack("!HH", 0, len(parameters))
    return messages.message(ord("B"), head + values + b"\0\0")


def describe(statement: str) -> bytes:
    return messages.message(ord("D"), b"S" + messages.text(statement))


def describe_portal(portal: str = "") -> bytes:
    return messages.message(ord("D"), b"P" + messages.text(portal))


def execute(portal: str = "", limit: int = 0) -> bytes:
    return messages.message(ord("E"), messages.text(portal) + struct.pack("!I", limit))


def close(statement: str) -> bytes:
    return messages.close_statement(statement.encode())


def close_portal(portal: str = "") -> bytes:
    return messages.message(ord("C"), b"P" + messages.text(portal))


def copy_data(data: bytes) -> bytes:
    return messages.message(ord("d"), data)


def function_call(argument: str) -> bytes:
    """A call of reverse(text)."""
    value = argument.encode()
    body = struct.pack("!IHHI", REVERSE, 0, 1, len(value)) + value + b"\0\0"
    return messages.message(ord("F"), body)


@attrs.frozen
class Reply:
    """A reply without what differs between servers: the tag, and what identifies the content."""

    tag: str
    content: str = ""

    def __repr__(self) -> str:
        return f"{self.tag}:{self.content}" if self.content else self.tag


def read_replies(data: bytes, *, asynchronous: bool = False) -> list[Reply]:
    """All messages; the asynchronous ones only if asked for. What is not whole is an error."""
    assembler = Assembler(MAX_LARGE)
    assembler.feed(data)
    replies = []
    while (message := assembler.message()) is not None:
        tag = chr(message[0])
        if asynchronous or tag not in "NAS":
            replies.append(Reply(tag, _content(tag, message[1])))
    rest = assembler.rest()
    assert rest == b"", f"cut: {rest!r}"
    return replies


def _content(tag: str, body: bytes) -> str:
    match tag:
        case "D":
            return body[6:].decode()
        case "C" | "Z" | "S" | "d":
            return body.rstrip(b"\0").decode()
        case "E" | "N":
            return messages.read_error(body).sqlstate
        case "T" | "t":
            return str(int.from_bytes(body[:2], "big"))
        case "V":
            return body[4:].decode()
        case _:
            return ""
