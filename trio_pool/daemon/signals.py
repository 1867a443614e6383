"""The daemon under signals: SIGTERM or SIGINT drains, a second one stops at once; SIGHUP reloads; SIGUSR2 has
another process take over, which may be of another version.

What supervises the process is told where it stands (`net/notify.py`).
"""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING, Protocol

import structlog
import trio

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.operations import OperationError
from trio_pool.daemon.service import Service
from trio_pool.daemon.workers.handover import Leaving, Predecessor, hand_over
from trio_pool.daemon.workers.single import Single
from trio_pool.net import inherited, notify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio_pool.config.model import Config
    from trio_pool.daemon.workers.fleet import Fleet

log = structlog.get_logger()


RELOADING = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []
HANDING_OVER = [signal.SIGUSR2] if hasattr(signal, "SIGUSR2") else []


class Daemon(Leaving, Protocol):
    """What signals are about: a service, or several."""

    handed_over: bool

    def stop(self) -> None: ...
    def stop_at_once(self) -> None: ...
    async def reload(self) -> list[str]: ...


class Ending(enum.Enum):
    """How the daemon has ended."""

    IN_ORDER = "in order"
    """Every client had left between its transactions."""
    GAVE_UP = "gave up"
    """`drain` was over before all had."""
    AT_ONCE = "at once"
    """A second signal did not wait for them."""


async def serve_until_signalled(
    config: Config,
    path: Path | None = None,
    reread: Callable[[], Config] | None = None,
    *,
    task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED,
) -> Ending:
    """Serve until told to stop. `reread` gives the configuration anew, `path` is where it is."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *RELOADING, *HANDING_OVER) as signals:
        async with trio.open_nursery() as outer:
            service = Service(config, path, reread)
            single = Single(service, outer)
            predecessor = await Predecessor.met(outer)
            if predecessor is not None:
                await single.succeed(predecessor)
            async with trio.open_nursery() as serving:
                await serving.start(service.run)
                task_status.started(service)
                _tell_of_start(predecessor, service.addresses)
                outer.start_soon(_obey, signals, single, outer)
                outer.start_soon(_tell_that_it_lives)
                serving.start_soon(_tell_of_stop, single)
            await single.settle()
            outer.cancel_scope.cancel()
    return ending_of(service)


async def serve_several_until_signalled(
    fleet: Fleet, *, task_status: trio.TaskStatus[Fleet] = trio.TASK_STATUS_IGNORED
) -> Ending:
    """The same for several processes."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *RELOADING, *HANDING_OVER) as signals:
        async with trio.open_nursery() as outer:
            outer.start_soon(_obey, signals, fleet, outer)  # workers take a moment to begin
            predecessor = fleet.predecessor = await Predecessor.met(outer)
            async with trio.open_nursery() as serving:
                await serving.start(fleet.run)
                task_status.started(fleet)
                _tell_of_start(predecessor, fleet.addresses)
                outer.start_soon(_tell_that_it_lives)
                serving.start_soon(_tell_of_stop, fleet)
            outer.cancel_scope.cancel()
    return fleet.ending


def ending_of(service: Service) -> Ending:
    """How a service has ended."""
    if service.ending.hurried:
        return Ending.AT_ONCE
    return Ending.GAVE_UP if service.ending.losses.given_up else Ending.IN_ORDER


def _tell_of_start(predecessor: Predecessor | None, addresses: tuple[str, ...]) -> None:
    if predecessor is not None:
        predecessor.dismiss()
    else:
        for name in inherited.refuse_the_rest():
            log.warning("a socket of the supervisor is none of the configuration's addresses", address=name)
    notify.ready(f"accepting clients at {', '.join(addresses)}")


async def _tell_that_it_lives() -> None:
    """For a supervisor that ends what does not."""
    interval = notify.watchdog_interval()
    while interval is not None:
        notify.alive()
        await trio.sleep(interval / 3)


async def _tell_of_stop(daemon: Daemon) -> None:
    """Whoever it was that has asked for it."""
    await daemon.wait_stopping()
    if not daemon.handed_over:
        notify.stopping()


async def _reload(daemon: Daemon) -> None:
    notify.reloading()
    try:
        await daemon.reload()
    except ConfigurationError:
        pass  # the log has it
    except OperationError as error:
        log.error("reload failed, nothing has changed", problems=[str(error)])
    except Exception as error:
        log.error("internal error in a reload", exc_info=error)
    notify.ready()


async def _hand_over(daemon: Daemon, nursery: trio.Nursery, under_way: trio.Lock) -> None:
    try:
        under_way.acquire_nowait()
    except trio.WouldBlock:
        return
    try:
        await hand_over(daemon, nursery)
    except Exception as error:
        log.error("internal error in a hand-over", exc_info=error)
    finally:
        under_way.release()


async def _obey(signals: AsyncIterator[int], daemon: Daemon, nursery: trio.Nursery) -> None:
    effects = iter((("drain", daemon.stop), ("stop at once", daemon.stop_at_once)))
    handing_over = trio.Lock()
    async for number in signals:
        if number in RELOADING:
            if not daemon.stopping:
                nursery.start_soon(_reload, daemon)
            continue
        if number in HANDING_OVER:
            nursery.start_soon(_hand_over, daemon, nursery, handing_over)
            continue
        effect, act = next(effects, ("cut off", nursery.cancel_scope.cancel))
        log.warning("signal", signal=signal.Signals(number).name, effect=effect)
        act()
