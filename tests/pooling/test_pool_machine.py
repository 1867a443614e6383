"""A model that random use of a pool must agree with."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.pooling.parts import AnyPool, Client, Server, pool
from trio_pool.pooling.pool import PoolFull, ServerState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

USERS = st.sampled_from(["alice", "bob", "carol", ""])


class PoolMachine(RuleBasedStateMachine):
    """Random use of a pool, beside the plainest model of it: who has what, and who waits in which order."""

    bounds: Mapping[str, int] | None = None
    """How many leases each user may hold; None where nobody's are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.grown = 0
        self.pool: AnyPool = pool(3, min_size=1, max_waiting=4, grow=self.grow, bounds=self.bounds)
        self.slots: list[Server] = []
        self.servers: list[Server] = []
        self.queue: list[Client] = []
        self.holders: dict[Server, Client] = {}
        self.pins: dict[Server, dict[str, float]] = {}
        self.now = 0.0

    def grow(self) -> None:
        self.grown += 1

    def admits(self, user: str) -> bool:
        """Whether the user may have one more lease."""
        bound = (self.bounds or {}).get(user, 0)
        return not bound or sum(holder.user == user for holder in self.holders.values()) < bound

    def next_in_queue(self) -> Client | None:
        """Who waits longest of those whose users may have one more."""
        return next((client for client in self.queue if self.admits(client.user)), None)

    @rule(user=USERS)
    def acquire(self, user: str) -> None:
        client = Client(user)
        idle = list(self.pool.idle)
        try:
            server = self.pool.acquire(client)
        except PoolFull:
            assert sum(self.bounds is None or waiter.user == user for waiter in self.queue) == 4
            return
        if idle and self.admits(user):
            assert server is idle[-1]
            self.holders[server] = client
        else:
            assert server is None
            self.queue.append(client)

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(self.queue))
        self.pool.forget(client)
        self.queue.remove(client)

    @precondition(lambda self: self.pool.wants_server)
    @rule()
    def connect(self) -> None:
        slot = Server()
        self.pool.connecting(slot)
        self.slots.append(slot)

    @precondition(lambda self: self.slots)
    @rule(works=st.booleans())
    def finish_connecting(self, works: bool) -> None:
        slot = self.slots.pop()
        if works:
            server = Server()
            self.servers.append(server)
            self.expect_handed_on(server, lambda: self.pool.joined(slot, server))
        else:
            self.pool.left(slot)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), reasons=st.sets(st.sampled_from(["lock", "cursor", "LOAD"])))
    def pin(self, data: st.DataObject, reasons: set[str]) -> None:
        server = data.draw(st.sampled_from(list(self.holders)))
        self.pin_for(server, reasons)

    def pin_for(self, server: Server, reasons: set[str]) -> None:
        self.now += 1
        before = self.pins.pop(server, {})
        new, gone = self.pool.pin(server, reasons, self.now)
        assert (new, gone) == (reasons - before.keys(), before.keys() - reasons)
        if reasons:
            self.pins[server] = {reason: before.get(reason, self.now) for reason in reasons}

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), how=st.sampled_from(["release", "cleaning", "cancelling", "left"]))
    def end_lease(self, data: st.DataObject, how: str) -> None:
        server = data.draw(st.sampled_from(list(self.holders)))
        self.pin_for(server, set())
        del self.holders[server]
        self.end(server, how)

    @precondition(lambda self: self.held_back())
    @rule(data=st.data(), how=st.sampled_from(["release", "cancelling", "cleaning", "left"]))
    def end_holding_back(self, data: st.DataObject, how: str) -> None:
        self.end(data.draw(st.sampled_from(self.held_back())), how)

    @precondition(lambda self: self.pool.idle)
    @rule(data=st.data())
    def lose_an_idle_one(self, data: st.DataObject) -> None:
        self.end(data.draw(st.sampled_from(list(self.pool.idle))), "left")

    def end(self, server: Server, how: str) -> None:
        if how == "release":
            self.expect_handed_on(server, lambda: self.pool.release(server))
            return
        idle = [other for other in self.pool.idle if other is not server]
        getattr(self.pool, how)(server)
        if how == "left":
            self.servers.remove(server)
            self.pool.left(server)
        if idle:
            self.expect_served(idle[-1])  # the end of a lease may have let somebody in

    def expect_handed_on(self, server: Server, act: Callable[[], None]) -> None:
        first = self.next_in_queue()
        act()
        if first is None:
            assert server in self.pool.idle
        else:
            self.expect_granted(first, server)

    def expect_served(self, idle: Server) -> None:
        first = self.next_in_queue()
        if first is None:
            assert idle in self.pool.idle
        else:
            self.expect_granted(first, idle)

    def expect_granted(self, client: Client, server: Server) -> None:
        assert client.server is server
        self.queue.remove(client)
        self.holders[server] = client

    def held_back(self) -> list[Server]:
        return [s for s in self.servers if s.state in (ServerState.CLEANING, ServerState.CANCELLING)]

    @invariant()
    def agrees_with_the_model(self) -> None:
        self.pool.check()
        assert list(self.pool.waiting) == self.queue
        assert self.pool.leased == self.holders
        assert self.pool.pinned == self.pins
        assert self.pool.statistics().pinned == len(self.pins)
        assert self.pool.servers == len(self.servers) + len(self.slots) <= 3
        assert self.pool.has_eligible == (self.next_in_queue() is not None)
        assert all(client.server is None for client in self.queue)
        assert not (self.pool.idle and self.pool.has_eligible)

    @invariant()
    def asks_when_it_wants(self) -> None:
        if self.next_in_queue() is not None and self.pool.wants_server:
            assert self.grown

    @invariant()
    def nobody_has_more_than_allowed(self) -> None:
        for user, bound in (self.bounds or {}).items():
            assert not bound or sum(client.user == user for client in self.pool.leased.values()) <= bound


class BoundedPoolMachine(PoolMachine):
    """The same where users are bounded, each in another way."""

    bounds = MappingProxyType({"alice": 1, "bob": 2, "carol": 0})


TestPoolMachine = PoolMachine.TestCase
TestBoundedPoolMachine = BoundedPoolMachine.TestCase
