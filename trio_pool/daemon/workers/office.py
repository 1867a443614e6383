"""A worker's side of what all workers share: permits for servers, the watch over them, the count of clients.

What the messages mean is in `pooling/permits.py` (the desk), `net/warden.py` and `net/clients.py` (the
membership); this only carries them. They are notes, because their order matters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_pool.daemon.stopping import stopped
from trio_pool.daemon.workers.channel import WorkerError
from trio_pool.net.clients import too_many
from trio_pool.pooling.permits import Permits

if TYPE_CHECKING:
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.net.dial import CancelKey
    from trio_pool.pooling.pool import PoolKey

LOOK_AGAIN: Final = 0.05
"""Seconds between looks at who still waits for a permit."""


@attrs.define(eq=False)
class Office:
    """Of one process: desk, warden and membership."""

    channel: Channel
    permits: dict[PoolKey, Permits] = attrs.field(factory=dict)
    let_in: set[PoolKey] = attrs.field(factory=set)
    """Pools for which the origin has let some process in."""
    _busy: trio.Event = attrs.field(factory=trio.Event)
    """Set while somebody waits for a permit, or owes one."""

    def __attrs_post_init__(self) -> None:
        notes = self.channel.notes
        notes["granted"], notes["recall"], notes["surrender"] = self._granted, self._recall, self._surrender

    def capacity_of(self, key: PoolKey) -> Permits:
        """What stands in for a capacity of the pool."""
        found = self.permits.get(key)
        if found is None:
            found = self.permits[key] = Permits(key=key, desk=self, clock=trio.current_time)
        return found

    def rename(self, key: PoolKey, new: PoolKey) -> None:
        """A pool has another user from now on; its servers stay until they are given back."""
        if new not in self.permits and key in self.permits:
            permits = self.permits[new] = self.permits.pop(key)
            permits.key = new
            self.channel.tell("rename", key, new)

    async def run(self) -> None:
        """Look again, while there is something to look at."""
        while True:
            await self._busy.wait()
            self._busy = trio.Event()
            await trio.sleep(LOOK_AGAIN)
            for permits in list(self.permits.values()):
                permits.look_again()
                if permits.asked is not None or permits.owed_until:
                    self._busy.set()

    # -- desk ------------------------------------------------------------------------------------------------

    def ask(self, key: PoolKey, *, pressing: bool) -> None:
        self.channel.tell("ask", key, pressing)
        self._busy.set()

    def withdraw(self, key: PoolKey) -> None:
        self.channel.tell("withdraw", key)

    def give_back(self, permit: int) -> None:
        self.channel.tell("closed", permit)

    def _granted(self, key: PoolKey, permit: int) -> None:
        self.capacity_of(key).granted(permit)

    def _recall(self, key: PoolKey, due: bool, sake: object) -> None:
        found = self.permits.get(key)
        if (found is None or not found.recall(due=due)) and not due:
            self.channel.tell("kept", sake)
        self._busy.set()

    def _surrender(self, key: PoolKey, count: int) -> None:
        if key in self.permits:
            self.permits[key].surrender(count)

    # -- warden ----------------------------------------------------------------------------------------------

    def opened(self, permit: int, descriptor: int) -> None:
        self.channel.tell("opened", permit, descriptors=(descriptor,))

    def logged_in(self, permit: int, database: str, key: CancelKey) -> None:
        self.channel.tell("logged_in", permit, database, key)

    def closed(self, permit: int) -> None:
        self.channel.tell("closed", permit)

    # -- membership ------------------------------------------------------------------------------------------

    async def admit(
        self, database: str, user: str, *, most: int, most_of_database: int, most_of_user: int
    ) -> None:
        """Raises `ClientFault` if there are too many in all processes."""
        try:
            with trio.CancelScope(shield=True):  # or who has been counted already would stay so
                refusal = await self.channel.call(
                    "admit", database, user, most, most_of_database, most_of_user
                )
        except WorkerError:
            raise stopped() from None
        if refusal is not None:
            raise too_many(refusal)

    def left(self, database: str, user: str) -> None:
        self.channel.tell("left", database, user)
