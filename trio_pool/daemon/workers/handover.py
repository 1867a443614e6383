"""One pooler takes over from another without a gap: the older one starts the newer one, which gets its
listening sockets, and leaves when that one serves.

    older                                  newer
      | starts it (the same command line)    |
      |-- socket ..., begin ---------------->|  notes the sockets, reads its configuration
      |<------------------------------ yield-|
      |-- permits -------------------------->|  is the broker of both, so that together they have no more
      |                                      |  servers than the pools' sizes
      |<---------------------------- serving-|  both accept
      |  accepts no more; its clients stay   |
      |  until they leave, or `hand_over`    |
      |  is over and they are sent away      |
      |<-------------- cancel requests ------|
      |  ends                                |

If the newer one does not come to serve, nothing has changed.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final, Protocol, Self

import attrs
import structlog
import trio

from trio_pool.daemon.workers.channel import Channel, WorkerError
from trio_pool.net import descriptors, inherited, notify

if TYPE_CHECKING:
    from trio_pool.daemon.workers.brokerage import Brokerage, Held, Wants
    from trio_pool.pooling.pool import PoolKey

log = structlog.get_logger()

VARIABLE: Final = "TRIO_POOL_HAND_OVER"
"""Tells a process that another one waits for it: the descriptor of the channel."""
PATIENCE: Final = 60.0
"""Seconds that the newer one has to come to serve."""
LAST_WORDS: Final = 3.0
"""Seconds that one has to end that has given up."""
AT_ONCE: Final = 60
"""Sockets in one message."""


class Leaving(Protocol):
    """What can be handed over: a service, or several."""

    others: list[Channel]
    """Poolers that may have the client of a cancel request."""

    @property
    def let_in(self) -> set[PoolKey]:
        """Pools for which the origin has let it in."""

    @property
    def stopping(self) -> bool: ...
    @property
    def obstacle(self) -> str | None:
        """What keeps it from being handed over now."""

    async def wait_stopping(self) -> None: ...
    async def open_books(self) -> None:
        """Make ready for that."""

    def yield_permits(self, channel: Channel) -> tuple[Held, Wants, int]:
        """The other one decides from now on who has how many servers: what it needs for that."""

    def take_back(self) -> None:
        """It does not."""

    def leave(self) -> None:
        """Accept nobody any more, and end when the clients have left."""

    async def cancel_here(self, process_id: int, secret: bytes) -> bool:
        """Cancel what a client does; whether there is such a client."""


async def hand_over(daemon: Leaving, nursery: trio.Nursery) -> None:
    """Returns when the other one serves, or has failed. The channel goes on in the nursery."""
    if daemon.obstacle is not None:
        log.error("cannot hand over", because=daemon.obstacle)
        return
    await daemon.open_books()
    try:
        process, channel = await _start()
    except OSError as error:
        daemon.take_back()
        log.error("hand-over failed, nothing has changed", error=str(error))
        return
    log.info("handing over", process=process.pid)
    serves = trio.Event()

    def give_permits() -> None:
        channel.tell("permits", *daemon.yield_permits(channel))
        channel.tell("let_in", daemon.let_in)

    channel.notes |= {"serving": serves.set, "yield": give_permits}
    channel.handlers["cancel_here"] = daemon.cancel_here
    nursery.start_soon(channel.run)
    _pass_sockets(channel)
    with trio.move_on_after(PATIENCE):
        async with trio.open_nursery() as waiting:
            for event in (serves.wait, channel.gone.wait, daemon.wait_stopping):
                waiting.start_soon(_until, event, waiting)
    if not serves.is_set() or daemon.stopping:
        with trio.move_on_after(LAST_WORDS if channel.gone.is_set() else 0):
            await process.wait()
        process.kill()
        status = await process.wait()
        channel.close()
        daemon.take_back()
        log.error("hand-over failed, nothing has changed", status=status)
        return
    notify.main_process(process.pid)
    log.info("handed over", process=process.pid)
    for bound in inherited.bound:
        bound.foreign = True
    daemon.others.append(channel)
    daemon.leave()
    nursery.start_soon(_outlive, daemon, channel, process)


async def _start() -> tuple[trio.Process, Channel]:
    ours, theirs = descriptors.pair()
    environment = {**os.environ, VARIABLE: str(theirs.fileno())}
    environment.pop("WATCHDOG_PID", None)
    try:
        with theirs:
            process = await trio.lowlevel.open_process(
                [sys.executable, *sys.orig_argv[1:]], pass_fds=(theirs.fileno(),), env=environment
            )
    except BaseException:
        ours.close()
        raise
    return process, Channel(ours, "the newer process")


def _pass_sockets(channel: Channel) -> None:
    for bound in inherited.bound:
        numbers = [sock.fileno() for sock in bound.sockets]
        for first in range(0, len(numbers), AT_ONCE):
            some = tuple(numbers[first : first + AT_ONCE])
            channel.tell("socket", str(bound.address), bound.foreign, descriptors=some)
    channel.tell("begin")


async def _until(event: object, nursery: trio.Nursery) -> None:
    await event()  # type: ignore[operator]
    nursery.cancel_scope.cancel()


async def _outlive(daemon: Leaving, channel: Channel, process: trio.Process) -> None:
    """The newer one may die before this one ends."""
    await process.wait()
    await channel.gone.wait()
    log.error("the newer process has died", status=process.returncode)
    daemon.others.remove(channel)
    daemon.take_back()


@attrs.define(eq=False)
class Predecessor:
    """The older process, seen from the newer one."""

    channel: Channel
    _began: trio.Event = attrs.field(factory=trio.Event)
    _yielded: trio.Event = attrs.field(factory=trio.Event)

    @classmethod
    async def met(cls, nursery: trio.Nursery) -> Self | None:
        """The one that has started this process, if one has, when its sockets are here. The channel goes on
        in the nursery.
        """
        number = os.environ.pop(VARIABLE, "")
        if not number.isdecimal():
            return None
        channel = Channel(inherited.adopt(int(number)), "the older process")
        found = cls(channel)
        channel.notes |= {"socket": _take_socket, "begin": found._began.set}
        channel.takes_descriptors.add("socket")
        nursery.start_soon(channel.run)
        with trio.fail_after(PATIENCE):
            await found._began.wait()
        return found

    async def share(self, brokerage: Brokerage) -> None:
        """From now on this process has the broker of both."""

        def take(held: Held, wants: Wants, parties: int) -> None:
            brokerage.take_over(self.channel, held, wants, parties)
            self._yielded.set()

        self.channel.notes["permits"] = take
        self.channel.tell("yield")
        with trio.fail_after(PATIENCE):
            await self._yielded.wait()

    def dismiss(self) -> None:
        """Clients are accepted here: it may leave."""
        for name in inherited.refuse_the_rest():
            log.info("no longer listening", address=name)
        self.channel.tell("serving")


def _take_socket(passed: list[int], spelled: str, foreign: bool) -> None:
    for descriptor in passed:
        inherited.given.append(inherited.Given(inherited.adopt(descriptor), spelled, foreign))


async def cancel_among(others: list[Channel], process_id: int, secret: bytes) -> bool:
    """A cancel request for none of the clients here."""
    for channel in list(others):
        try:
            if await channel.call("cancel_here", process_id, secret):
                return True
        except WorkerError:
            pass  # it is gone, and its clients with it
    return False
