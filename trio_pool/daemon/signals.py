"""The daemon under signals: SIGTERM or SIGINT drains, a second one stops at once."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import structlog
import trio

from trio_pool.daemon.service import Service, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from trio_pool.config.model import Config

log = structlog.get_logger()


async def serve_until_signalled(
    config: Config, *, task_status: trio.TaskStatus[Service] = trio.TASK_STATUS_IGNORED
) -> bool:
    """Serve until told to stop. True if it ended in order, False if a second signal cut it short."""
    in_order = False
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as outer:
            async with trio.open_nursery() as serving:
                service: Service = await serving.start(serve, config)
                task_status.started(service)
                outer.start_soon(_obey, signals, service, outer.cancel_scope)
            in_order = True
            outer.cancel_scope.cancel()
    return in_order


async def _obey(signals: AsyncIterator[int], service: Service, scope: trio.CancelScope) -> None:
    first = True
    async for number in signals:
        name = signal.Signals(number).name
        if first:
            log.info("signal", signal=name, effect="drain")
            service.stop()
            first = False
        else:
            log.warning("signal", signal=name, effect="stop at once")
            scope.cancel()
