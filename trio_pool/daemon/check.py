"""Whether every origin of a configuration can be reached and logged in to, and if not, at which step it ends.

Opens connections of its own, through what pools open theirs with (net/dial.py), and closes them again. It
never touches a running daemon.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import trio

from trio_pool.config.durations import format_duration
from trio_pool.errors import Reason, ServerFault
from trio_pool.net.dial import OriginAccess, dial_host, reach_host, spell
from trio_pool.net.transport import TLSTransport
from trio_pool.protocol.credentials import looks_like_scram
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.config.access import Auth
    from trio_pool.config.model import Config, Database
    from trio_pool.net.transport import PlainTransport

AT_ONCE = 8
"""Connections that are tried at the same time: an origin must not look full because it is checked."""

LONGEST = 15.0
"""Seconds for one connection where `server_connect` is off: a check has to end."""


@attrs.frozen
class Finding:
    """The outcome for one host of one database, as one user."""

    label: str
    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{self.label}: {self.text}"


@attrs.define(eq=False)
class Probe:
    """One connection to try. `unlogged` says why it ends before the log in; None if it does not."""

    label: str
    database: Database
    host: str
    port: int
    user: str = ""
    password: str | None = attrs.field(default=None, repr=False)
    unlogged: str | None = None
    finding: Finding | None = None
    done: trio.Event = attrs.field(factory=trio.Event)

    async def run(self, limiter: trio.CapacityLimiter) -> None:
        async with limiter:
            try:
                text = await self._attempt()
            except ServerFault as fault:
                self.finding = Finding(self.label, False, diagnosis(fault))
            else:
                self.finding = Finding(self.label, True, text)
        self.done.set()

    async def _attempt(self) -> str:
        if self.database.origin.tunnel:
            return "not tried: the origin connects to a running trio-pool by itself"
        limit = self.database.timeouts.server_connect
        limit = LONGEST if limit == math.inf else limit
        started = trio.current_time()
        try:
            with trio.fail_after(limit):
                transport, version = await self._connect()
        except trio.TooSlowError:
            raise ServerFault(
                f"{spell(self.host, self.port)} did not answer within {format_duration(limit)}",
                reason=Reason.SERVER_CONNECT_TIMEOUT,
            ) from None
        milliseconds = (trio.current_time() - started) * 1000
        encryption = tls_version(transport)
        transport.close()
        if self.unlogged is not None:
            return f"connected, {milliseconds:.1f} ms, {encryption}; not logged in: {self.unlogged}"
        what = "trio-pool, PostgreSQL" if self.database.origin.link else "PostgreSQL"
        return f"ok, {what} {version}, {milliseconds:.1f} ms, {encryption}"

    async def _connect(self) -> tuple[PlainTransport | TLSTransport, str]:
        """A transport that is open still, and PostgreSQL's version if it was logged in."""
        try:
            access = OriginAccess.to(self.database, self.user, self.password)
        except OSError as error:
            raise ServerFault(
                f"a certificate of the origin cannot be loaded: {error}", reason=Reason.SERVER_TLS_FAILED
            ) from error
        if self.unlogged is not None:
            reached = await reach_host(access, self.host, self.port)
            return reached.conversation.transport, ""
        dialled = await dial_host(access, self.host, self.port)
        if self.database.origin.link and dialled.misfit is not None:
            dialled.hang_up()
            raise ServerFault(
                f"{spell(self.host, self.port)} {dialled.misfit}", reason=Reason.SERVER_UNSUITABLE
            )
        dialled.transport.send(messages.TERMINATE)
        # Distributions add their own words: "15.13 (Debian 15.13-0+deb12u1)".
        return dialled.transport, dialled.login.parameters.get("server_version", "?").partition(" ")[0]


async def check(config: Config, report: Callable[[Finding], None]) -> bool:
    """Try every host of every database as every user it has to do with; report in the configuration's order.

    True if nothing failed. What could only be connected to, for want of a user or of the database's name, has
    not failed.
    """
    all_ok = True
    limiter = trio.CapacityLimiter(AT_ONCE)
    probes = [probe for database in config.databases.values() for probe in probes_of(config, database)]
    async with trio.open_nursery() as nursery:
        for probe in probes:
            nursery.start_soon(probe.run, limiter)
        for probe in probes:
            await probe.done.wait()
            assert probe.finding is not None
            report(probe.finding)
            all_ok = all_ok and probe.finding.ok
    return all_ok


def probes_of(config: Config, database: Database) -> Iterator[Probe]:
    """A probe for each host and user. The database "*" can be logged in to only if its origin has a name."""
    origin = database.origin
    unlogged: str | None = None
    users: list[tuple[str, str, str | None]] = []
    shown: list[str] = []
    if database.name == "*" and origin.dbname is None:
        unlogged = "the client names the database"
    elif origin.user is not None:
        users = [("", origin.user, origin.password.reveal() if origin.password is not None else None)]
    else:
        users = [
            (f" as {user.name}", user.name, user.password.reveal() if user.password is not None else None)
            for user in config.users.values()
        ]
        # Such a user logs in by what its own client shows (SCRAM pass-through).
        shown = [suffix for suffix, _, password in users if password and looks_like_scram(password)]
        if not users:
            unlogged = "neither the origin nor the configuration names a user"
    for host, port in origin.hosts:
        at = f" at {spell(host, port)}" if len(origin.hosts) > 1 else ""
        if unlogged is not None:
            yield Probe(database.name + at, database, host, port, unlogged=unlogged)
        for suffix, user, password in users:
            why = "only its client can show the password" if suffix in shown else None
            yield Probe(database.name + suffix + at, database, host, port, user, password, why)
        if config.auth.query is not None and config.auth.query_user is not None:
            yield _probe_of_query(config.auth, database, host, port, at)


def _probe_of_query(auth: Auth, database: Database, host: str, port: int, at: str) -> Probe:
    """Whether the user that `auth.query` runs as can log in; the query itself is not run."""
    assert auth.query_user is not None
    label = f"{database.name} as {auth.query_user} for auth.query{at}"
    password = auth.query_password.reveal() if auth.query_password is not None else None
    origin = attrs.evolve(database.origin, dbname=auth.query_database or database.origin.dbname)
    return Probe(label, attrs.evolve(database, origin=origin), host, port, auth.query_user, password)


def tls_version(transport: PlainTransport | TLSTransport) -> str:
    """`TLS 1.3`, or that there is none."""
    if not isinstance(transport, TLSTransport):
        return "no TLS"
    return (transport.tls.version() or "TLS").replace("TLSv", "TLS ")


def diagnosis(fault: ServerFault) -> str:
    """What went wrong, its kind first, so that a person and a script can tell the kinds apart."""
    state = f" ({fault.sqlstate})" if fault.reason is Reason.SERVER_LOGIN_FAILED else ""
    return f"{_kind(fault)}: {fault.message}{state}"


def _kind(fault: ServerFault) -> str:
    if fault.sqlstate.startswith("28"):
        return "credentials"
    if fault.sqlstate.startswith("3D"):
        return "no such database"
    match fault.reason:
        case Reason.SERVER_NOT_RESOLVED:
            return "DNS"
        case Reason.SERVER_CONNECT_FAILED:
            return "refused" if isinstance(fault.__cause__, ConnectionRefusedError) else "unreachable"
        case Reason.SERVER_CONNECT_TIMEOUT:
            return "timed out"
        case Reason.SERVER_TLS_FAILED:
            return "TLS"
        case Reason.SERVER_PROTOCOL_VIOLATION:
            return "not PostgreSQL"
        case Reason.SERVER_UNSUITABLE:
            return "unsuitable"
        case _:
            return "login failed"
