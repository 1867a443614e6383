"""Processes that share the size of their pools: the broker, and each one's permits."""

from __future__ import annotations

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.pooling.parts import KEY, AnyPool, Client, Server
from trio_pool.pooling.broker import Broker
from trio_pool.pooling.permits import OWED_FOR, Permits
from trio_pool.pooling.pool import Pool, PoolKey, ServerState

PARTIES = 3


@attrs.define(eq=False)
class Party:
    """One process with one pool. What the broker is told is what a desk tells it."""

    office: Office
    number: int
    alive: bool = True
    permits: Permits = attrs.field(init=False)
    pool: AnyPool = attrs.field(init=False)
    holders: dict[Server, int] = attrs.field(factory=dict)
    """Permits of servers."""
    clients: list[Client] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.permits = Permits(key=KEY, desk=self, clock=lambda: self.office.now)
        self.pool = Pool(KEY, 10, 0, 0, lambda: None, None, self.permits, evict=self._evict)

    # -- its desk

    def ask(self, key: PoolKey, *, pressing: bool) -> None:
        self.office.later(lambda: self.office.broker.ask(self.number, key, pressing=pressing))

    def withdraw(self, key: PoolKey) -> None:
        self.office.later(lambda: self.office.broker.withdraw(self.number, key))

    def give_back(self, permit: int) -> None:
        self.office.later(lambda: self.office.broker.returned(permit))

    # -- what happens in it

    def _evict(self, server: Server) -> None:
        self.pool.left(server)
        self.office.closing.append(self.holders.pop(server))

    def client(self) -> Client:
        client = Client()
        self.clients.append(client)
        server = self.pool.acquire(client)
        if server is not None:
            client.granted(server)
        return client

    def opens(self) -> None:
        """All that it may."""
        while self.pool.wants_server:
            server = Server()
            self.pool.connecting(server)
            self.holders[server] = self.permits.latest
            self.pool.joined(server, server)

    def fails_to_open(self) -> None:
        slot = Server()
        self.pool.connecting(slot)
        permit = self.permits.latest
        self.pool.left(slot)
        self.office.closing.append(permit)

    def finishes(self) -> None:
        """A client with a server is done."""
        for server, client in list(self.pool.leased.items())[:1]:
            self.clients.remove(client)
            client.server = None
            self.pool.release(server)


@attrs.define(eq=False)
class Office:
    """The broker, the way to it and back, and what PostgreSQL has not closed yet."""

    size: int
    now: float = 0.0
    broker: Broker = attrs.field(init=False)
    parties: dict[int, Party] = attrs.field(factory=dict)
    messages: list[object] = attrs.field(factory=list)
    closing: list[int] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.broker = Broker(lambda key: (self.size, 0), self)

    def later(self, message: object) -> None:
        self.messages.append(message)

    def granted(self, party: int, key: PoolKey, permit: int) -> None:
        def arrives() -> None:
            if self.parties[party].alive:
                self.parties[party].permits.granted(permit)

        self.later(arrives)

    def recall(self, party: int, key: PoolKey, *, due: bool, sake: tuple[int, PoolKey]) -> None:
        def arrives() -> None:
            there = self.parties[party]
            if (not there.alive or not there.permits.recall(due=due)) and not due:
                self.later(lambda: self.broker.kept(sake))

        self.later(arrives)

    def surrender(self, party: int, key: PoolKey, count: int) -> None:
        def arrives() -> None:
            if self.parties[party].alive:
                self.parties[party].permits.surrender(count)

        self.later(arrives)

    def deliver(self, most: int = 10_000) -> None:
        """The oldest messages arrive."""
        for _ in range(min(most, 10_000)):
            if not self.messages:
                return
            message = self.messages.pop(0)
            assert callable(message)
            message()

    def close(self) -> None:
        """PostgreSQL has closed what was closed."""
        while self.closing:
            permit = self.closing.pop()
            self.later(lambda permit=permit: self.broker.returned(permit))

    def start(self, number: int) -> Party:
        party = self.parties[number] = Party(self, number)
        return party

    def kill(self, number: int) -> None:
        """What it has said comes before its end."""
        self.deliver()
        party = self.parties[number]
        party.alive = False
        self.closing += [permit for permit in self.broker.gone(number) if permit not in self.closing]

    def settle(self, seconds: float = 2.0) -> None:
        """Time passes, and everybody does what there is to do."""
        for _ in range(round(seconds / 0.05)):
            self.now += 0.05
            for party in self.parties.values():
                if party.alive:
                    party.permits.look_again()
            self.deliver()
            self.close()
            self.deliver()
            for party in self.parties.values():
                if party.alive:
                    party.opens()

    @property
    def servers(self) -> int:
        """At PostgreSQL."""
        living = sum(party.pool.servers for party in self.parties.values() if party.alive)
        return living + len(self.closing)


def office(size: int, parties: int = 2) -> tuple[Office, list[Party]]:
    made = Office(size)
    return made, [made.start(number) for number in range(1, parties + 1)]


def test_whoever_asks_gets_what_there_is() -> None:
    """One process may have all, while no other wants any."""
    made, (first, second) = office(4)
    for _ in range(6):
        first.client()
    made.settle(0.5)
    assert (first.pool.servers, second.pool.servers) == (4, 0)


def test_an_idle_server_goes_to_where_it_is_needed() -> None:
    """Its permit comes when PostgreSQL has closed it, and not before."""
    made, (first, second) = office(2)
    for _ in range(2):
        first.client()
    made.settle(0.5)
    first.finishes()
    assert len(first.pool.idle) == 1
    waiting = second.client()
    made.deliver()
    made.now += 0.05
    second.permits.look_again()
    made.deliver()
    assert (first.pool.servers, len(made.closing), second.pool.wants_server) == (1, 1, False)
    made.settle(0.2)
    assert waiting.server is not None


def test_busy_processes_come_to_have_as_many_as_each_other() -> None:
    """A server that is given back goes to the poorer one."""
    made, (first, second) = office(6)
    for _ in range(40):
        first.client()
    made.settle(0.5)
    for _ in range(40):
        second.client()
    for _ in range(30):
        for party in (first, second):
            party.finishes()
        made.settle(0.1)
        if first.pool.servers == second.pool.servers == 3:
            break
    assert (first.pool.servers, second.pool.servers) == (3, 3)


def test_nobody_waits_for_ever() -> None:
    """With more processes than servers, each is served in its turn."""
    made, parties = office(1, 3)
    first = [party.client() for party in parties]
    for _ in range(30):
        for party in parties:
            party.client()
            party.finishes()
        made.settle(OWED_FOR)
    assert not any(client in party.clients for client, party in zip(first, parties, strict=True))


def test_what_a_dead_process_had_is_free_when_it_is_gone() -> None:
    """And not before."""
    made, (first, second) = office(2)
    first.client()
    first.client()
    made.settle(0.5)
    made.kill(1)
    waiting = second.client()
    made.deliver()
    assert (made.servers, second.pool.wants_server) == (2, False)
    made.settle(0.2)
    assert waiting.server is not None


class Sharing(RuleBasedStateMachine):
    """Whatever happens, in whatever order messages are delivered late: never more servers than the size that
    there was, and in the end everybody who can have one has one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.office = Office(3)
        for number in range(1, PARTIES + 1):
            self.office.start(number)
        self.number = PARTIES
        self.most = 3

    def _living(self) -> list[Party]:
        return [party for party in self.office.parties.values() if party.alive]

    @rule(which=st.integers(0, PARTIES - 1))
    def comes(self, which: int) -> None:
        self._living()[which].client()

    @rule(which=st.integers(0, PARTIES - 1))
    def finishes(self, which: int) -> None:
        self._living()[which].finishes()

    @rule(which=st.integers(0, PARTIES - 1))
    def opens(self, which: int) -> None:
        self._living()[which].opens()

    @rule(which=st.integers(0, PARTIES - 1))
    def cannot_open(self, which: int) -> None:
        if self._living()[which].pool.wants_server:
            self._living()[which].fails_to_open()

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        self.office.deliver(count)

    @rule()
    def close(self) -> None:
        self.office.close()

    @rule(which=st.integers(0, PARTIES - 1))
    def time_passes(self, which: int) -> None:
        self.office.now += 0.1
        self._living()[which].permits.look_again()

    @rule(which=st.integers(0, PARTIES - 1))
    def dies(self, which: int) -> None:
        dead = self._living()[which]
        self.office.kill(dead.number)
        self.number += 1
        self.office.start(self.number)

    @rule(size=st.integers(1, 4))
    def is_resized(self, size: int) -> None:
        self.office.size = size
        self.most = max(self.most, size)
        self.office.broker.review()

    @precondition(lambda self: not self.office.messages)
    @rule()
    def nobody_is_forgotten(self) -> None:
        """Who waits is served, if those who have a server go on."""
        waiting = [(party, client) for party in self._living() for client in party.clients]
        for _ in range(200):
            if not any(client in party.clients for party, client in waiting):
                break
            for party in self._living():
                party.finishes()
            self.office.settle(0.2)
        else:
            raise AssertionError("somebody waits for ever")

    @invariant()
    def are_not_too_many(self) -> None:
        assert self.office.servers <= self.most
        for party in self._living():
            party.pool.check()
            assert all(server.state is not ServerState.CLOSED for server in party.holders)


TestSharing = Sharing.TestCase
