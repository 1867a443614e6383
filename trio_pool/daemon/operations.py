"""What an operator can do to a running pooler: pause, resume, disable, reconnect, kill, reload, stop.

The names, what they mean and how they are refused are PgBouncer's (1.24, "Process controlling commands"). Who
calls is the console, or a signal; nothing here knows of either. `docs/operations.md` has what differs.

A command that waits (`pause`, `kill`, `suspend`) and is cancelled is undone: it either happens or does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import attrs
import structlog
import trio

from trio_pool.config.model import CONSOLE_DATABASES
from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.reload import prepare
from trio_pool.errors import ClientFault, Reason, SqlState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.config.model import Config
    from trio_pool.daemon.service import Service
    from trio_pool.net.client import Client
    from trio_pool.net.lookup import Lookup
    from trio_pool.net.origin import OriginPool

log = structlog.get_logger()

State = Literal["active", "paused", "disabled"]
ShutdownMode = Literal["", "wait_for_servers", "wait_for_clients"]

LOOK_AGAIN = 0.01
"""Seconds between looks at what tells nobody that it has changed."""
FLUSH = 10.0
"""Seconds that clients have to read what they were sent, before a suspend gives them up (PgBouncer's
`suspend_timeout`).
"""


class OperationError(Exception):
    """It cannot be done; the text is for the operator."""


@attrs.define(eq=False)
class Operations:
    """Acts on one service."""

    service: Service
    _all_paused: bool = False
    _paused: set[str] = attrs.field(factory=set)
    _disabled: set[str] = attrs.field(factory=set)
    _reloading: trio.Lock = attrs.field(factory=trio.Lock)

    # -- what can be asked -----------------------------------------------------------------------------------

    @property
    def suspended(self) -> bool:
        """Whether nothing is read from anybody."""
        return self.service.poller.suspended is not None

    @property
    def all_paused(self) -> bool:
        """Whether a pause of all databases is on."""
        return self._all_paused

    def state(self, database: str) -> State:
        """What holds for the clients of a database."""
        if database in self._disabled:
            return "disabled"
        return "paused" if self.is_paused(database) else "active"

    def is_paused(self, database: str) -> bool:
        """Whether its clients get no servers."""
        return self._all_paused or database in self._paused

    def is_disabled(self, database: str) -> bool:
        """Whether it takes no new clients."""
        return database in self._disabled

    # -- pause and resume ------------------------------------------------------------------------------------

    async def pause(self, database: str | None) -> None:
        """Close every server of a database, or of all, when its transaction (in session mode: its client's
        session) is over; return when they are closed. Clients wait from now on, for as long as it takes.
        """
        self._check_calm()
        if database is not None:
            self._check_known(database, "pause")
        log.info("pause", database=database)
        self._hold(database)
        try:
            await self._until(lambda: not any(map(_is_connected, self._origins(database))))
            await self._close_side_connections(database)
        except BaseException:
            self._let_go(database)
            raise

    async def resume(self, database: str | None) -> None:
        """End a pause, a suspend, or what a kill has left behind. Who waits is served, in order."""
        if self.service.stopping:
            raise OperationError("pooler is shutting down")
        if database is None:
            if not self._all_paused and not self.suspended:
                raise OperationError("pooler is not paused/suspended")
            self._end_suspension()
        else:
            self._find(database)
            if database not in self._paused:
                raise OperationError(f"database {database} is not paused")
        log.info("resume", database=database)
        self._let_go(database)
        await trio.lowlevel.checkpoint()

    async def suspend(self) -> None:
        """Read nothing from anybody any more; return when everything that was read has been passed on."""
        self._check_calm()
        if self._paused:
            raise OperationError("cannot suspend with paused databases")
        log.info("suspend")
        with trio.move_on_after(FLUSH):
            await self._until(lambda: not any(client.transport.pending for client in self._clients(None)))
        for client in self._clients(None):
            if client.transport.pending:
                client.fail(_killed("it did not read what it was sent"))
        self.service.poller.suspended = trio.Event()

    def _end_suspension(self) -> None:
        event, self.service.poller.suspended = self.service.poller.suspended, None
        if event is not None:
            event.set()

    def _hold(self, database: str | None) -> None:
        if database is None:
            self._all_paused = True
        else:
            self._paused.add(database)
        for origin in self._origins(database):
            origin.pause()

    def _let_go(self, database: str | None) -> None:
        if database is None:
            self._all_paused = False
        else:
            self._paused.discard(database)
        for origin in self._origins(database):
            if not self.is_paused(origin.pool.key.database):
                origin.go_on()
        for lookup in self._lookups(database):
            if not self.is_paused(lookup.name):
                lookup.go_on()

    async def _close_side_connections(self, database: str | None) -> None:
        """Those that are not of `pool_size`, when no lease needs them any more."""
        for origin in self._origins(database):
            origin.listening.pause()
        for lookup in self._lookups(database):
            lookup.pause()
        await self._until(
            lambda: (
                not any(origin.listening.connected for origin in self._origins(database))
                and not any(lookup.connected for lookup in self._lookups(database))
            )
        )

    # -- who gets in -----------------------------------------------------------------------------------------

    def disable(self, database: str) -> None:
        """Let nobody new in. Who is connected stays."""
        self._check_known(database, "disable")
        log.info("disable", database=database)
        self._disabled.add(database)

    def enable(self, database: str) -> None:
        """Let new clients in again."""
        self._check_known(database, "enable")
        log.info("enable", database=database)
        self._disabled.discard(database)

    # -- servers and clients ---------------------------------------------------------------------------------

    def reconnect(self, database: str | None) -> None:
        """Replace every server of a database, or of all, when it is given back."""
        if database is not None:
            self._check_known(database, "reconnect")
        log.info("reconnect", database=database)
        for origin in self._origins(database):
            origin.reconnect()

    async def wait_close(self, database: str | None) -> None:
        """Return when no server is left that was to be closed when it is given back."""
        if database is not None:
            self._check_known(database, "wait in")
        await self._until(
            lambda: (
                not any(server.outdated for origin in self._origins(database) for server in origin.servers())
            )
        )

    async def kill(self, database: str | None) -> None:
        """Close every client and every server of a database, or of all, whatever they do, and cancel what
        runs. Who comes then waits until `resume`.
        """
        self._check_calm()
        if database is not None:
            self._check_known(database, "kill")
        log.warning("kill", database=database, clients=sum(1 for _ in self._clients(database)))
        self._hold(database)
        for client in list(self._clients(database)):
            client.fail(_killed())
        for origin in self._origins(database):
            origin.kill_servers()
        await self._until(lambda: not any(map(_is_connected, self._origins(database))))
        await self._close_side_connections(database)

    def kill_client(self, client_id: int) -> bool:
        """Close one client, whatever it does; False if there is none with this id."""
        client = self.service.clients.by_id.get(client_id)
        if client is None or client.over:
            return False
        log.warning("kill client", client=client.peer, pool=str(client.origin.pool.key), doing=client.doing)
        client.fail(_killed())
        return True

    # -- the whole -------------------------------------------------------------------------------------------

    async def reload(self, config: Config | None = None) -> list[str]:
        """Apply another configuration: the one given, else the file as it is now. Returns what that has
        changed, a line each, and what takes a restart.

        Raises `ConfigurationError`; then nothing has changed.
        """
        async with self._reloading:
            try:
                if config is None:
                    if self.service.reread is None:
                        raise OperationError("there is no configuration file to read again")
                    config = await trio.to_thread.run_sync(self.service.reread)
                prepared = await prepare(self.service, config)
            except ConfigurationError as error:
                problems = [str(problem) for problem in error.problems]
                log.error("reload failed, nothing has changed", problems=problems)
                raise
            lines = prepared.apply()
        log.info("reloaded", changes=lines)
        return lines

    def shutdown(self, mode: ShutdownMode = "") -> None:
        """End the process: at once, when transactions are over (for `drain` at most), or when the clients
        have left by themselves.
        """
        log.warning("shutdown", mode=mode or "at once")
        if mode == "wait_for_clients":
            self.service.stop_when_clients_have_left()
        elif mode == "wait_for_servers":
            self.service.stop()
        else:
            self.service.stop_at_once()

    def hold_nobody(self) -> None:
        """The process ends: what waits for the end of a pause or a suspend goes on, so that it can end."""
        self._end_suspension()
        self._let_go(None)
        for database in list(self._paused):
            self._let_go(database)

    # -- helpers ---------------------------------------------------------------------------------------------

    def _check_calm(self) -> None:
        if self._all_paused or self.suspended:
            raise OperationError("already suspended/paused")

    def _check_known(self, database: str, what: str) -> None:
        if database in CONSOLE_DATABASES:
            raise OperationError(f"cannot {what} admin db: {database}")
        self._find(database)

    def _find(self, database: str) -> None:
        if self.service.config.database(database) is None:
            raise OperationError(f"no such database: {database}")

    def _origins(self, database: str | None) -> list[OriginPool]:
        pools = self.service.pools.values()
        return [origin for origin in pools if database in (None, origin.pool.key.database)]

    def _lookups(self, database: str | None) -> list[Lookup]:
        return [lookup for lookup in self.service.lookups.values() if database in (None, lookup.name)]

    def _clients(self, database: str | None) -> Iterable[Client]:
        for client in self.service.clients.by_id.values():
            if database in (None, client.origin.pool.key.database):
                yield client

    @staticmethod
    async def _until(happened: Callable[[], bool]) -> None:
        await trio.lowlevel.checkpoint()
        while not happened():  # noqa: ASYNC110
            await trio.sleep(LOOK_AGAIN)


def _is_connected(origin: OriginPool) -> bool:
    """Whether a server is open, being opened, or being closed."""
    return origin.pool.servers > 0


def _killed(why: str = "") -> ClientFault:
    return ClientFault(
        "terminating connection due to administrator command",
        SqlState.ADMIN_SHUTDOWN,
        reason=Reason.CLIENT_KILLED,
        detail=why or None,
    )
