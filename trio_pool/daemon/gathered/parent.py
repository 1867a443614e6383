"""The parent's side: ask every worker, keep what those have counted that die, act on all of them.

What a worker has counted is passed on and remembered in one go, and one question after the other. So nobody
has ever been told more than what is kept when the worker dies, and what only grows never falls. Who asks gets
the workers that are there when the question comes, and what is left of those that had died by then: each
process counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import attrs
import structlog
import trio

from trio_pool.daemon.gathered.acting import LASTS, UNDOING, Held, combined
from trio_pool.daemon.gathered.merging import LASTING, REMAINS, remains
from trio_pool.daemon.gathered.parts import ACT, GATHER, Part, Sealed, packed, unpacked_at_once
from trio_pool.daemon.workers.channel import WorkerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from trio_pool.config.address import TcpAddress
    from trio_pool.config.model import Config
    from trio_pool.daemon.console.outcome import Outcome
    from trio_pool.daemon.gathered.acting import Command
    from trio_pool.daemon.gathered.parts import Items
    from trio_pool.daemon.workers.channel import Channel

log = structlog.get_logger()

PATIENCE: Final = 5.0
"""Seconds that a worker has to answer; then what it said last counts."""


class Worker(Protocol):
    """One process that serves clients."""

    @property
    def index(self) -> int: ...
    @property
    def restarts(self) -> int:
        """Processes that were in its place before."""

    @property
    def channel(self) -> Channel: ...


class Fleet(Protocol):
    """All of them."""

    @property
    def config(self) -> Config: ...
    @property
    def workers(self) -> Sequence[Worker]:
        """Those that serve."""

    @property
    def started_at(self) -> float:
        """On Trio's clock."""

    @property
    def stopping(self) -> bool: ...


@attrs.define(eq=False)
class _Member:
    worker: Worker
    last: dict[Part, Sequence[bytes]] = attrs.field(factory=dict)
    """What it has said of what it counts."""
    gone: bool = False
    lock: trio.Lock = attrs.field(factory=trio.Lock)
    known: bool = False
    """Whether it gets the commands that come."""
    welcomed: trio.Event = attrs.field(factory=trio.Event)
    """Set when it has been told what came before them."""


@attrs.define(eq=False)
class _Ongoing:
    """A command that is being done."""

    command: Command
    done: list[Worker] = attrs.field(factory=list)
    """Where it has been."""
    given_up: bool = False


@attrs.define(eq=False)
class Gatherer:
    """Of one parent."""

    fleet: Fleet
    held: Held = attrs.field(factory=Held)
    _members: dict[int, _Member] = attrs.field(factory=dict)
    """By index."""
    _ongoing: list[_Ongoing] = attrs.field(factory=list)
    _remains: Mapping[Part, Items] = attrs.field(factory=dict)

    # -- who is there ----------------------------------------------------------------------------------------

    def serve(self, worker: Worker) -> None:
        """A worker has been started: answer its console, and remember what it says."""
        self._members[worker.index] = _Member(worker)
        worker.channel.handlers[GATHER] = self._gather_for
        worker.channel.handlers[ACT] = self._act_for

    async def welcome(self, worker: Worker) -> None:
        """Tell a worker that has come later what operators have said before: best before it accepts.

        Commands that come meanwhile wait for it. So it is always in the state of the others, whatever comes.
        """
        member = self._members[worker.index]
        before = self.held.commands
        ongoing = [each for each in self._ongoing if each.command[0] in LASTS]
        member.known = True
        for command in before:
            await _tell(worker, command)
        for each in ongoing:
            if _has_succeeded(await _tell(worker, each.command)):
                each.done.append(worker)
                if each.given_up:
                    await _tell_all([worker], _undoing(each.command))
        member.welcomed.set()

    def gone(self, worker: Worker) -> None:
        """It has died. What it had counted stays."""
        member = self._members.get(worker.index)
        if member is None or member.worker is not worker:
            return
        del self._members[worker.index]
        member.gone = True
        member.welcomed.set()
        last = {part: unpacked_at_once(slices) for part, slices in member.last.items()}
        self._remains = remains(self._remains, last)

    def _serving(self) -> list[_Member]:
        found = (self._members.get(worker.index) for worker in self.fleet.workers)
        return [member for member in found if member is not None]

    # -- to look ---------------------------------------------------------------------------------------------

    async def gather(self, parts: Iterable[Part], most: int | None = None) -> list[Sealed]:
        """What all workers say, and what is left of others, unopened."""
        parts = list(parts)
        left = {part: items for part, items in self._remains.items() if part in parts}
        answers: dict[int, Sealed] = {}

        async def ask(member: _Member) -> None:
            slices = await _ask(member, parts, most)
            answers[member.worker.index] = Sealed(member.worker.index, member.worker.restarts, slices)

        async with trio.open_nursery() as nursery:
            for member in self._serving():
                nursery.start_soon(ask, member)
        found = [answers[index] for index in sorted(answers)]
        if left:
            found.append(Sealed(REMAINS, 0, {part: await packed(items) for part, items in left.items()}))
        return found

    async def _gather_for(self, parts: Iterable[Part], most: int | None) -> list[Sealed]:
        return await self.gather(parts, most)

    # -- to act ----------------------------------------------------------------------------------------------

    async def act(self, command: Command) -> Outcome:
        """Do it in all workers, and return when it is done. A worker that dies meanwhile is none of them.

        When cancelled it is undone, like a command of one process.
        """
        outcomes: dict[int, Outcome] = {}
        ongoing = _Ongoing(command)

        async def order(member: _Member) -> None:
            await member.welcomed.wait()
            outcome = await _tell(member.worker, command)
            if outcome is not None:
                outcomes[member.worker.index] = outcome
                if _has_succeeded(outcome):
                    ongoing.done.append(member.worker)

        asked = [member for member in self._members.values() if member.known]
        self._ongoing.append(ongoing)
        try:
            async with trio.open_nursery() as nursery:
                for member in asked:
                    nursery.start_soon(order, member)
        except BaseException:
            ongoing.given_up = True
            if command[0] in UNDOING:
                await _tell_all(ongoing.done, _undoing(command))
            else:  # a KILL holds from its beginning on
                self.held = self.held.after(command)
            raise
        finally:
            self._ongoing.remove(ongoing)
        outcome = combined(command[0], [outcomes[index] for index in sorted(outcomes)])
        if outcome.failure is None:
            self.held = self.held.after(command)
        return outcome

    async def _act_for(self, name: str, argument: str, more: str) -> Outcome:
        return await self.act((name, argument, more))

    # -- the web ---------------------------------------------------------------------------------------------

    async def serve_http(
        self, address: TcpAddress, *, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Metrics, health and the status page of all of them, until cancelled. `started` gets the URL.

        Raises OSError if the address cannot be listened on.
        """
        from trio_pool.daemon.gathered.web import Everywhere  # only where it is wanted
        from trio_pool.daemon.web.app import make_app
        from trio_pool.daemon.web.server import run_apart, serve_http
        from trio_pool.daemon.web.snapshot import Sampler

        source = Everywhere(self)
        sampler = Sampler(source)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_apart, sampler.run)
            await serve_http(address, make_app(source, sampler), task_status=task_status)
            nursery.cancel_scope.cancel()


async def _ask(member: _Member, parts: Sequence[Part], most: int | None) -> dict[Part, Sequence[bytes]]:
    """What it says; of one that does not, what it has said before of what lasts."""
    lasting = [part for part in parts if part in LASTING]
    with trio.move_on_after(PATIENCE):
        async with member.lock:
            said: dict[Part, Sequence[bytes]] | None = None
            try:
                said = await member.worker.channel.call(GATHER, parts, most)
            except WorkerError as error:
                log.debug("a worker does not answer", worker=member.worker.index, error=str(error))
            if said is not None and not member.gone:
                member.last.update({part: said[part] for part in lasting})
                return said
    return {part: member.last[part] for part in lasting if part in member.last}


async def _tell(worker: Worker, command: Command) -> Outcome | None:
    """What has come of it; None if it has died."""
    try:
        outcome: Outcome = await worker.channel.call(ACT, *command)
    except WorkerError as error:
        log.warning("a worker has not done what it was told", worker=worker.index, error=str(error))
        return None
    return outcome


async def _tell_all(workers: Iterable[Worker], command: Command) -> None:
    """Whatever happens to who wanted it."""
    with trio.move_on_after(PATIENCE, shield=True):
        async with trio.open_nursery() as nursery:
            for worker in workers:
                nursery.start_soon(_tell, worker, command)


def _undoing(command: Command) -> Command:
    name, argument, _ = command
    return UNDOING[name], argument, ""


def _has_succeeded(outcome: Outcome | None) -> bool:
    return outcome is not None and outcome.failure is None
