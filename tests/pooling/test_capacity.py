"""The pools of one database, each of another user: how they share the servers that it allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.pooling.parts import AnyPool, Client, Server, join, pool
from trio_pool.pooling.capacity import PATIENCE, Capacity
from trio_pool.pooling.pool import ServerState

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.define(eq=False)
class Tenant:
    """A user with its pool and clients, and how often the pool has asked to grow."""

    capacity: Capacity
    size: int = 5
    grown: int = 0
    pool: AnyPool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.pool = pool(self.size, capacity=self.capacity, grow=self._grow)

    def _grow(self) -> None:
        self.grown += 1

    def client(self) -> Client:
        """One who has a server, or waits."""
        client = Client()
        server = self.pool.acquire(client)
        if server is not None:
            client.granted(server)
        return client

    def opens(self) -> Server:
        """What it wants to open logs in."""
        assert self.pool.wants_server
        return join(self.pool)

    def settle(self) -> None:
        """It opens whatever it may."""
        while self.pool.wants_server:
            self.opens()


def tenants(most: int, count: int = 2, size: int = 5) -> tuple[Tenant, ...]:
    capacity = Capacity(most)
    return tuple(Tenant(capacity, size) for _ in range(count))


def test_the_pools_together_have_no_more_servers_than_allowed() -> None:
    """Although each by itself could have more."""
    first, second = tenants(most=3)
    for tenant in (first, second, first, second, first):
        tenant.client()
        tenant.settle()
    assert (first.pool.servers, second.pool.servers) == (2, 1)
    first.pool.check()


def test_an_idle_server_gives_way_to_a_client_that_waits() -> None:
    """The one that has been idle longest, of the pool that has the most."""
    first, second, third = tenants(most=4, count=3)
    busy = [first.opens() for _ in range(3) if first.client()]
    other = second.client()
    second.settle()
    assert other.server is not None
    second.pool.release(other.server)
    for server in busy:
        first.pool.release(server)
    waiting = third.client()
    assert (busy[0].state, third.pool.wants_server) == (ServerState.CLOSED, True)
    third.settle()
    assert waiting.server is not None
    assert [tenant.pool.servers for tenant in (first, second, third)] == [2, 1, 1]
    first.pool.check()


def test_a_server_that_would_be_idle_gives_way_when_it_comes_back() -> None:
    """Who waits in another pool does not wait for it to grow old."""
    first, second = tenants(most=1)
    holder = first.client()
    first.settle()
    waiting = second.client()
    assert (second.pool.wants_server, second.grown) == (False, 0)
    assert holder.server is not None
    first.pool.release(holder.server)
    assert (first.pool.servers, second.grown) == (0, 1)
    second.settle()
    assert waiting.server is not None
    second.pool.check()


def test_a_busy_pool_gives_up_what_it_has_more_than_another() -> None:
    """Two pools whose clients all wait come to have as many servers as each other, and keep them."""
    first, second = tenants(most=4, size=4)
    for _ in range(20):
        first.client()
        first.settle()
    for _ in range(20):
        second.client()
    closed = 0
    for _ in range(8):
        for tenant in (first, second):
            for server in list(tenant.pool.leased)[:1]:
                tenant.pool.release(server)
                closed += server.state is ServerState.CLOSED
            second.settle()
            first.settle()
    assert (first.pool.servers, second.pool.servers, closed) == (2, 2, 2)
    first.pool.check()


def test_a_pool_without_a_server_is_not_passed_over_for_ever() -> None:
    """More busy pools than servers take turns, long ones, since each turn costs a login."""
    first, second = tenants(most=1)
    for _ in range(3 * PATIENCE):
        first.client()
    first.settle()
    waiting = second.client()
    leases = 0
    while waiting.server is None:
        (server,) = first.pool.leased
        first.pool.release(server)
        leases += 1
        first.settle()
        second.settle()
    assert leases == PATIENCE
    first.pool.check()


def test_a_failing_login_keeps_nobody_else_out() -> None:
    """While a pool backs off, its place is free for others, and no idle server goes for its sake."""
    first, second = tenants(most=2)
    first.client()
    slot = Server()
    first.pool.connecting(slot)
    first.pool.left(slot)
    assert first.pool.failing
    holders = [second.client() for _ in range(2)]
    second.settle()
    assert [holder.server is not None for holder in holders] == [True, True]
    for holder in holders:
        assert holder.server is not None
        second.pool.release(holder.server)
    assert (second.pool.servers, first.pool.wants_server) == (2, False)
    second.pool.check()


def test_who_gave_up_waiting_claims_nothing() -> None:
    """A server that comes back stays."""
    first, second = tenants(most=1)
    holder = first.client()
    first.settle()
    gone = second.client()
    second.pool.forget(gone)
    assert holder.server is not None
    first.pool.release(holder.server)
    assert list(first.pool.idle) == [holder.server]
    assert not first.capacity.pressing


def test_a_login_that_needs_a_first_server_presses_like_a_client() -> None:
    """Clients of a new pool can be greeted although others have used up the servers, and not by one more."""
    first, second = tenants(most=1)
    holder = first.client()
    first.settle()
    second.pool.greeting += 1
    second.pool.reconsider()
    assert not second.pool.wants_server
    assert holder.server is not None
    first.pool.release(holder.server)
    assert second.pool.wants_server
    second.settle()
    second.pool.greeting -= 1
    second.pool.reconsider()
    assert (first.pool.servers, second.pool.servers) == (0, 1)
    second.pool.check()


class CapacityMachine(RuleBasedStateMachine):
    """Random use of three pools that share four servers: none is lost, none is one too many, and nobody waits
    while a server is idle that could give way.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tenants = tenants(most=4, count=3, size=3)
        self.slots: list[tuple[Tenant, Server]] = []
        self.capacity = self.tenants[0].capacity
        self.servers = 0
        """Of those that share, a step ago: what is too much is only given back, never opened."""

    @property
    def sharing(self) -> list[Tenant]:
        return [tenant for tenant in self.tenants if tenant.pool.capacity is not None]

    @rule(most=st.integers(1, 6))
    def resize(self, most: int) -> None:
        self.capacity.resize(most)

    @rule(index=st.integers(0, 2), shares=st.booleans())
    def join_or_leave(self, index: int, shares: bool) -> None:
        pool = self.tenants[index].pool
        joins = shares and pool.capacity is None
        self.servers += pool.servers if joins else 0
        pool.join_capacity(self.capacity if shares else None)

    @rule(index=st.integers(0, 2), pauses=st.booleans())
    def pause_or_go_on(self, index: int, pauses: bool) -> None:
        pool = self.tenants[index].pool
        if pauses:
            pool.pause()
        elif pool.paused:
            pool.go_on()

    @rule(index=st.integers(0, 2), size=st.integers(1, 4))
    def resize_pool(self, index: int, size: int) -> None:
        self.tenants[index].pool.resize(size, 0, 0)

    tenant = st.integers(0, 2)

    @rule(index=tenant)
    def acquire(self, index: int) -> None:
        self.tenants[index].client()

    @rule(index=tenant, data=st.data())
    def give_up(self, index: int, data: st.DataObject) -> None:
        subject = self.tenants[index].pool
        if subject.waiting:
            subject.forget(data.draw(st.sampled_from(list(subject.waiting))))

    @rule(index=tenant)
    def connect(self, index: int) -> None:
        tenant = self.tenants[index]
        if tenant.pool.wants_server:
            slot = Server()
            tenant.pool.connecting(slot)
            self.slots.append((tenant, slot))

    @precondition(lambda self: self.slots)
    @rule(data=st.data(), works=st.booleans())
    def finish_connecting(self, data: st.DataObject, works: bool) -> None:
        tenant, slot = data.draw(st.sampled_from(self.slots))
        self.slots.remove((tenant, slot))
        if works:
            tenant.pool.joined(slot, Server())
        else:
            tenant.pool.left(slot)

    @rule(index=tenant, by=st.sampled_from([1, -1]))
    def greet(self, index: int, by: int) -> None:
        subject = self.tenants[index].pool
        subject.greeting = max(0, subject.greeting + by)
        subject.reconsider()

    @rule(index=tenant, how=st.sampled_from(["release", "cleaning", "cancelling", "left"]), data=st.data())
    def end_lease(self, index: int, how: str, data: st.DataObject) -> None:
        subject = self.tenants[index].pool
        others = [
            s for state in (ServerState.CLEANING, ServerState.CANCELLING) for s in subject.others[state]
        ]
        servers = [*subject.leased, *others]
        if servers:
            act: Callable[[object], None] = getattr(subject, how)
            act(data.draw(st.sampled_from(servers)))

    @invariant()
    def is_consistent(self) -> None:
        for tenant in self.tenants:
            tenant.pool.check()
        servers = sum(tenant.pool.servers for tenant in self.sharing)
        assert servers <= max(self.capacity.most, self.servers)
        self.servers = servers

    @invariant()
    def somebody_who_needs_a_free_place_has_been_asked(self) -> None:
        wanting = [tenant for tenant in self.tenants if tenant.pool.wants_server]
        assert all(tenant.grown for tenant in wanting)
        needy = [tenant for tenant in self.sharing if tenant.pool.lacks_server]
        if needy and sum(tenant.pool.servers for tenant in self.sharing) < self.capacity.most:
            assert wanting


TestCapacityMachine = CapacityMachine.TestCase
