"""The daemon under signals: SIGTERM or SIGINT drains, a second one stops at once."""

from __future__ import annotations

import enum
import signal
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.daemon.service import Service, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_pool.config.model import Config

log = structlog.get_logger()


class Ending(enum.Enum):
    """How the daemon has ended."""

    IN_ORDER = "in order"
    """Every client had left between its transactions."""
    GAVE_UP = "gave up"
    """`drain` was over before all had."""
    AT_ONCE = "at once"
    """A second signal did not wait for them."""


async def serve_until_signalled(
    config: Config, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED
) -> Ending:
    """Serve until told to stop."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as serving:
                service: Service = await serving.start(serve, config)
                task_status.started(service)
                outer.start_soon(_obey, signals, service, outer.cancel_scope)
            outer.cancel_scope.cancel()
    if service.ending.hurried:
        return Ending.AT_ONCE
    return Ending.GAVE_UP if service.ending.losses.given_up else Ending.IN_ORDER


async def _obey(signals: AsyncIterator[int], service: Service, scope: trio.CancelScope) -> None:
    effects = iter((("drain", service.stop), ("stop at once", service.stop_at_once)))
    async for number in signals:
        effect, act = next(effects, ("cut off", scope.cancel))
        log.warning("signal", signal=signal.Signals(number).name, effect=effect)
        act()
