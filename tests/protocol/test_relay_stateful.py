"""Clients, servers and a pool at random.

Nobody can tell the pooler from a PostgreSQL of their own, and nobody gets what is another's.
"""

from __future__ import annotations

import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.pipelines import Request, pipelines, rendered, restrained
from tests.support.relay import GONE, Client, Relay
from tests.support.requests import Reply, copy_fail, query
from trio_pool.wire import messages

CLIENTS = 3
ALL = 1 << 20
Move = tuple[str, int, int]
_clients = st.integers(0, CLIENTS - 1)
_sizes = st.one_of(st.just(ALL), st.just(ALL), st.integers(1, 12), st.integers(1, 400))
_moves: st.SearchStrategy[list[Move]] = st.lists(
    st.tuples(
        st.sampled_from(["client", "login", "backend", "backend", "server", "server"]), _clients, _sizes
    ),
    min_size=1,
    max_size=8,
)


class Sender:
    """A client of the relay, and what it remembers of its own requests."""

    def __init__(self, relay: Relay, name: str, *, with_startup: bool) -> None:
        self.name = name
        startup = {"application_name": f"{name} at start"} if with_startup else {}
        self.client: Client = relay.connect(name, startup)
        self.number = 0
        self.changed: set[str] = set()
        self.knows_unnamed = True

    def payload(self) -> str:
        self.number += 1
        return f"{self.name}n{self.number}"

    @property
    def quiet(self) -> bool:
        """Whether everything that it has sent is answered."""
        client = self.client
        return not client.outgoing and len(client.received) == len(client.expected)

    def send(self, pipeline: list[Request]) -> None:
        if self.quiet:
            self.changed.clear()
            self.knows_unnamed = not any(reply.tag == "E" for reply in self.client.expected)
        else:
            self.knows_unnamed = False
        kept, self.changed = restrained(pipeline, self.changed, knows_unnamed=self.knows_unnamed)
        self.client.outgoing += b"".join(rendered(request, self.payload) for request in kept)


class RelayMachine(RuleBasedStateMachine):
    """See the module."""

    relay: Relay
    senders: list[Sender]

    @initialize(
        servers=st.integers(1, 2),
        max_statements=st.integers(1, 3),
        seed=st.one_of(st.none(), st.integers(0, 1000)),
        with_startup=st.booleans(),
        defers_begin=st.booleans(),
    )
    def begin(
        self, servers: int, max_statements: int, seed: int | None, with_startup: bool, defers_begin: bool
    ) -> None:
        noise = None if seed is None else random.Random(seed)
        self.relay = Relay(servers, max_statements, noise, defers_begin)
        self.names = 0
        self.with_startup = with_startup
        self.senders = [self._sender() for _ in range(CLIENTS)]

    def _sender(self) -> Sender:
        self.names += 1
        return Sender(self.relay, f"c{self.names}", with_startup=self.with_startup and self.names % 3 > 0)

    # -- what happens ----------------------------------------------------------------------------------------

    @rule(number=_clients, pipeline=pipelines(), moves=_moves)
    def client_sends(self, number: int, pipeline: list[Request], moves: list[Move]) -> None:
        self.senders[number].send(pipeline)
        self.bytes_move([("client", number, moves[0][2]), *moves[1:]])

    @rule(moves=_moves)
    def bytes_move(self, moves: list[Move]) -> None:
        """Some bytes arrive somewhere, in any order; if there is no server yet one may log in."""
        for where, number, size in moves:
            servers = self.relay.servers
            server = servers[number % len(servers)] if servers else None
            if where == "client":
                self.senders[number % CLIENTS].client.send(size)
            elif server is None or where == "login":
                self.relay.open_server()
            elif where == "backend":
                server.send(size)
            elif data := server.backend.deliver(size):
                server.on_readable(data)
            elif server.backend.closed:
                server.lose(GONE)

    @rule()
    def everything_arrives(self) -> None:
        self.relay.settle()

    @precondition(lambda self: self.relay.servers and self.relay.noise is not None)
    @rule(number=st.integers(0, 1))
    def server_makes_noise(self, number: int) -> None:
        self.relay.servers[number % len(self.relay.servers)].backend.make_noise()

    # -- what goes wrong -------------------------------------------------------------------------------------

    @rule(number=_clients)
    def client_vanishes(self, number: int) -> None:
        self.senders[number].client.finish()
        self.senders[number] = self._sender()

    @rule(number=_clients)
    def client_terminates(self, number: int) -> None:
        self.senders[number].client.on_readable(bytes(self.senders[number].client.outgoing))
        self.senders[number].client.on_readable(messages.TERMINATE)
        self.senders[number].client.comparable = False
        self.senders[number] = self._sender()

    @precondition(lambda self: self.relay.servers)
    @rule(number=st.integers(0, 1))
    def server_is_lost(self, number: int) -> None:
        self.relay.servers[number % len(self.relay.servers)].lose(GONE)

    @precondition(lambda self: self.relay.pool.waiting)
    @rule(number=_clients)
    def wait_is_refused(self, number: int) -> None:
        waiting = list(self.relay.pool.waiting)
        waiting[number % len(waiting)].refuse()

    # -- what must be true -----------------------------------------------------------------------------------

    @invariant()
    def nobody_notices(self) -> None:
        if hasattr(self, "relay"):
            self.relay.check()

    def teardown(self) -> None:
        """Every client gets every reply, is in step at the end, and leaves a server that is free."""
        if not hasattr(self, "relay"):
            return
        for sender in self.senders:
            ending = copy_fail("the end") + messages.SYNC + query("ROLLBACK")
            sender.client.outgoing += ending + query(f"SELECT '{sender.name}last'")
        self.relay.settle()
        self.relay.check()
        for sender in self.senders:
            client = sender.client
            if client.comparable:
                assert client.received == client.expected
            if client.connected:
                last = [
                    Reply("T", "1"),
                    Reply("D", f"{sender.name}last"),
                    Reply("C", "SELECT 1"),
                    Reply("Z", "I"),
                ]
                assert client.received[-4:] == last
        assert self.relay.pool.idle.keys() == set(self.relay.servers)


TestRelay = RelayMachine.TestCase
TestRelay.settings = settings(stateful_step_count=40)
