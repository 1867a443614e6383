"""Several services inside the test's own Trio program, behind one gatherer, as if each were a process of its
own: they know each other only through channels.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import attrs
import trio

import trio_pool
from tests.net.harness import LIMIT, LOOK_AGAIN, Log, logged, origin_url
from tests.net.peer import Peer, where
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.config.address import TcpAddress
from trio_pool.daemon.gathered.parent import Gatherer
from trio_pool.daemon.gathered.worker import answer_parent
from trio_pool.daemon.workers.channel import Channel
from trio_pool.net import descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from trio_pool.cli.postgres import LocalPostgres

ADMIN = "admin"


@attrs.define(eq=False)
class Worker:
    """`channel` is the parent's end, `scopes` are around all that it does."""

    index: int
    restarts: int
    channel: Channel
    service: trio_pool.Service
    scopes: list[trio.CancelScope] = attrs.field(factory=list)

    @property
    def address(self) -> tuple[str, int]:
        return where(self.service.addresses[0])

    async def log_in(self, **parameters: str) -> Peer:
        return await Peer.log_in(self.address, parameters)

    async def console(self) -> Peer:
        """A connection to its console."""
        return await Peer.log_in(self.address, {"user": ADMIN, "database": "pgbouncer"})


@attrs.define(eq=False)
class Together:
    """What a parent is to its gatherer."""

    config: trio_pool.Config
    log: Log
    nursery: trio.Nursery
    workers: list[Worker] = attrs.field(factory=list)
    started_at: float = attrs.field(factory=trio.current_time)
    stopping: bool = False
    gatherer: Gatherer = attrs.field(init=False)
    http_address: str = ""

    def __attrs_post_init__(self) -> None:
        self.gatherer = Gatherer(self)

    async def start(self, index: int, restarts: int = 0) -> Worker:
        """One more, with which clients can speak when this returns."""
        ours, theirs = descriptors.pair()
        worker = Worker(index, restarts, Channel(ours, "worker"), trio_pool.Service(self.config))
        service = worker.service
        service.parent, service.worker_index = Channel(theirs, "parent"), index
        answer_parent(service, service.parent)
        self.gatherer.serve(worker)
        self.nursery.start_soon(_run, worker, worker.channel)
        self.nursery.start_soon(_run, worker, service.parent)
        await self.gatherer.welcome(worker)
        await self.nursery.start(partial(_live, worker))
        self.workers.insert(index, worker)
        return worker

    def kill(self, worker: Worker) -> None:
        """Everything of it is gone, without a word."""
        for scope in worker.scopes:
            scope.cancel()
        self.workers.remove(worker)
        self.gatherer.gone(worker)

    async def serve_http(self) -> None:
        """Metrics and page of all, at `http_address`."""
        self.http_address = await self.nursery.start(self.gatherer.serve_http, TcpAddress("127.0.0.1", 0))

    async def until(self, happened: Callable[[], bool]) -> None:
        """Return when it has. For what tells nobody."""
        while not happened():  # noqa: ASYNC110
            await trio.sleep(LOOK_AGAIN)


async def _live(worker: Worker, task_status: trio.TaskStatus[trio_pool.Service]) -> None:
    with trio.CancelScope() as scope:
        worker.scopes.append(scope)
        await worker.service.run(task_status=task_status)


async def _run(worker: Worker, channel: Channel) -> None:
    with trio.CancelScope() as scope:
        worker.scopes.append(scope)
        await channel.run()


@asynccontextmanager
async def together(
    pg: LocalPostgres, count: int, *, databases: Mapping[str, Mapping[str, Any]] | None = None, **tables: Any
) -> AsyncIterator[Together]:
    """So many, in front of one PostgreSQL. When the block ends, nothing of their own may have failed."""
    common = {"origin": origin_url(pg), "password": PASSWORD, "pool_size": 2, "queue_ahead": 0}
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "users": {USER: {"password": PASSWORD}, ADMIN: {"password": PASSWORD}},
            "admin": {"users": [ADMIN]},
            "databases": {name: {**common, **own} for name, own in (databases or {DATABASE: {}}).items()},
            **tables,
        }
    )
    with logged() as log, trio.fail_after(LIMIT):
        try:
            async with trio.open_nursery() as nursery:
                all_ = Together(config, log, nursery)
                for index in range(count):
                    await all_.start(index)
                yield all_
                nursery.cancel_scope.cancel()
        except BaseException:
            for entry in log.entries[-40:]:
                print(entry)
            raise
    assert [entry for entry in log.entries if entry["level"] == "error"] == []
