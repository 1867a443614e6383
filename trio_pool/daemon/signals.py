"""The daemon under signals: SIGTERM or SIGINT drains, a second one stops at once; SIGHUP reloads.

What supervises the process is told where it stands (`net/notify.py`).
"""

from __future__ import annotations

import enum
import signal
from functools import partial
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.config.problems import ConfigurationError
from trio_pool.daemon.operations import OperationError
from trio_pool.daemon.service import Service, serve
from trio_pool.net import notify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from trio_pool.config.model import Config

log = structlog.get_logger()


RELOADING = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []


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
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, *RELOADING) as signals:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as serving:
                service: Service = await serving.start(
                    partial(serve, config_path=path, reread=reread), config
                )
                task_status.started(service)
                notify.ready(f"accepting clients at {', '.join(service.addresses)}")
                outer.start_soon(_obey, signals, service, outer)
                serving.start_soon(_tell_of_stop, service)
            outer.cancel_scope.cancel()
    if service.ending.hurried:
        return Ending.AT_ONCE
    return Ending.GAVE_UP if service.ending.losses.given_up else Ending.IN_ORDER


async def _tell_of_stop(service: Service) -> None:
    """Whoever it was that has asked for it."""
    await service.wait_stopping()
    notify.stopping()


async def _reload(service: Service) -> None:
    notify.reloading()
    try:
        await service.operations.reload()
    except ConfigurationError:
        pass  # the log has it
    except OperationError as error:
        log.error("reload failed, nothing has changed", problems=[str(error)])
    except Exception as error:
        log.error("internal error in a reload", exc_info=error)
    notify.ready()


async def _obey(signals: AsyncIterator[int], service: Service, nursery: trio.Nursery) -> None:
    effects = iter((("drain", service.stop), ("stop at once", service.stop_at_once)))
    async for number in signals:
        if number in RELOADING:
            if not service.stopping:
                nursery.start_soon(_reload, service)
            continue
        effect, act = next(effects, ("cut off", nursery.cancel_scope.cancel))
        log.warning("signal", signal=signal.Signals(number).name, effect=effect)
        act()
