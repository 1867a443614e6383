"""Handing a client's LISTEN over from the server on which it ran to the pool's listening connection.

Why in this way, and why nothing is lost or repeated: net/listening.py. Here is the part of the server that
the client leases, which is kept for so long: first the listening connection has to listen too (that takes
time, in the server's task), then the server marks the point in PostgreSQL's queue of notifications from which
the listening connection delivers. The marking may not fall into a transaction of the client's, so it waits
for the next moment at which the server is at rest.
"""

from __future__ import annotations

import enum
import secrets
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.errors import ServerFault

if TYPE_CHECKING:
    from trio_pool.net.client import Client
    from trio_pool.net.listening import Listening
    from trio_pool.net.server import Server

log = structlog.get_logger()

NOT_HANDED_OVER = "LISTEN"
"""Why a client is pinned whose channels cannot be listened to for it."""


class Stage(enum.Enum):
    """How far a handover is."""

    COVERING = "covering"
    """The listening connection is asked to listen."""
    COVERED = "covered"
    """It does; the point is to be marked when the server is at rest."""
    MARKING = "marking"
    """The point is being marked."""


class Handover:
    """One handover; `channels` is everything that the client listens to."""

    def __init__(self, client: Client, channels: frozenset[bytes], listening: Listening) -> None:
        self.client = client
        self.channels = channels
        self.stage = Stage.COVERING
        self._listening = listening
        self._scope = trio.CancelScope()

    async def cover(self, seconds: float) -> str | None:
        """Returns when the listening connection listens too, or says why it cannot within so many seconds."""
        try:
            with trio.fail_after(seconds), self._scope:
                await self._listening.cover(self.client, self.channels)
                self.stage = Stage.COVERED
        except ServerFault as fault:
            return fault.message
        except trio.TooSlowError:
            return "the listening connection was not ready in time"
        return None

    def mark(self, server: Server) -> bytes:
        """What to send to the server."""
        self.stage = Stage.MARKING
        token = secrets.token_hex(16).encode()
        self._listening.admit(self.client, self.channels, token)
        return server.session.announce(self._listening.marker, token, self.channels)

    def cancel(self) -> None:
        """The client is gone, or listens to something else by now."""
        self._scope.cancel()

    def abandon(self) -> None:
        """The server is lost: the client listens to the channels all the same."""
        self.cancel()
        self._listening.settle(self.client, self.channels)
        self.client.handed_over(self.channels)
