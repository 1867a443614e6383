"""The server connections of all workers, seen from the parent: so that none is counted as gone before it is.

The parent has a descriptor of each. When a worker has closed one, or is dead, nothing more is sent on it;
what it runs is cancelled; and when PostgreSQL has closed it (by then it has left `pg_stat_activity`), its
permit can be given to somebody else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import structlog
import trio

from trio_pool.errors import ServerFault
from trio_pool.net import descriptors
from trio_pool.net.dial import OriginAccess, send_cancel_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.config.model import Config
    from trio_pool.net.descriptors import Socket
    from trio_pool.net.dial import CancelKey

log = structlog.get_logger()

IN_PEACE: Final = 1.0
"""Seconds that a server has to end by itself, when its worker has closed it."""
AGAIN: Final = 1.0
"""Seconds between attempts to cancel what keeps it."""
GIVEN_UP: Final = 30.0
"""Seconds after which it is counted as gone although the origin has not closed it."""


@attrs.define(eq=False)
class _Ward:
    sockets: list[Socket] = attrs.field(factory=list)
    database: str = ""
    cancel_key: CancelKey | None = None


@attrs.define(eq=False)
class Wards:
    """By permit. `returned` is called when all connections of one are gone at the origin."""

    config: Callable[[], Config]
    returned: Callable[[int], None]
    nursery: trio.Nursery
    _wards: dict[int, _Ward] = attrs.field(factory=dict)
    leaving: set[int] = attrs.field(factory=set)
    """Those that are of no worker any more, and not gone yet."""

    def opened(self, passed: list[int], permit: int) -> None:
        """There is a connection; its descriptors are ours."""
        self._wards.setdefault(permit, _Ward()).sockets += map(descriptors.adopt, passed)

    def logged_in(self, permit: int, database: str, key: CancelKey) -> None:
        """What it takes to cancel its statements."""
        ward = self._wards.get(permit)
        if ward is not None:
            ward.database, ward.cancel_key = database, key

    def closed(self, permit: int) -> None:
        """Its worker has closed it, or has not used the permit."""
        self._see_off(permit, IN_PEACE)

    def bereft(self, permits: Iterable[int]) -> None:
        """Their worker is dead."""
        for permit in permits:
            self._see_off(permit, 0.0)

    def let_go(self) -> None:
        """Watch over none of them any more."""
        while self._wards:
            for sock in self._wards.popitem()[1].sockets:
                sock.close()

    def _see_off(self, permit: int, peace: float) -> None:
        if permit in self.leaving:
            return  # its worker had closed it before it died
        ward = self._wards.pop(permit, None)
        if ward is None or not ward.sockets:
            self.returned(permit)
            return
        for sock in ward.sockets:
            descriptors.end_writing(sock)
        self.leaving.add(permit)
        self.nursery.start_soon(self._until_gone, permit, ward, peace)

    async def _until_gone(self, permit: int, ward: _Ward, peace: float) -> None:
        try:
            with trio.move_on_after(GIVEN_UP) as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._cancel, ward, peace)
                    for sock in ward.sockets:
                        await _end_of(sock)
                    nursery.cancel_scope.cancel()
            if scope.cancelled_caught:
                log.warning("the origin does not close a server connection", database=ward.database)
        finally:
            for sock in ward.sockets:
                sock.close()
            self.leaving.discard(permit)
            self.returned(permit)

    async def _cancel(self, ward: _Ward, peace: float) -> None:
        """PostgreSQL sees the end of a connection when it reads from it or writes to it, and not while it
        waits or computes.
        """
        await trio.sleep(peace)
        database = self.config().database(ward.database)
        if ward.cancel_key is None or database is None:
            return
        while True:
            try:
                with trio.move_on_after(AGAIN):
                    access = OriginAccess.to(database, database.origin.user or "", None)
                    await send_cancel_by(ward.cancel_key, access)
            except (OSError, ServerFault) as error:
                log.debug("a cancel request failed", database=ward.database, error=str(error))
            await trio.sleep(AGAIN)


async def _end_of(sock: Socket) -> None:
    """Read until the other side has closed it."""
    while True:
        try:
            received = descriptors.receive(sock)
        except OSError:
            return
        if received is None:
            await trio.lowlevel.wait_readable(sock)
        elif not received[0]:
            return
        else:
            await trio.lowlevel.checkpoint()
