"""Client machines, server machines and a pool, driven as net/ drives them, without sockets or time.

Bytes wait in queues where the network would hold them, and move when the test says so. Every client has a
PostgreSQL of its own beside the pool's (`Client.direct`), which is fed the same bytes: the oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from tests.support import fakesql
from tests.support.fakepg import DEFAULTS, FakePostgres
from tests.support.requests import Reply, read_replies
from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.pooling.pool import Pool, PoolKey, ServerState
from trio_pool.protocol.backend import DOUBTFUL, TAKEN
from trio_pool.protocol.client import ClientSession, ClientState
from trio_pool.protocol.server import ServerSession
from trio_pool.protocol.settings import intern
from trio_pool.protocol.statements import Statement, StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LARGE, Assembler
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.support.fakesql import Command
    from trio_pool.protocol.backend import Preparable
    from trio_pool.protocol.inspection import Inspection

REPORTED = intern(DEFAULTS)
GONE = ServerFault("the server is gone", SqlState.CONNECTION_FAILURE, reason=Reason.SERVER_CLOSED)


@attrs.define(eq=False)
class Slot:
    """The place of a server that is being opened."""

    state: ServerState = ServerState.CLOSED


@attrs.define(eq=False)
class Server:
    """net.server.Server without I/O; `backend` is the PostgreSQL at its other end, `outgoing` what is on the
    way there.
    """

    relay: Relay
    backend: FakePostgres
    session: ServerSession
    state: ServerState
    client: Client | None = None
    outgoing: bytearray = attrs.field(factory=bytearray)

    def write(self, data: bytes) -> None:
        self.outgoing += data

    def send(self, most: int) -> None:
        """Bytes reach the backend."""
        piece = bytes(self.outgoing[:most])
        del self.outgoing[: len(piece)]
        self.backend.receive(piece)

    def on_readable(self, data: bytes) -> None:
        try:
            out = self.session.receive(data)
        except ServerFault as fault:
            self.relay.faults.append(fault)
            self.lose(fault)
            return
        client = self.client
        if client is None:
            self._without_client()
            return
        client.write(out)
        if self.session.failure is not None:
            self.lose(GONE)
        elif self.session.refused is not None:
            self._settings_refused(client)
        elif self.session.free:
            self.offer()
        elif client.ending and not self.session.groups:
            client.finish()

    def _settings_refused(self, client: Client) -> None:
        self.client = None
        client.refused()
        self.session.desert()
        self.session.receive(b"")
        self.orphaned(mid_message=False)

    def offer(self) -> None:
        client = self.client
        assert client is not None
        if client.ending:
            client.finish()
        elif self.session.must_ask:
            self.write(self.session.inspect(client.session.names_asked(), self._found(client)))
        elif self.session.pins:
            return
        elif client.returns():
            self.client = None
            self._recycle()
            client.after_lease()

    def _found(self, client: Client) -> Callable[[Inspection], None]:
        return lambda inspection: client.session.found(inspection, self.session)

    def orphaned(self, *, mid_message: bool) -> None:
        self.client = None
        if mid_message or self.session.failure is not None:
            self.lose(GONE)
            return
        self.relay.pool.cleaning(self)
        self._clean()

    def lose(self, fault: ServerFault) -> None:
        if self.state is ServerState.CLOSED:
            return
        client, self.client = self.client, None
        self.relay.pool.left(self)
        self.relay.servers.remove(self)
        if client is not None:
            client.server_lost(self, fault)

    def _without_client(self) -> None:
        if self.session.failure is not None:
            self.lose(GONE)
        elif self.state is ServerState.CLEANING:
            self._clean()

    def _clean(self) -> None:
        step = self.session.clean()
        if step is None:
            self._recycle()
        elif step:
            self.write(step)

    def _recycle(self) -> None:
        if self.session.keeps:
            self.lose(GONE)
        elif self.session.dirty:
            if self.state is not ServerState.CLEANING:
                self.relay.pool.cleaning(self)
            self._clean()
        else:
            self.relay.pool.release(self)


@attrs.define(eq=False)
class Client:
    """net.client.Client without I/O; `outgoing` is what it has sent and the pooler has not seen."""

    relay: Relay
    name: str
    session: ClientSession
    user: str = attrs.field(default="", init=False)
    direct: FakePostgres = attrs.field(factory=FakePostgres)
    server: Server | None = None
    outgoing: bytearray = attrs.field(factory=bytearray)
    connected: bool = True
    comparable: bool = True
    """Whether nothing has happened to it that would not have happened to a direct connection."""
    received: list[Reply] = attrs.field(factory=list)
    expected: list[Reply] = attrs.field(factory=list)
    _incoming: Assembler = attrs.field(factory=lambda: Assembler(MAX_LARGE))

    def send(self, most: int) -> None:
        """Bytes reach the pooler, and the PostgreSQL that the client would have had to itself."""
        piece = bytes(self.outgoing[:most])
        del self.outgoing[: len(piece)]
        if not self.connected:
            return
        self.direct.receive(piece)
        self.expected += read_replies(self.direct.deliver())
        self.on_readable(piece)

    def write(self, data: bytes) -> None:
        self._incoming.feed(data)
        while (message := self._incoming.message()) is not None:
            self.received += read_replies(messages.message(*message))

    def on_readable(self, data: bytes) -> None:
        if not self.connected:
            return
        session = self.session
        out = session.receive(data)
        server = self.server
        if server is not None:
            if out:
                server.write(out)
                if server.session.groups and not session.replies and session.state is ClientState.LINKED:
                    return
        elif session.state is ClientState.WAITING and not session.replies:
            self._want_server()
            return
        self._after_input()

    def _after_input(self) -> None:
        session = self.session
        replies, session.replies = session.replies, b""
        self.write(replies)
        server = self.server
        if session.fault is not None:
            self.finish()
        elif session.state is ClientState.WAITING:
            self._want_server()
        elif session.state is ClientState.ENDING:
            if server is None or not server.session.groups:
                self.finish()
        elif server is not None and not server.session.groups and server.session.free:
            server.offer()

    def _want_server(self) -> None:
        if self in self.relay.pool.waiting:
            return
        server = self.relay.pool.acquire(self)
        if server is not None:
            self.granted(server)

    def granted(self, server: Any) -> None:
        self.server = server
        server.client = self
        out = self.session.link(server.session)
        server.write(out)
        session = self.session
        if session.replies or session.fault is not None or session.state is ClientState.ENDING:
            self._after_input()

    def returns(self) -> bool:
        if self.session.body_left:
            return False
        if self.ending:
            self.finish()
            return False
        self.server = None
        self.session.unlink()
        return True

    def after_lease(self) -> None:
        session = self.session
        if session.state is not ClientState.IDLE or session.replies or session.fault is not None:
            self._after_input()

    def refuse(self) -> None:
        """lease_wait is over, or a cancel request has come."""
        self.relay.pool.forget(self)
        self.comparable = False
        self.session.refuse(messages.error(SqlState.TOO_MANY_CONNECTIONS, "no lease"))
        self._after_input()

    def refused(self) -> None:
        """A deferred BEGIN has failed."""
        self.server = None
        self.comparable = False
        self.session.lose(messages.error(SqlState.QUERY_CANCELED, "refused"))
        self._after_input()

    def server_lost(self, server: Server, fault: ServerFault) -> None:
        self.server = None
        self.comparable = False
        if self.ending or (server.session.body_left and not server.session.drop_body):
            self.finish()
        else:
            self.session.lose(messages.error(SqlState.CONNECTION_FAILURE, fault.message))
            self._after_input()

    def compare(self) -> None:
        """It has got what a direct connection would have given so far.

        But in a failed transaction nothing can be prepared again, so a request may be refused there that
        would have been harmless, or wrong for another reason. From then on there is nothing to compare.
        """
        if self.received == self.expected[: len(self.received)]:
            return
        pairs = enumerate(zip(self.received, self.expected, strict=False))
        different = next((n for n, (got, wanted) in pairs if got != wanted), len(self.expected))
        states = [reply for reply in self.received[:different] if reply.tag == "Z"]
        assert (self.received[different], states[-1:]) == (_ABORTED, [Reply("Z", "E")]), (
            f"{self.name} got {self.received[different:]}, not {self.expected[different:]}"
        )
        self.comparable = False

    @property
    def ending(self) -> bool:
        return self.session.state is ClientState.ENDING

    def finish(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self.relay.pool.forget(self)
        server, self.server = self.server, None
        if server is not None:
            server.orphaned(mid_message=self.session.body_left > 0)


@attrs.define(eq=False)
class Relay:
    """One pool of `size` servers and whoever uses it."""

    size: int = 2
    max_statements: int = 2
    noise: Any = None
    defers_begin: bool = False
    pool: Pool[Server, Client] = attrs.field(init=False)
    servers: list[Server] = attrs.field(factory=list)
    clients: list[Client] = attrs.field(factory=list)
    registry: StatementRegistry = attrs.field(factory=lambda: StatementRegistry(b"_pool_"))
    faults: list[ServerFault] = attrs.field(factory=list)
    """Violations of the protocol that server machines believe to have seen."""

    def __attrs_post_init__(self) -> None:
        self.pool = Pool(PoolKey("app", "app"), self.size, 0, 0, lambda: None)

    def connect(self, name: str, startup: Mapping[str, str] | None = None) -> Client:
        """A client logs in, with settings in its StartupMessage."""
        wanted = intern(startup or {})
        session = ClientSession(
            self.registry,
            wanted,
            REPORTED.but(wanted),
            max_statements=100,
            defers_begin=self.defers_begin,
        )
        client = Client(self, name, session, FakePostgres(defaults={**DEFAULTS, **(startup or {})}))
        self.clients.append(client)
        return client

    def open_server(self) -> None:
        """A server logs in, if the pool wants one."""
        if not self.pool.wants_server:
            return
        slot = Slot()
        self.pool.connecting(slot)
        session = ServerSession(
            REPORTED,
            max_statements=self.max_statements,
            on_plans_changed=self.registry.renew,
        )
        server = Server(self, FakePostgres(self.noise), session, slot.state)
        self.servers.append(server)
        self.pool.joined(slot, server)

    def settle(self) -> None:
        """Let everything that is on its way arrive, until nothing moves."""
        moved, rounds = True, 0
        while moved:
            rounds += 1
            assert rounds < 1000, "it never settles"
            moved = self.pool.wants_server
            self.open_server()
            for client in self.clients:
                if client.connected and client.outgoing:
                    moved = True
                    client.send(len(client.outgoing))
            for server in list(self.servers):
                if server.outgoing:
                    moved = True
                    server.send(len(server.outgoing))
                if server.state is not ServerState.CLOSED and server.backend.output:
                    moved = True
                    server.on_readable(server.backend.deliver())
                if server.state is not ServerState.CLOSED and server.backend.closed:
                    moved = True
                    server.lose(GONE)

    def check(self) -> None:
        """What must be true at any time."""
        self.pool.check()
        assert self.faults == []
        assert all(server.client is client for server, client in self.pool.leased.items())
        for client in self.clients:
            assert client.server is None or client.server.client is client
            assert client.connected or (client.server is None and client not in self.pool.waiting)
            if client.comparable:
                client.compare()
            for reply in client.received:
                assert reply.content.lstrip("dn")[:1] != "c" or client.name in reply.content
        for server in self.pool.idle:
            self._check_idle(server)

    def _check_idle(self, server: Server) -> None:
        """Free by the machine's account must be free by PostgreSQL's."""
        session, backend = server.session, server.backend
        assert not session.waiting
        assert session.status == Status.IDLE
        assert not session.dirty
        assert not session.must_ask
        assert _tags(backend.unread + server.outgoing) <= set("Hdcf"), "nothing that is answered"
        assert backend.at_rest
        assert read_replies(session.rest + bytes(backend.output)) == []
        ours = {statement.name.decode() for statement in session.statements.present}
        laid = {name.decode() for name in session.laid}
        assert ours <= backend.statements.keys() <= ours | {""} | laid
        assert not session.statements.unconfirmed
        assert not session.unsure
        for name, statement in session.laid.items():
            if statement not in (TAKEN, DOUBTFUL):
                assert backend.statements[name.decode()].command == _command(statement)
        assert backend.settings == DEFAULTS | dict(session.settings.items())


def _command(statement: Preparable) -> Command:
    """What PostgreSQL has to have under a name."""
    if isinstance(statement, Statement):
        return fakesql.read(statement.rest.partition(b"\0")[0].decode())
    return fakesql.read(fakesql.read(statement.text.decode().partition(";")[0]).value)


_ABORTED = Reply("E", "25P02")


def _tags(data: bytes) -> set[str]:
    assembler = Assembler(MAX_LARGE)
    assembler.feed(data)
    return {chr(message[0]) for message in iter(assembler.message, None)}
