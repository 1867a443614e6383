"""Looking users up at the origin: `auth.query`, on a connection of its own that no client ever gets.

What a client sends has one way into it: the user's name, as the value of a parameter. No setting of a
client reaches this connection, and none that the role or the database has at the origin decides what the
query's names mean, because every look-up begins by pinning `search_path` (CVE-2025-12819 was a client's
`search_path` in front of PgBouncer's auth_query). Pinned for the transaction only, so that it also holds
where the origin is another pooler.

One connection per configured database, opened when it is needed and kept for a while, one look-up at a time.
Clients who wait for the same user share one look-up. Only users who were found are remembered, and shortly.

VALID UNTIL is judged by the origin's clock, as PostgreSQL does: a second statement asks how long it still is
to that time. It is sent for every user, found or not, so that both take the same time.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NoReturn, Self

import attrs
import structlog
import trio

from trio_pool.errors import Reason, ServerFault, SqlState, internal_fault
from trio_pool.net.conversation import Conversation, EndOfStream
from trio_pool.net.dial import OriginAccess, dial
from trio_pool.net.mailbox import Mailbox
from trio_pool.protocol.credentials import Credentials
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LOGIN_REPLY, Assembler, FramingError
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    import ssl

    from trio_pool.config.access import Auth
    from trio_pool.config.model import Database
    from trio_pool.net.tunnel_listen import Tunnels

log = structlog.get_logger()

LONGEST = 5.0
"""Seconds for one look-up, connecting included. Less than the default of `client_login`."""
KEPT = 30.0
"""Seconds for which the connection stays open without a look-up."""
MOST_KNOWN = 10_000
"""Users of one database that are remembered; the oldest is forgotten first."""

Row = list[str | None]

_PIN = (
    "SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true), "
    "pg_catalog.set_config('DateStyle', 'ISO', true), pg_catalog.set_config('TimeZone', 'UTC', true), "
    f"pg_catalog.set_config('statement_timeout', '{LONGEST * 1000:.0f}', true)"
)
_LEFT = (
    "SELECT CASE WHEN t = 'infinity' THEN NULL WHEN t = '-infinity' THEN '0' "
    "ELSE extract(epoch FROM t - clock_timestamp())::text END FROM (SELECT $1::timestamptz AS t) AS given"
)
"""The seconds left to a VALID UNTIL; NULL without an end. Runs behind `_PIN`."""
_TWO_ROWS = messages.message(Frontend.EXECUTE, b"\0\0\0\0\2")
_NO_SUCH_USER = ("22", "P0")
"""Classes of SQLSTATEs that mean the name: one that cannot be a name (an invalid sequence of bytes), or one
for which a function has raised an exception. To the client that is a missing user.
"""


class QueryFault(ServerFault):
    """The origin can be asked, but not so: what the query has raised or answered.

    Holds for one user only, where a plain `ServerFault` concerns all.
    """


@attrs.frozen
class Found:
    """What a look-up has found; `credentials` are None if there is no such user.

    `valid_until` and `known_until` are times of Trio's clock: until when the password is valid, and until
    when this may be remembered.
    """

    credentials: Credentials | None
    valid_until: float
    known_until: float

    def usable(self, now: float) -> Credentials | None:
        """The credentials; without a secret if its time is over."""
        if self.credentials is None or now < self.valid_until:
            return self.credentials
        return Credentials(self.credentials.user, expired=True)


@attrs.define(eq=False)
class _Flight:
    """One look-up under way, and how many wait for it."""

    user: str
    waiting: int = 0
    found: Found | None = None
    fault: ServerFault | None = None
    done: trio.Event = attrs.field(factory=trio.Event)


class Lookup:
    """The look-ups of one database. `run` is its task; `find` is for any number of others."""

    def __init__(self, database: Database, auth: Auth, tunnels: Tunnels | None = None) -> None:
        """Raises OSError if a certificate cannot be loaded."""
        assert auth.query is not None
        self.name = database.name
        self.query = auth.query
        self.remembered = auth.query_cache
        self.access = access_of(database, auth, tunnels=tunnels)
        self._scram_or_md5 = 0
        self._known: dict[str, Found] = {}
        self._flights: dict[str, _Flight] = {}
        self._queue: deque[_Flight] = deque()
        self._mailbox = Mailbox()
        self._connection: _Connection | None = None
        self._paused = False
        self._outdated = False
        """Whether the connection is to what was configured before."""

    @property
    def connected(self) -> bool:
        """Whether it has a connection open."""
        return self._connection is not None

    def pause(self) -> None:
        """Close the connection, and let look-ups wait until `go_on`."""
        self._paused = True
        self._mailbox.wake()

    def go_on(self) -> None:
        self._paused = False
        self._mailbox.wake()

    def configure(self, auth: Auth, access: OriginAccess) -> None:
        """Ask so from now on, and forget what was found before."""
        assert auth.query is not None
        self.query, self.remembered, self.access = auth.query, auth.query_cache, access
        self._known.clear()
        self._outdated = True
        self._mailbox.wake()

    @property
    def mostly_scram(self) -> bool:
        """Whether most of the users found have SCRAM secrets, so that a missing one is asked for the like."""
        return self._scram_or_md5 >= 0

    def known(self, user: str) -> Found | None:
        """What is remembered of a user."""
        found = self._known.get(user)
        if found is None or trio.current_time() < found.known_until:
            return found
        del self._known[user]
        return None

    def forget(self, user: str) -> None:
        """Look the user up anew next time."""
        self._known.pop(user, None)

    async def find(self, user: str) -> Found:
        """Ask the origin.

        Raises `ServerFault` if it cannot be asked; its text is not for clients that have not logged in.
        """
        flight = self._flights.get(user)
        if flight is None:
            flight = self._flights[user] = _Flight(user)
            self._queue.append(flight)
            self._mailbox.wake()
        flight.waiting += 1
        try:
            await flight.done.wait()
        finally:
            flight.waiting -= 1
        if flight.fault is not None:
            raise flight.fault
        assert flight.found is not None
        return flight.found

    async def run(self) -> None:
        """Serve look-ups for ever."""
        try:
            while True:
                with trio.move_on_after(KEPT if self._connection is not None else math.inf) as idle:
                    await self._mailbox.wait()
                if idle.cancelled_caught or self._paused or self._outdated:
                    self._outdated = False
                    self._disconnect()
                while self._queue and not self._paused:
                    await self._serve(self._queue.popleft())
        finally:
            self._disconnect()

    async def _serve(self, flight: _Flight) -> None:
        # Who comes from now on may have changed something after this look-up was answered.
        del self._flights[flight.user]
        if not flight.waiting:
            return
        try:
            flight.found = await self._look_up(flight.user)
            self._remember(flight.user, flight.found)
        except QueryFault as fault:
            self._fail(flight, fault)
        except ServerFault as fault:
            self._fail_all(flight, fault)
        except Exception as error:
            log.error("internal error in looking up a user", database=self.name, exc_info=error)
            internal = internal_fault()
            self._fail_all(flight, internal)
        flight.done.set()

    def _fail_all(self, flight: _Flight, fault: ServerFault) -> None:
        """Also whoever waits in the queue: each would otherwise wait for a failure of its own."""
        self._disconnect()
        self._fail(flight, fault)
        while self._queue:
            other = self._queue.popleft()
            del self._flights[other.user]
            other.fault = fault
            other.done.set()

    def _fail(self, flight: _Flight, fault: ServerFault) -> None:
        flight.fault = fault
        log.warning(
            "user look-up failed",
            database=self.name,
            reason=fault.reason.value,
            sqlstate=fault.sqlstate,
            error=fault.message,
            waiting=len(self._queue),
        )

    def _remember(self, user: str, found: Found) -> None:
        self._known.pop(user, None)
        if found.credentials is not None:
            self._scram_or_md5 += 1 if found.credentials.scram is not None else -1
        if found.credentials is not None and self.remembered:
            self._known[user] = found
            if len(self._known) > MOST_KNOWN:
                del self._known[next(iter(self._known))]

    async def _look_up(self, user: str) -> Found:
        try:
            with trio.fail_after(LONGEST):
                return await self._ask(user)
        except trio.TooSlowError:
            raise ServerFault(
                f"no answer to auth.query within {LONGEST:.0f} s", reason=Reason.SERVER_CONNECT_TIMEOUT
            ) from None

    async def _ask(self, user: str) -> Found:
        kept = self._connection
        if kept is not None:
            try:
                return await self._found(kept, user)
            except EndOfStream:  # closed while nobody looked
                self._disconnect()
        self._connection = await _Connection.open(self.access)
        try:
            return await self._found(self._connection, user)
        except EndOfStream as end:
            raise ServerFault(f"auth.query: {end}", reason=Reason.SERVER_CLOSED) from end

    async def _found(self, connection: _Connection, user: str) -> Found:
        try:
            row = _only(await connection.rows(self.query, user), user)
        except QueryFault as fault:
            if not fault.sqlstate.startswith(_NO_SUCH_USER):
                raise
            log.info("auth.query raised an exception", database=self.name, error=fault.message)
            row = None
        valid_until = row[2] if row is not None and len(row) > 2 else None
        left = (await connection.rows(_LEFT, valid_until))[0][0]
        now = trio.current_time()
        return Found(
            None if row is None else Credentials.parse(user, row[1]),
            math.inf if left is None else now + float(left),
            now + self.remembered,
        )

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def access_of(
    database: Database,
    auth: Auth,
    tls_context: ssl.SSLContext | None = None,
    tunnels: Tunnels | None = None,
) -> OriginAccess:
    """What it takes to look users of a database up. Raises OSError if a certificate cannot be loaded."""
    origin = database.origin
    user, password = auth.query_user, auth.query_password
    if user is None:
        user, password = origin.user, origin.password
    assert user is not None, "as config.checks demands"
    origin = attrs.evolve(
        origin,
        dbname=auth.query_database or origin.dbname,
        parameters={"application_name": "trio-pool auth.query", **origin.parameters},
    )
    secret = None if password is None else password.reveal()
    return OriginAccess.to(attrs.evolve(database, origin=origin), user, secret, tls_context, tunnels)


def _only(rows: list[Row], user: str) -> Row | None:
    """The user's row; None if there is none, or only one of NULLs, as functions with OUT parameters give it.

    Anything else is a mistake in the query, and could log somebody in with the password of another.
    """
    if not rows or all(column is None for column in rows[0]):
        return None
    if len(rows) > 1:
        _refuse("has found more than one row")
    if not 2 <= len(rows[0]) <= 3:
        _refuse(f"has found {len(rows[0])} columns where 2 or 3 are expected: name, password, valid until")
    if rows[0][0] != user:
        _refuse("has found a user of another name than $1")
    return rows[0]


def _refuse(what: str) -> NoReturn:
    raise QueryFault(f"auth.query {what}", SqlState.INTERNAL_ERROR, reason=Reason.SERVER_LOGIN_FAILED)


@attrs.define(eq=False)
class _Connection:
    """A connection that asks one thing at a time."""

    conversation: Conversation

    @classmethod
    async def open(cls, access: OriginAccess) -> Self:
        dialled = await dial(access)
        assembler = Assembler(MAX_LOGIN_REPLY)
        assembler.feed(dialled.unread)
        return cls(Conversation(dialled.transport, assembler))

    def close(self) -> None:
        transport = self.conversation.transport
        transport.send(messages.TERMINATE)
        transport.close()

    async def rows(self, sql: str, parameter: str | None) -> list[Row]:
        """The rows of a query, two at most.

        Raises `QueryFault` with the server's words, or `EndOfStream`.
        """
        request = messages.parse(b"", messages.text(_PIN) + b"\0\0") + messages.bind(b"", ())
        request += messages.EXECUTE
        request += messages.parse(b"", messages.text(sql) + b"\0\0") + messages.bind(b"", (parameter,))
        request += _TWO_ROWS + messages.SYNC
        try:
            await self.conversation.send(request)
            return await self._read()
        except FramingError as error:
            raise ServerFault(
                f"auth.query: {error}", SqlState.PROTOCOL_VIOLATION, reason=Reason.SERVER_PROTOCOL_VIOLATION
            ) from error

    async def _read(self) -> list[Row]:
        """The second statement's rows: those after the second BindComplete."""
        rows: list[Row] = []
        fault: QueryFault | None = None
        while True:
            tag, body = await self.conversation.message()
            match tag:
                case Backend.BIND_COMPLETE:
                    rows = []
                case Backend.DATA_ROW:
                    rows.append(messages.read_row(body))
                case Backend.ERROR_RESPONSE:
                    error = messages.read_error(body)
                    fault = QueryFault(
                        f"auth.query: {error.summary}", error.sqlstate, reason=Reason.SERVER_LOGIN_FAILED
                    )
                case Backend.READY_FOR_QUERY:
                    if fault is not None:
                        raise fault
                    return rows
