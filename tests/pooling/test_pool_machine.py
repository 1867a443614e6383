"""A model that random use of a pool must agree with."""

from __future__ import annotations

from collections import Counter
from types import MappingProxyType
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.pooling.parts import AnyPool, Client, Server, pool
from trio_pool.pooling.pool import PoolFull, ServerState
from trio_pool.pooling.shares import Shares

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
        self.paused = False
        self.held_before: Counter[str] = Counter()
        """Leases by user a step ago: a bound that was lowered since takes nobody's lease away."""
        self.size = 3
        self.max_waiting = 4
        self.most = 3
        """Servers that there may be: those that a smaller size has left over may be given back first."""

    def grow(self) -> None:
        self.grown += 1

    def admits(self, user: str) -> bool:
        """Whether the user may have one more lease."""
        bound = (self.bounds or {}).get(user, 0)
        return not bound or sum(holder.user == user for holder in self.holders.values()) < bound

    def next_in_queue(self) -> Client | None:
        """Who waits longest of those whose users may have one more."""
        if self.paused:
            return None
        return next((client for client in self.queue if self.admits(client.user)), None)

    @rule(user=USERS)
    def acquire(self, user: str) -> None:
        client = Client(user)
        idle = list(self.pool.idle)
        try:
            server = self.pool.acquire(client)
        except PoolFull:
            counted = sum(self.bounds is None or waiter.user == user for waiter in self.queue)
            assert counted >= self.max_waiting > 0
            assert not self.paused
            return
        if idle and self.admits(user):
            assert server is idle[-1]
            self.holders[server] = client
        else:
            assert server is None
            self.queue.append(client)

    @rule()
    def pause(self) -> None:
        self.paused = True
        self.act_and_close_idle(self.pool.pause)

    @precondition(lambda self: self.paused)
    @rule()
    def go_on(self) -> None:
        self.paused = False
        self.pool.go_on()

    @rule(size=st.integers(1, 4), max_waiting=st.integers(0, 4))
    def resize(self, size: int, max_waiting: int) -> None:
        self.size, self.max_waiting = size, max_waiting
        self.act_and_close_idle(lambda: self.pool.resize(size, min(size, 1), max_waiting))
        self.most = max(size, len(self.servers) + len(self.slots))

    @rule(bounds=st.none() | st.dictionaries(USERS, st.integers(0, 2)))
    def bind(self, bounds: dict[str, int] | None) -> None:
        """What an operator changes while leases and waiters are there: nobody loses a lease, and whoever may
        have a server now gets it.
        """
        self.bounds = bounds
        idle = list(self.pool.idle)
        self.pool.bind(None if bounds is None else Shares(lambda user: bounds.get(user, 0)))
        for server in reversed(idle):
            first = self.next_in_queue()
            if first is not None:
                self.expect_granted(first, server)

    def act_and_close_idle(self, act: Callable[[], None]) -> None:
        """Who is closed is nobody's, and longest idle."""
        idle = list(self.pool.idle)
        act()
        closed = [server for server in idle if server.state is ServerState.CLOSED]
        assert closed == idle[: len(closed)]
        for server in closed:
            self.servers.remove(server)

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
            if self.paused or len(self.servers) + len(self.slots) > self.size:
                self.pool.joined(slot, server)
                self.expect_closed(server)
            else:
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
        if how == "release" and (self.paused or len(self.servers) + len(self.slots) > self.size):
            self.pool.release(server)
            self.expect_closed(server)
            return
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

    def expect_closed(self, server: Server) -> None:
        assert server.state is ServerState.CLOSED
        self.servers.remove(server)

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
        assert self.pool.servers == len(self.servers) + len(self.slots) <= self.most
        self.most = max(self.size, self.pool.servers)
        assert not (self.paused and (self.pool.idle or self.pool.wants_server))
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
            held = sum(client.user == user for client in self.pool.leased.values())
            assert not bound or held <= max(bound, self.held_before.get(user, 0))
        self.held_before = Counter(client.user for client in self.pool.leased.values())


class BoundedPoolMachine(PoolMachine):
    """The same where users are bounded, each in another way."""

    bounds = MappingProxyType({"alice": 1, "bob": 2, "carol": 0})


TestPoolMachine = PoolMachine.TestCase
TestBoundedPoolMachine = BoundedPoolMachine.TestCase
