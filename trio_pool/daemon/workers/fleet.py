"""The parent of several worker processes: starts them, restarts those that die, stops and reloads all.

    run
    ├─ brokerage   who may have how many servers, and the servers of dead workers
    ├─ http        metrics and status page, for all of them
    └─ places      one task for each worker: its process, one after the other

It serves no client. While a place has no worker that accepts, another one accepts from its sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.gathered.parent import Gatherer
from trio_pool.daemon.operations import OperationError
from trio_pool.daemon.reload import describe
from trio_pool.daemon.signals import Ending
from trio_pool.daemon.workers import member as members
from trio_pool.daemon.workers.brokerage import Brokerage
from trio_pool.daemon.workers.channel import WorkerError
from trio_pool.daemon.workers.doubts import doubt
from trio_pool.daemon.workers.failure import CannotServe
from trio_pool.daemon.workers.handover import cancel_among
from trio_pool.daemon.workers.memory import SharedMemory
from trio_pool.daemon.workers.orders import Orders
from trio_pool.net.bound import bind
from trio_pool.net.clients import SLOT_SHIFT
from trio_pool.net.listeners import spell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from trio_pool.config.address import TcpAddress
    from trio_pool.config.model import Config
    from trio_pool.config.problems import Problem
    from trio_pool.daemon.operations import ShutdownMode
    from trio_pool.daemon.workers.brokerage import Held, Wants
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.daemon.workers.handover import Predecessor
    from trio_pool.daemon.workers.member import Member
    from trio_pool.net.inherited import Bound
    from trio_pool.pooling.pool import PoolKey

log = structlog.get_logger()

STABLE: Final = 10.0
"""Seconds after which a worker is held for one that works."""
SOONEST: Final = 0.1
LATEST: Final = 10.0
"""Seconds between a death and the next start, when workers die young. The first one is replaced at once."""
LEFTOVER: Final = 3.0
"""Seconds that servers have to go at the origin, when all workers have ended."""


@attrs.define(eq=False)
class Fleet:
    """`count` workers. `stop` ends them; `run` returns when they have."""

    config: Config
    count: int
    config_path: Path | None = None
    reread: Callable[[], Config] | None = None
    log_level: str = "info"
    started_with: Config = attrs.field(init=False)
    addresses: tuple[str, ...] = ()
    """Where clients connect, with the ports that the system chose."""
    http_address: str | None = None
    started_at: float = 0.0
    """On Trio's clock."""
    statuses: list[int] = attrs.field(factory=list)
    """With what the workers have ended that were there at the stop."""
    predecessor: Predecessor | None = None
    """What it takes over from."""
    others: list[Channel] = attrs.field(factory=list)
    """Poolers that may have the client of a cancel request."""
    handed_over: bool = False
    gatherer: Gatherer = attrs.field(init=False)
    _brokerage: Brokerage = attrs.field(init=False)
    _bound: list[Bound] = attrs.field(factory=list)
    _memory: SharedMemory | None = None
    _members: dict[int, Member] = attrs.field(factory=dict)
    """By index: those that have their orders."""
    _caches_suspended: bool = False
    _covers: dict[int, int] = attrs.field(factory=dict)
    """Who accepts in whose place."""
    _stopping: trio.Event = attrs.field(factory=trio.Event)
    _mode: ShutdownMode = ""
    _http: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _around: trio.Nursery = attrs.field(init=False)
    _reloading: trio.Lock = attrs.field(factory=trio.Lock)

    def __attrs_post_init__(self) -> None:
        self.started_with = self.config
        self.gatherer = Gatherer(self)

    @property
    def workers(self) -> list[Member]:
        """Those that accept clients, or have stopped to."""
        return [self._members[index] for index in sorted(self._members) if self._members[index].ready]

    @property
    def stopping(self) -> bool:
        """Whether it has been asked to end."""
        return self._stopping.is_set()

    async def wait_stopping(self) -> None:
        """Return when it has been asked to end."""
        await self._stopping.wait()

    def stop(self, mode: ShutdownMode = "wait_for_servers") -> None:
        """All workers end: at once, when transactions are over, or when the clients have left. A second one
        that is more urgent is obeyed.
        """
        if not self.stopping:
            log.info("stopping", mode=mode or "at once")
        self._mode = mode
        self._stopping.set()
        self._listen_no_more()
        for member in self._members.values():
            member.channel.tell("stop", mode)

    def stop_at_once(self) -> None:
        """Wait for nobody."""
        self.stop("")

    @property
    def ending(self) -> Ending:
        """How all workers together have ended."""
        if any(status not in (0, 10) for status in self.statuses):
            return Ending.AT_ONCE
        return Ending.GAVE_UP if 10 in self.statuses else Ending.IN_ORDER

    async def run(self, *, task_status: trio.TaskStatus[Fleet] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. `started` gets this object once all workers accept.

        Raises OSError if an address cannot be listened on, `CannotServe` for what a worker cannot do.
        """
        self.started_at = trio.current_time()
        try:
            for address in self.config.listen.addresses:
                self._bound.append(bind(address, self.count))
            self.addresses = tuple(spell(bound.sockets[0]) for bound in self._bound)
            with SharedMemory.made(self.count) as self._memory:
                async with trio.open_nursery() as around:
                    self._around = around
                    self._brokerage = Brokerage(lambda: self.config, around)
                    if self.predecessor is not None:
                        self.others.append(self.predecessor.channel)
                        self._caches_suspended = True
                        await self.predecessor.share(self._brokerage)
                        around.start_soon(self._until_alone, self.predecessor)
                    async with trio.open_nursery() as places:
                        async with trio.open_nursery() as starting:
                            for index in range(self.count):
                                starting.start_soon(places.start, self._keep, index)
                        http = self.config.http.address
                        if http is not None and not self.stopping:
                            self.http_address = await around.start(self._serve_http, http)
                        if not self.stopping:
                            log.info("ready", addresses=list(self.addresses), http=self.http_address)
                        task_status.started(self)
                    with trio.move_on_after(LEFTOVER):
                        while self._brokerage.wards.leaving:  # noqa: ASYNC110
                            await trio.sleep(0.01)
                    around.cancel_scope.cancel()
        finally:
            self._listen_no_more()
        log.info("stopped", workers=self.count)

    async def _serve_http(self, address: TcpAddress, *, task_status: trio.TaskStatus[str]) -> None:
        with self._http:
            await self.gatherer.serve_http(address, task_status=task_status)

    def _listen_no_more(self) -> None:
        while self._bound:
            self._bound.pop().close()

    # -- one place -------------------------------------------------------------------------------------------

    async def _keep(self, index: int, *, task_status: trio.TaskStatus[None]) -> None:
        """The processes of one place. `started` when the first one accepts."""
        delay, restarts = 0.0, 0
        while not self.stopping:
            began = trio.current_time()
            failure = await self._one(index, restarts, task_status if restarts == 0 else None)
            if self.stopping:
                break
            restarts += 1
            delay = 0.0 if trio.current_time() - began >= STABLE else min(max(2 * delay, SOONEST), LATEST)
            log.error("worker has died", worker=index, status=failure, again_in=delay)
            with trio.move_on_after(delay):
                await self._stopping.wait()

    async def _one(self, index: int, restarts: int, task_status: trio.TaskStatus[None] | None) -> object:
        """One process, from start to end. Returns its status. Only the first one of a place raises."""
        try:
            member = await members.start(index, self._brokerage.new_party(), restarts, self.log_level)
        except OSError as error:
            if task_status is not None:
                raise
            return error
        why: object = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(member.channel.run)
                nursery.start_soon(self._until_end, member, nursery.cancel_scope)
                try:
                    await self._set_to_work(member)
                except WorkerError as error:
                    why = error
                    if task_status is not None and not self.stopping:
                        raise CannotServe(str(error)) from error
                    nursery.cancel_scope.cancel()
                else:
                    if task_status is not None:
                        task_status.started()
        except* CannotServe as errors:
            raise errors.exceptions[0] from None
        finally:
            await self._bury(member)
        if self.stopping:
            if task_status is not None and not member.accepted:
                task_status.started()
            self.statuses.append(member.process.returncode or 0)
        return why or member.process.returncode

    async def _set_to_work(self, member: Member) -> None:
        index, channel = member.index, member.channel
        channel.handlers |= {
            "cancel": self.cancel,
            "reload": self.reload,
            "shutdown": self._shutdown,
        }
        self._brokerage.serve(member.party, channel)
        self.gatherer.serve(member)
        memory = self._memory
        orders = Orders(
            index,
            self.count,
            self.config,
            self.started_with,
            self.config_path,
            self.addresses,
            memory is not None,
            self.count,
            index,
        )
        listeners = [sock.fileno() for bound in self._bound for sock in bound.of_worker(index, self.count)]
        passed = (*(() if memory is None else (memory.descriptor,)), *listeners)
        self._members[index] = member  # from here on it hears of reloads
        await channel.call("begin", orders, descriptors=passed)
        channel.tell("suspend_caches", self._caches_suspended)
        await self.gatherer.welcome(member)
        if self.stopping:
            channel.tell("stop", self._mode)
            return
        await channel.call("accept")
        member.ready = member.accepted = True
        self._uncover(index)
        self._cover_others(member)
        log.info("worker accepts", worker=index, process=member.process_id, restarts=member.restarts)

    async def _until_end(self, member: Member, scope: trio.CancelScope) -> None:
        await member.process.wait()
        await member.channel.gone.wait()  # what it has told before its end comes first
        scope.cancel()

    async def _bury(self, member: Member) -> None:
        """Whatever has happened: the process is gone, its clients and servers are nobody's."""
        with trio.CancelScope(shield=True):
            member.kill()
            await member.process.wait()
        member.cut()
        member.ready = False
        member.channel.close()
        if self._members.get(member.index) is member:
            del self._members[member.index]
        held = self._brokerage.held_by(member.party)
        self._brokerage.gone(member.party)
        if self._memory is not None and held and not self.stopping:
            self._around.start_soon(
                doubt,
                self._memory,
                member.index,
                self.config,
                set(held.values()),
                self._brokerage.wards.leaving,
                set(held),
            )
        self.gatherer.gone(member)
        for index, by in list(self._covers.items()):
            if by == member.index:
                self._cover(index)
        self._cover(member.index)

    # -- accepting in another's place ------------------------------------------------------------------------

    def _cover(self, index: int) -> None:
        """Connections to a place without a worker are not to wait."""
        self._covers.pop(index, None)
        if self.stopping:
            return
        for member in self.workers:
            if member.index != index and member.index not in self._covers:
                sockets = [sock.fileno() for b in self._bound for sock in b.of_worker(index, self.count)]
                member.channel.tell("cover", index, descriptors=tuple(sockets))
                self._covers[index] = member.index
                return

    def _uncover(self, index: int) -> None:
        by = self._covers.pop(index, None)
        if by is not None and by in self._members:
            self._members[by].channel.tell("uncover", index)

    def _cover_others(self, member: Member) -> None:
        """Places that nobody could accept for until now."""
        for index in range(self.count):
            if index not in self._members and index not in self._covers:
                self._cover(index)

    # -- two poolers -----------------------------------------------------------------------------------------

    @property
    def obstacle(self) -> str | None:
        """What keeps it from being handed over."""
        if self.stopping:
            return "it is stopping"
        return "the process before this one still has clients" if self.others else None

    @property
    def let_in(self) -> set[PoolKey]:
        """Pools for which the origin has let some worker in."""
        return self._brokerage.let_in

    async def open_books(self) -> None:
        """They are open all the time."""

    def yield_permits(self, channel: Channel) -> tuple[Held, Wants, int]:
        """The other one decides from now on who has how many servers: what it needs for that."""
        self._suspend_caches(True)  # from now on the other one may have clients
        return *self._brokerage.hand_over(channel), self._brokerage.parties

    def take_back(self) -> None:
        """It does not."""
        self._brokerage.take_back()
        self._suspend_caches(False)

    def leave(self) -> None:
        """Accept nobody any more; end when the clients have left."""
        self.handed_over = True
        self._stopping.set()
        self._mode = "wait_for_clients"
        self._listen_no_more()
        self._http.cancel()
        for member in self._members.values():
            member.channel.tell("leave")
        self._around.start_soon(self._send_away_at_last)

    async def _send_away_at_last(self) -> None:
        await trio.sleep(self.config.timeouts.hand_over)
        self.stop("wait_for_servers")

    async def _until_alone(self, predecessor: Predecessor) -> None:
        await predecessor.channel.gone.wait()
        self.others.remove(predecessor.channel)
        self._suspend_caches(False)

    def _suspend_caches(self, suspended: bool) -> None:
        self._caches_suspended = suspended
        for member in self._members.values():
            member.channel.tell("suspend_caches", suspended)

    # -- what workers ask for --------------------------------------------------------------------------------

    async def cancel(self, process_id: int, secret: bytes) -> bool:
        """A cancel request that has come to the wrong process: whether its client was found."""
        if await self.cancel_here(process_id, secret):
            return True
        return await cancel_among(self.others, process_id, secret)

    async def cancel_here(self, process_id: int, secret: bytes) -> bool:
        """Cancel what a client does; whether a worker has it."""
        member = self._members.get((process_id >> SLOT_SHIFT) - 1)
        if member is None:
            return False
        try:
            return bool(await member.channel.call("cancel", process_id, secret))
        except WorkerError:
            return False

    async def _shutdown(self, mode: ShutdownMode) -> None:
        log.warning("shutdown", mode=mode or "at once")
        self.stop(mode)

    async def reload(self, config: Config | None = None) -> list[str]:
        """Apply another configuration in all workers: the one given, else the file as it is now. Returns what
        that has changed, a line each, and what takes a restart.

        First all of them prepare it, then all apply it. Raises `ConfigurationError`; then nothing has
        changed.
        """
        async with self._reloading:
            try:
                if config is None:
                    if self.reread is None:
                        raise OperationError("there is no configuration file to read again")
                    config = await trio.to_thread.run_sync(self.reread)
                await self._prepare(config)
            except ConfigurationError as error:
                log.error("reload failed, nothing has changed", problems=list(map(str, error.problems)))
                raise
            lines = list(describe(self.config, config, self.started_with))
            self.config = config
            for member in self._members.values():
                member.channel.tell("apply")
            self._brokerage.review()
        log.info("reloaded", changes=lines)
        return lines

    async def _prepare(self, config: Config) -> None:
        problems: list[Problem] = []

        async def ask(member: Member) -> None:
            try:
                found = await member.channel.call("prepare", config)
            except WorkerError as error:
                if not member.channel.gone.is_set():
                    log.error("a worker cannot reload", worker=member.index, error=str(error))
                return
            problems.extend(problem for problem in found if problem not in problems)

        async with trio.open_nursery() as nursery:
            for member in self._members.values():
                nursery.start_soon(ask, member)
        if problems:
            raise ConfigurationError(problems)
