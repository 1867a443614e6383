"""What ends kept answers, as an origin tells its edges on a connection of its own (`protocol.link`).

The origin tells in notes (`link.note`), the edge in Queries, which are not answered as such:

    feed SLOTS SALT      first: how the numbers below are made (`cache.freshness`)
    ended N SLOT...      what reads these was valid until now; N counts up
    doubt N MS SLOT...   and for so many milliseconds, nothing that reads them is to be kept
    alive K              the answer to `ping K`: all that was ended before it has been told

    ping K               sent again and again; from the moment at which the edge has sent it, the answer
                         lets the edge answer from memory for `LEASE` seconds
    seen N               all up to N has been taken into account

An edge whose feed is *strict* is waited for: nobody learns that something is written before the edge has
`seen` it, or cannot answer from memory any more, because its last ping was answered too long ago.
"""

from __future__ import annotations

from typing import Final

import attrs

from trio_pool.cache.freshness import SLOTS
from trio_pool.protocol import link
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import Frontend

LEASE: Final = 3.0
"""Seconds."""
PING_EVERY: Final = LEASE / 4
GRACE: Final = 0.5
"""Seconds by which two clocks may differ over a lease, and that a process may be held up in between."""


@attrs.frozen
class Told:
    """One message. `number` is K, N, or the salt; `milliseconds` is of a doubt."""

    kind: str
    number: int
    slots: tuple[int, ...] = ()
    milliseconds: int = 0


def greeting(salt: int) -> bytes:
    return link.note(b"feed %d %d" % (SLOTS, salt))


def ended(number: int, slots: tuple[int, ...]) -> bytes:
    return link.note(b"ended %d" % number + b"".join(b" %d" % slot for slot in slots))


def doubt(number: int, milliseconds: int, slots: tuple[int, ...]) -> bytes:
    return link.note(b"doubt %d %d" % (number, milliseconds) + b"".join(b" %d" % slot for slot in slots))


def alive(number: int) -> bytes:
    return link.note(b"alive %d" % number)


def ping(number: int) -> bytes:
    return messages.message(Frontend.QUERY, b"ping %d\0" % number)


def seen(number: int) -> bytes:
    return messages.message(Frontend.QUERY, b"seen %d\0" % number)


def read(text: bytes) -> Told:
    """A message of either side. Raises `FramingError`."""
    kind, *words = text.removesuffix(b"\0").split(b" ")
    try:
        numbers = [int(word) for word in words]
        match kind:
            case b"feed":
                slots, salt = numbers
                if slots != SLOTS:
                    raise ValueError
                return Told("feed", salt)
            case b"ended":
                return Told("ended", numbers[0], _checked(numbers[1:]))
            case b"doubt":
                return Told("doubt", numbers[0], _checked(numbers[2:]), numbers[1])
            case b"alive" | b"ping" | b"seen":
                (number,) = numbers
                return Told(kind.decode(), number)
    except (ValueError, IndexError):
        pass
    raise FramingError(f"not a message of a feed: {text[:80]!r}")


def _checked(slots: list[int]) -> tuple[int, ...]:
    if not all(0 < slot < SLOTS for slot in slots):
        raise ValueError
    return tuple(slots)
