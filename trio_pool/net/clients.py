"""All clients of the process: how many there may be, their keys, and whom a cancel request means."""

from __future__ import annotations

import hmac
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import attrs
import trio

from trio_pool.errors import ClientFault, Reason, SqlState

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.net.client import Client
    from trio_pool.wire.startup import CancelRequest

SECRET_SIZES = {False: 4, True: 32}
"""Bytes of a cancel key by whether the client speaks protocol 3.2. PostgreSQL 18 itself uses 32 there."""


SLOT_SHIFT = 20
"""Bits of a process id that tell one client of a process from another; those above are the process' slot."""
MOST_SLOTS = (1 << (31 - SLOT_SHIFT)) - 1


class Membership(Protocol):
    """How several processes count their clients together."""

    async def admit(
        self, database: str, user: str, *, most: int, most_of_database: int, most_of_user: int
    ) -> None:
        """Raises `ClientFault` if there are too many in all processes."""

    def left(self, database: str, user: str) -> None: ...


@attrs.define(eq=False)
class Console:
    """A connection to the console: a client of nobody's pool.

    `scope` is around all that it does; cancelling it ends the connection with FATAL 57P01.
    """

    process_id: int
    secret: bytes
    user: str
    peer: str
    scope: trio.CancelScope
    connected_at: float = attrs.field(factory=trio.current_time)
    """On Trio's clock."""
    interrupt: Callable[[], None] | None = None
    """Ends the command that waits; None if none does. The console sets it."""

    async def cancel(self) -> None:
        """A cancel request."""
        if self.interrupt is not None:
            self.interrupt()


@attrs.define(eq=False)
class Clients:
    """Connected clients.

    `connections` counts sockets from accept to close, `by_id` holds those that have logged in. In between,
    once a client has proved who it is, it is counted for its database and its user. Connections to the
    console are sockets, and in `consoles` only.
    """

    limit: int
    connections: int = 0
    by_id: dict[int, Client] = attrs.field(factory=dict)
    consoles: dict[object, Console] = attrs.field(factory=dict)
    """By conversation."""
    of_database: Counter[str] = attrs.field(factory=Counter)
    of_user: Counter[str] = attrs.field(factory=Counter)
    _admitted: dict[object, tuple[str, str]] = attrs.field(factory=dict)
    slot: int = 0
    """Tells the keys of this process from those of others; 0 if there are none."""
    membership: Membership | None = None
    """What counts the clients of all processes; None if there is one process."""

    def admit(
        self,
        connection: object,
        database: str,
        user: str,
        *,
        most_of_database: int = 0,
        most_of_user: int = 0,
    ) -> None:
        """Count one more client until `leave` is called with the same connection; 0 is any number.

        Raises `ClientFault` in PostgreSQL's words (`InitializeSessionUserId`, `CheckMyDatabase`).
        """
        if most_of_user and self.of_user[user] >= most_of_user:
            raise too_many(f'too many connections for role "{user}"')
        if most_of_database and self.of_database[database] >= most_of_database:
            raise too_many(f'too many connections for database "{database}"')
        self._admitted[connection] = database, user
        self.of_database[database] += 1
        self.of_user[user] += 1

    def leave(self, connection: object) -> None:
        """The connection is closed, whether it was admitted or not."""
        admitted = self._admitted.pop(connection, None)
        if admitted is not None:
            if self.membership is not None:
                self.membership.left(*admitted)
            for counter, name in zip((self.of_database, self.of_user), admitted, strict=True):
                counter[name] -= 1
                if not counter[name]:
                    del counter[name]

    def new_key(self, *, long: bool) -> tuple[int, bytes]:
        """A process id that no other client has, and a secret."""
        while True:
            if self.slot:
                process_id = (self.slot << SLOT_SHIFT) + secrets.randbelow(1 << SLOT_SHIFT)
            else:
                process_id = secrets.randbelow((1 << 31) - 1) + 1
            if process_id not in self.by_id and self._console(process_id) is None:
                return process_id, secrets.token_bytes(SECRET_SIZES[long])

    @property
    def pooled(self) -> int:
        """Sockets of those that are clients of a pool, or may become one."""
        return self.connections - len(self.consoles)

    def find(self, request: CancelRequest) -> Client | Console | None:
        """The client that a cancel request names, if its secret is right."""
        client: Client | Console | None = self.by_id.get(request.process_id)
        if client is None:
            client = self._console(request.process_id)
        if client is not None and hmac.compare_digest(client.secret, request.secret):
            return client
        return None

    def _console(self, process_id: int) -> Console | None:
        return next((one for one in self.consoles.values() if one.process_id == process_id), None)

    def __len__(self) -> int:
        return len(self.by_id)


def too_many(message: str) -> ClientFault:
    """One more would be more than is allowed."""
    return ClientFault(message, SqlState.TOO_MANY_CONNECTIONS, reason=Reason.TOO_MANY_CLIENTS)
