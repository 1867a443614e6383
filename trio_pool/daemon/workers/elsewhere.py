"""A broker that is in another process: the one to which the sockets were handed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_pool.daemon.workers.channel import Channel
    from trio_pool.pooling.pool import PoolKey


@attrs.define(eq=False)
class Elsewhere:
    """What a `Broker` is to a brokerage. `held` is what its parties have, by permit."""

    channel: Channel
    held: dict[int, tuple[int, PoolKey]]

    def ask(self, party: int, key: PoolKey, *, pressing: bool) -> None:
        self.channel.tell("ask", party, key, pressing)

    def withdraw(self, party: int, key: PoolKey) -> None:
        self.channel.tell("withdraw", party, key)

    def kept(self, sake: tuple[int, PoolKey]) -> None:
        self.channel.tell("kept", sake)

    def returned(self, permit: int) -> None:
        if self.held.pop(permit, None) is not None:
            self.channel.tell("returned", permit)

    def gone(self, party: int) -> list[int]:
        self.channel.tell("gone", party)
        return [permit for permit, (holder, _) in self.held.items() if holder == party]

    def rename(self, party: int, key: PoolKey, new: PoolKey) -> None:
        self.channel.tell("rename", party, key, new)

    def review(self) -> None:
        """The other process sees to that."""
