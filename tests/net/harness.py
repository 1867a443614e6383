"""A pooler inside the test's own Trio program, so that tests can look into it: its pools, its clients, its
log.

Not for figures of memory or descriptors of the pooler alone: those need a process of its own
(tests/support/pooler.py).
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import structlog
import trio

import trio_pool
from tests.net.peer import Peer, where
from tests.support import requests
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.pooling.pool import PoolKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, MutableMapping

    from tests.support.certificates import Certificates
    from trio_pool.net.origin import OriginPool

ROOT = Path(__file__).resolve().parent.parent.parent
Entry = dict[str, Any]
LIMIT = 30.0
"""Seconds that a test may take unless it says otherwise."""
LOOK_AGAIN = 0.005
"""Seconds between looks at what tells nobody that it has changed."""


@attrs.define(eq=False)
class Log:
    """What the pooler has logged."""

    entries: list[Entry] = attrs.field(factory=list)
    _more: trio.Event = attrs.field(factory=trio.Event)

    def __call__(self, _: object, level: str, entry: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        self.entries.append({"level": level, **entry})
        more, self._more = self._more, trio.Event()
        more.set()
        raise structlog.DropEvent

    def find(self, event: str, *, since: int = 0, **fields: object) -> list[Entry]:
        """Entries of an event whose fields have these values."""
        return [
            entry
            for entry in self.entries[since:]
            if entry["event"] == event and all(entry.get(name) == value for name, value in fields.items())
        ]

    def mark(self) -> int:
        """What `since` takes, to see only what comes after."""
        return len(self.entries)

    async def wait_for(self, event: str, *, since: int = 0, **fields: object) -> Entry:
        """The first such entry, as soon as it is there."""
        while not (found := self.find(event, since=since, **fields)):
            await self._more.wait()
        return found[0]


@contextmanager
def logged() -> Iterator[Log]:
    """Collect the log instead of printing it.

    In place, so that loggers which have cached it are reached too.
    """
    log = Log()
    processors = structlog.get_config()["processors"]
    before = processors.copy()
    processors[:] = [log]
    try:
        yield log
    finally:
        processors[:] = before


@attrs.define(eq=False)
class Running:
    """A pooler that serves, and how to get at it."""

    service: trio_pool.Service
    log: Log
    database: str = DATABASE
    user: str = USER

    @property
    def address(self) -> tuple[str, int]:
        return where(self.service.addresses[0])

    @property
    def origin(self) -> OriginPool:
        return self.service.pools[PoolKey(self.database, self.user)]

    async def log_in(self, **parameters: str) -> Peer:
        """A client under the method `trust`."""
        return await Peer.log_in(self.address, parameters)

    def check(self) -> None:
        """No pool has lost count of its servers."""
        for origin in self.service.pools.values():
            origin.pool.check()

    async def until(self, happened: Callable[[], bool]) -> None:
        """Return when it has. For what tells nobody."""
        while not happened():  # noqa: ASYNC110
            await trio.sleep(LOOK_AGAIN)

    async def at_rest(self, clients: int = 0) -> None:
        """Return when only so many clients are connected, nobody waits, and every server is idle."""

        def resting() -> bool:
            self.check()
            if self.service.clients.connections != clients or len(self.service.clients) != clients:
                return False
            return all(
                len(origin.pool.idle) == origin.pool.servers and not origin.pool.waiting
                for origin in self.service.pools.values()
            )

        await self.until(resting)


@asynccontextmanager
async def pooler(
    origin: LocalPostgres | str,
    *,
    method: str = "trust",
    pool_size: int = 2,
    timeouts: Mapping[str, str] | None = None,
    listen: Mapping[str, Any] | None = None,
    database: Mapping[str, Any] | None = None,
    auth: Mapping[str, Any] | None = None,
    certificates: Certificates | None = None,
    limit: float = LIMIT,
) -> AsyncIterator[Running]:
    """Serve one database, "app", in front of a PostgreSQL or of the origin with this URL.

    With `certificates`, clients may use TLS. When the block ends, nothing of the pooler's own may have
    failed.
    """
    url = origin_url(origin) if isinstance(origin, LocalPostgres) else origin
    listening: dict[str, Any] = {"addresses": ["127.0.0.1:0"], **(listen or {})}
    if certificates is not None:
        listening["tls"] = {
            "mode": "allow",
            "certificate": str(certificates.server_certificate),
            "key": str(certificates.server_key),
        }
    config = trio_pool.Config.from_dict(
        {
            "listen": listening,
            "auth": {"method": method, **(auth or {})},
            "users": {USER: {"password": PASSWORD}},
            "databases": {
                DATABASE: {"origin": url, "password": PASSWORD, "pool_size": pool_size, **(database or {})}
            },
            "timeouts": {"lease_wait": "10s", "server_connect": "10s", **(timeouts or {})},
        }
    )
    async with served(config, limit) as running:
        yield running


@asynccontextmanager
async def served(config: trio_pool.Config, limit: float) -> AsyncIterator[Running]:
    """Serve a configuration, for so many seconds at most.

    When the block ends, nothing of the pooler's own may have failed.
    """
    with logged() as log, trio.fail_after(limit):
        try:
            async with trio.open_nursery() as nursery:
                running = Running(await nursery.start(trio_pool.serve, config), log)
                yield running
                running.check()
                nursery.cancel_scope.cancel()
        except BaseException:
            for entry in log.entries[-40:]:
                print(entry)
            raise
    errors = [entry for entry in log.entries if entry["level"] == "error"]
    assert errors == []


def origin_url(pg: LocalPostgres, sslmode: str = "disable") -> str:
    return f"postgresql://{USER}@{pg.host}:{pg.port}/{DATABASE}?sslmode={sslmode}"


@attrs.define(eq=False)
class Canary:
    """A client that asks all the while and must get every answer right, and none that is not its own."""

    running: Running
    name: str
    answered: int = 0
    _more: trio.Event = attrs.field(factory=trio.Event)

    async def sing(self) -> None:
        async with await self.running.log_in() as peer:
            while True:
                word = f"{self.name} {self.answered}"
                if self.answered % 3 == 0:
                    assert await peer.rows(f"select '{word}'") == [word]
                elif self.answered % 3 == 1:
                    await peer.send(requests.parse("", "select $1::text") + requests.bind("", word))
                    await peer.send(requests.execute() + requests.SYNC)
                    assert await peer.read_rows() == [word]
                else:
                    assert await peer.rows("begin") == []
                    assert await peer.rows(f"select '{word}'") == [word]
                    assert await peer.rows("commit") == []
                self.answered += 1
                more, self._more = self._more, trio.Event()
                more.set()
                await trio.sleep(0.001)

    async def heard(self, times: int = 1) -> None:
        """Return when it has got so many more answers."""
        wanted = self.answered + times
        while self.answered < wanted:
            await self._more.wait()


@asynccontextmanager
async def canary(running: Running, name: str = "canary") -> AsyncIterator[Canary]:
    """A canary for as long as the block lasts, which must have been served before, in and after it."""
    singer = Canary(running, name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(singer.sing)
        await singer.heard()
        yield singer
        await singer.heard(3)
        nursery.cancel_scope.cancel()


async def program_of_victims(nursery: trio.Nursery, address: tuple[str, int]) -> trio.Process:
    """Start tests/support/killable.py, whose clients connect to this address; see there how to talk to it."""
    host, port = address
    program: trio.Process = await nursery.start(
        lambda task_status: trio.run_process(  # noqa: ASYNC105 (it is what the nursery awaits)
            [sys.executable, "-m", "tests.support.killable", host, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            task_status=task_status,
        )
    )
    return program


@asynccontextmanager
async def watcher(pg: LocalPostgres) -> AsyncIterator[Peer]:
    """A superuser's connection past the pooler."""
    peer = await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}")
    async with peer:
        await peer.start({"user": pg.superuser, "database": "postgres"})
        yield peer
