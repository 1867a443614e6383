"""One pool: the server connections of one database and user, who leases them, and who waits.

Everything here is synchronous and decides only: it opens and closes nothing. In a Trio program that makes
every operation atomic, so a server cannot be lost between "taken from the idle ones" and "given to a client":
whoever has it is in one of the collections below, at every moment at which anybody else can look.

A server's state is the collection that it is in, and `_move` is the one place where that changes. The console
prints the sizes of these collections.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class ServerState(enum.Enum):
    """Where a server connection stands in its pool."""

    CONNECTING = "connecting"
    """Being opened and logged in; owned by its own task, promised to nobody."""
    IDLE = "idle"
    """Clean, and anybody's."""
    LEASED = "leased"
    """A client's."""
    CLEANING = "cleaning"
    """Being brought back to a clean state after a client left something behind."""
    CANCELLING = "cancelling"
    """Clean, but a cancel request for its last query is still under way and might hit the next one."""
    CLOSED = "closed"
    """Not the pool's any more."""


class PooledServer(Protocol):
    """What a pool needs of a server connection: a place for its state."""

    state: ServerState


class Waiter(Protocol):
    """What a pool needs of a client: to be told, synchronously, that it now has a server."""

    def granted(self, server: Any, /) -> None: ...


class PoolFull(Exception):
    """`max_waiting` clients are waiting already."""


@attrs.frozen
class PoolKey:
    """A pool serves one database as one user."""

    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.database}/{self.user}"


@attrs.frozen
class PoolStatistics:
    """A snapshot. The collections are counts of servers (or clients, for `waiting`), of which `pinned` are
    among the `leased`; `leases`, `waits` and `pins` (by reason) count since the start.
    """

    connecting: int
    idle: int
    leased: int
    cleaning: int
    cancelling: int
    waiting: int
    pinned: int
    leases: int
    waits: int
    pins: Mapping[str, int]


S = TypeVar("S", bound=PooledServer)
W = TypeVar("W", bound=Waiter)


@attrs.define(eq=False)
class Pool(Generic[S, W]):
    """Servers in named collections, clients in a queue.

    `size` is the most servers there may be, opening ones included; `min_size` how many are kept.
    `max_waiting` bounds the queue (0: no bound). `grow` is called when one more server would help; whoever
    opens it calls `connecting` first and `joined` or `left` afterwards.
    """

    key: PoolKey
    size: int
    min_size: int
    max_waiting: int
    grow: Callable[[], None]
    idle: dict[S, None] = attrs.field(factory=dict)
    leased: dict[S, W] = attrs.field(factory=dict)
    others: dict[ServerState, dict[PooledServer, None]] = attrs.field(
        factory=lambda: {
            s: {} for s in (ServerState.CONNECTING, ServerState.CLEANING, ServerState.CANCELLING)
        }
    )
    waiting: OrderedDict[W, None] = attrs.field(factory=OrderedDict)
    pinned: dict[S, dict[str, float]] = attrs.field(factory=dict)
    """Leases that outlast their transaction: why, and since when (the caller's clock)."""
    leases: int = 0
    waits: int = 0
    pins: Counter[str] = attrs.field(factory=Counter)

    # -- clients ---------------------------------------------------------------------------------------------

    def acquire(self, client: W) -> S | None:
        """A server for the client, which leases it from now on; or None, and the client is in the queue.

        Raises `PoolFull`. The most recently used server is taken, so that those in excess grow old and are
        closed. Hot path.
        """
        if self.idle:
            server = self.idle.popitem()[0]
            self.leased[server] = client
            server.state = ServerState.LEASED
            self.leases += 1
            return server
        if self.max_waiting and len(self.waiting) >= self.max_waiting:
            raise PoolFull
        self.waiting[client] = None
        self.waits += 1
        if self.wants_server:
            self.grow()
        return None

    def release(self, server: S) -> None:
        """A server is clean and nobody's: the first client in the queue has it, else it is idle. Hot path."""
        if self.waiting:
            client = self.waiting.popitem(last=False)[0]
            if server.state is not ServerState.LEASED:
                self._move(server, ServerState.LEASED)
            self.leased[server] = client
            self.leases += 1
            client.granted(server)
        elif server.state is ServerState.LEASED:
            del self.leased[server]
            self.idle[server] = None
            server.state = ServerState.IDLE
        else:
            self._move(server, ServerState.IDLE)

    def pin(self, server: S, reasons: Iterable[str], now: float) -> tuple[set[str], set[str]]:
        """The lease goes on, for these reasons and no others. Returns those that are new and those that are
        gone.
        """
        before = self.pinned.pop(server, {})
        pins = {reason: before.get(reason, now) for reason in reasons}
        if pins:
            self.pinned[server] = pins
        new = pins.keys() - before.keys()
        self.pins.update(new)
        return new, before.keys() - pins.keys()

    def forget(self, client: W) -> None:
        """The client waits no more; it may have stopped already."""
        self.waiting.pop(client, None)

    # -- servers ---------------------------------------------------------------------------------------------

    @property
    def servers(self) -> int:
        """All of them, opening ones included: never more than `size`."""
        return len(self.idle) + len(self.leased) + sum(map(len, self.others.values()))

    @property
    def wants_server(self) -> bool:
        """Whether one more should be opened now.

        One at a time: a burst of clients must not become a burst of logins.
        """
        if self.others[ServerState.CONNECTING] or self.servers >= self.size:
            return False
        return bool(self.waiting) or self.servers < self.min_size

    def connecting(self, slot: PooledServer) -> None:
        """A server is being opened; until it has logged in something else keeps its place."""
        assert self.servers < self.size
        slot.state = ServerState.CONNECTING
        self.others[ServerState.CONNECTING][slot] = None

    def joined(self, slot: PooledServer, server: S) -> None:
        """The server for which `slot` was kept has logged in."""
        connecting = self.others[ServerState.CONNECTING]
        del connecting[slot]
        slot.state = ServerState.CLOSED
        connecting[server] = None
        server.state = ServerState.CONNECTING
        self.release(server)
        if self.wants_server:
            self.grow()

    def cleaning(self, server: S) -> None:
        """A server is not clean: nobody may have it until `release`."""
        self._move(server, ServerState.CLEANING)

    def cancelling(self, server: S) -> None:
        """A server is clean, but must not be used until its cancel request is done."""
        self._move(server, ServerState.CANCELLING)

    def left(self, server: S | PooledServer) -> None:
        """A server is gone, or never came; harmless to say twice."""
        if server.state is not ServerState.CLOSED:
            self._move(server, ServerState.CLOSED)
            if self.wants_server:
                self.grow()

    def _move(self, server: S | PooledServer, state: ServerState) -> None:
        """The one place where a server changes its collection (`acquire` and `release` write its common cases
        out).
        """
        if server.state is ServerState.IDLE:
            del self.idle[server]  # type: ignore[arg-type]
        elif server.state is ServerState.LEASED:
            del self.leased[server]  # type: ignore[arg-type]
        else:
            del self.others[server.state][server]
        if state is ServerState.IDLE:
            self.idle[server] = None  # type: ignore[index]
        elif state in self.others:
            self.others[state][server] = None
        server.state = state  # LEASED: the caller adds the client

    # -- what can be seen ------------------------------------------------------------------------------------

    def statistics(self) -> PoolStatistics:
        """A snapshot for the console, the logs and the tests."""
        return PoolStatistics(
            connecting=len(self.others[ServerState.CONNECTING]),
            idle=len(self.idle),
            leased=len(self.leased),
            cleaning=len(self.others[ServerState.CLEANING]),
            cancelling=len(self.others[ServerState.CANCELLING]),
            waiting=len(self.waiting),
            pinned=len(self.pinned),
            leases=self.leases,
            waits=self.waits,
            pins=dict(self.pins),
        )

    def check(self) -> None:
        """Assert that the collections are consistent: every server in exactly the one that its state names,
        none idle while somebody waits.
        """
        members: list[tuple[ServerState, PooledServer]] = [(ServerState.IDLE, s) for s in self.idle]
        members += [(ServerState.LEASED, s) for s in self.leased]
        members += [(state, s) for state, servers in self.others.items() for s in servers]
        assert len({id(server) for _, server in members}) == len(members) <= self.size
        assert all(server.state is state for state, server in members)
        assert self.pinned.keys() <= self.leased.keys()
        assert not (self.idle and self.waiting)
