"""Conversations with transactions in them, and what they look like on the wire.

A conversation is a list of writes. Its transcript is everything that comes back, message by message, without
what differs between two connections to one PostgreSQL: process ids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs

from tests.support import requests
from trio_pool.wire.frames import MAX_LARGE, Assembler
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    from tests.net.peer import Message, Peer

_ANSWERED: Final = (Frontend.QUERY, Frontend.SYNC, Frontend.FUNCTION_CALL)


def prepared(
    sql: str, *parameters: str, name: str = "", describe: bool = True, portal: str = ""
) -> list[bytes]:
    """Parse, Bind, Describe and Execute of a statement, as drivers send them, without the Sync."""
    described = [requests.describe_portal(portal)] if describe else []
    return [
        requests.parse(name, sql),
        requests.bind(name, *parameters, portal=portal),
        *described,
        requests.execute(portal),
    ]


def synced(*parts: list[bytes] | bytes) -> bytes:
    """One group, Sync included."""
    return b"".join(part if isinstance(part, bytes) else b"".join(part) for part in (*parts, requests.SYNC))


@attrs.frozen
class Conversation:
    """Writes, each of which waits for the replies to the one before; a text is a Query.

    `leases` is how many of a pooler's servers it takes, one after the other; None if that is not promised.
    """

    name: str
    writes: tuple[bytes, ...]
    leases: int | None

    @classmethod
    def of(cls, name: str, *writes: bytes | str, leases: int | None = None) -> Conversation:
        queries = (requests.query(write) if isinstance(write, str) else write for write in writes)
        return cls(name, tuple(queries), leases)

    def __str__(self) -> str:
        return self.name


async def held(peer: Peer, conversation: Conversation) -> list[Message]:
    """The transcript."""
    transcript: list[Message] = []
    for write in conversation.writes:
        await peer.send(write)
        for _ in range(_owed(write)):
            exchanged = await peer.exchange()
            transcript += [_without_process_id(*message) for message in exchanged]
            assert exchanged, f"the connection ended behind {transcript}"
            assert exchanged[-1][0] == Backend.READY_FOR_QUERY, f"the connection ended behind {transcript}"
    return transcript


def _owed(write: bytes) -> int:
    """How many ReadyForQuery a write is answered with."""
    assembler = Assembler(MAX_LARGE)
    assembler.feed(write)
    owed = 0
    while (message := assembler.message()) is not None:
        owed += message[0] in _ANSWERED
    return owed


def _without_process_id(tag: int, body: bytes) -> Message:
    return (tag, body[4:]) if tag == Backend.NOTIFICATION_RESPONSE else (tag, body)


def spelled(transcript: list[Message]) -> list[str]:
    """For people: one line per message."""
    return [f"{chr(tag)} {body!r}" for tag, body in transcript]
