"""One of several processes that serve clients: a service that is told by its parent what to do.

It begins when it has its orders, accepts when it is told to, and ends at once when its parent is gone.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.gathered.worker import answer_parent
from trio_pool.daemon.reload import prepare
from trio_pool.daemon.service import Service
from trio_pool.daemon.signals import Ending, ending_of
from trio_pool.daemon.workers.channel import WorkerError
from trio_pool.daemon.workers.office import Office
from trio_pool.net import descriptors
from trio_pool.wire.startup import CancelRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.config.model import Config
    from trio_pool.config.problems import Problem
    from trio_pool.daemon.operations import ShutdownMode
    from trio_pool.daemon.reload import Prepared
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.daemon.workers.orders import Orders
    from trio_pool.pooling.pool import PoolKey

log = structlog.get_logger()

FAREWELL: Final = 5.0
"""Seconds for which one that cannot serve stays to say so."""


@attrs.define(eq=False)
class Worker:
    """`channel` is to the parent."""

    channel: Channel
    office: Office = attrs.field(init=False)
    _service: Service | None = None
    _prepared: Prepared | None = None
    _told: trio.Event = attrs.field(factory=trio.Event)
    """Set when it may accept, or is to end."""
    _settled: trio.Event = attrs.field(factory=trio.Event)
    """Set when it accepts, or cannot."""
    _failure: BaseException | None = None
    _stopped: bool = False

    def __attrs_post_init__(self) -> None:
        self.office = Office(self.channel)
        self.channel.takes_descriptors |= {"begin", "cover"}
        self.channel.handlers |= {
            "begin": self._begin,
            "accept": self._accept,
            "prepare": self._prepare,
            "cancel": self._cancel,
        }
        self.channel.notes |= {
            "apply": self._apply,
            "stop": self._stop,
            "leave": self._leave,
            "suspend_caches": self._suspend_caches,
            "let_in": self._let_in,
            "cover": self._cover,
            "uncover": self._uncover,
        }

    async def run(self) -> Ending:
        """Until it is told to stop, or its parent is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._talk)
            nursery.start_soon(self.office.run)
            await self._told.wait()
            if self._service is not None and not self._stopped:
                await self._serve(self._service)
            nursery.cancel_scope.cancel()
        return Ending.AT_ONCE if self._service is None or self._failure else ending_of(self._service)

    async def _serve(self, service: Service) -> None:
        try:
            await service.run(task_status=_Status(self._settled))
        except Exception as error:
            if self._settled.is_set():
                raise
            self._failure = error
            self._settled.set()
            with trio.move_on_after(FAREWELL):
                await self.channel.gone.wait()

    async def _talk(self) -> None:
        await self.channel.run()
        if not self._stopped:
            log.error("the parent is gone")
        self._stop("")

    # -- the beginning ---------------------------------------------------------------------------------------

    async def _begin(self, passed: list[int], orders: Orders) -> None:
        """Take what has come. Raises what a service raises that cannot be made of it."""
        memory = passed.pop(0) if orders.has_memory else None
        listeners = [descriptors.adopt(descriptor) for descriptor in passed]
        service = self._service = Service(
            orders.config,
            orders.config_path,
            parent=self.channel,
            office=self.office,
            worker_index=orders.index,
            worker_count=orders.count,
            shared_memory=memory,
            worker_rows=orders.rows,
            worker_row=orders.row,
            listeners=listeners,
            addresses=orders.addresses,
        )
        service.started_with = orders.started_with
        service.elsewhere = self._cancel_elsewhere
        answer_parent(service, self.channel)

    async def _accept(self) -> None:
        """Let clients in; returns when they are. Raises what keeps it from that."""
        self._told.set()
        await self._settled.wait()
        if self._failure is not None:
            raise self._failure

    def _cover(self, passed: list[int], index: int) -> None:
        """Accept in the place of another worker, for as long as there is none."""
        listeners = [descriptors.adopt(descriptor) for descriptor in passed]
        if self._service is None or not self._service.cover(index, listeners):
            for listener in listeners:
                listener.close()

    def _uncover(self, index: int) -> None:
        if self._service is not None:
            self._service.uncover(index)

    # -- afterwards ------------------------------------------------------------------------------------------

    async def _prepare(self, config: Config) -> Sequence[Problem]:
        """The first half of a reload: what keeps it from this configuration."""
        assert self._service is not None
        try:
            self._prepared = await prepare(self._service, config)
        except ConfigurationError as error:
            return error.problems
        return ()

    def _apply(self) -> None:
        """The other half."""
        prepared, self._prepared = self._prepared, None
        if prepared is not None:
            prepared.apply()

    async def _cancel(self, process_id: int, secret: bytes) -> bool:
        """A cancel request that has come to another process: whether the client is here."""
        client = (
            None if self._service is None else self._service.clients.find(CancelRequest(process_id, secret))
        )
        if client is None:
            return False
        await client.cancel()
        return True

    async def _cancel_elsewhere(self, process_id: int, secret: bytes) -> None:
        with suppress(WorkerError):
            await self.channel.call("cancel", process_id, secret)

    def _let_in(self, keys: set[PoolKey]) -> None:
        """Others have been, so that credentials which are refused are being changed."""
        self.office.let_in |= keys
        if self._service is not None:
            for key in keys & self._service.pools.keys():
                self._service.pools[key].let_in = True

    def _suspend_caches(self, suspended: bool) -> None:
        if self._service is not None:
            self._service.suspend_caches(suspended)

    def _leave(self) -> None:
        """Another pooler accepts."""
        self._stopped = True
        self._told.set()
        if self._service is not None and self._service.started_at:
            self._service.leave()

    def _stop(self, mode: ShutdownMode) -> None:
        self._stopped = True
        self._told.set()
        if self._service is not None and self._service.started_at:
            self._service.operations.shutdown(mode)


@attrs.frozen
class _Status:
    """Tells when the service accepts."""

    accepting: trio.Event

    def started(self, value: object = None) -> None:
        self.accepting.set()
