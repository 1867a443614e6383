"""One pool: the server connections of one database and user, who leases them, and who waits.

Everything here is synchronous and decides only: it opens and closes nothing. In a Trio program that makes
every operation atomic, so a server cannot be lost between "taken from the idle ones" and "given to a client":
whoever has it is in one of the collections below, at every moment at which anybody else can look.

Two bounds can be put on it from outside. `shares` bounds the leases of each user: then the first in the queue
is the first whose user may have one more, and clients may wait although servers are idle. `capacity` bounds
the servers of several pools together: then this pool opens one only where there is room, and closes one when
another pool has the better claim.

A pool can be paused: then its servers are closed when they are given back, nobody gets one, and everybody
waits. And it can be made smaller while it is used: servers in excess are closed the same way. `bounded` tells
`release` at one look whether any of this has to be thought of.

A server's state is the collection that it is in, and `_move` is the one place where that changes. The console
prints the sizes of these collections.
"""

from __future__ import annotations

import enum
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

import attrs

from trio_pool.pooling.statistics import PoolStatistics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from trio_pool.pooling.capacity import Capacity
    from trio_pool.pooling.shares import Shares


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
    """What a pool needs of a client: to be told, synchronously, that it now has a server; and with `shares`
    who its user is.
    """

    @property
    def user(self) -> str: ...

    def granted(self, server: Any, /) -> None: ...


class PoolFull(Exception):
    """`max_waiting` clients are waiting already: of the pool, or with `shares` of the client's user, who
    could else keep everybody out by filling the queue.
    """


@attrs.frozen
class PoolKey:
    """A pool serves one database as one user."""

    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.database}/{self.user}"


IDLE: Final = ServerState.IDLE
LEASED: Final = ServerState.LEASED
LEASED_PER_SPARE: Final = 4

S = TypeVar("S", bound=PooledServer)
W = TypeVar("W", bound=Waiter)


def _cannot_evict(_: PooledServer) -> None:
    raise AssertionError("a pool with a capacity must be able to evict")


class Pool(Generic[S, W]):
    """Servers in named collections, clients in a queue.

    `size` is the most servers there may be, opening ones included; `min_size` how many are kept.
    `max_waiting` bounds the queue (0: no bound). `grow` is called when one more server would help; whoever
    opens it calls `connecting` first and `joined` or `left` afterwards. `evict` closes an idle server, whose
    place another pool of the `capacity` needs: it has called `left` when it returns.
    """

    __slots__ = (
        "at_once",
        "bounded",
        "capacity",
        "evict",
        "failing",
        "greeting",
        "grow",
        "idle",
        "key",
        "leased",
        "leases",
        "max_waiting",
        "min_size",
        "others",
        "paused",
        "pinned",
        "pins",
        "shares",
        "size",
        "spare",
        "waiting",
        "waits",
    )

    def __init__(
        self,
        key: PoolKey,
        size: int,
        min_size: int,
        max_waiting: int,
        grow: Callable[[], None],
        shares: Shares[W] | None = None,
        capacity: Capacity | None = None,
        *,
        spare: int = 0,
        at_once: int = 1,
        evict: Callable[[S], None] = _cannot_evict,
    ) -> None:
        self.key = key
        self.size = size
        self.min_size = min_size
        self.max_waiting = max_waiting
        self.spare = spare
        """Servers kept ready beyond those that are leased; one more for every `LEASED_PER_SPARE` of these."""
        self.at_once = at_once
        """How many servers may be opened at the same time."""
        self.grow = grow
        self.evict = evict
        self.shares = shares
        self.capacity = capacity
        self.paused = False
        """Whether nobody may have a server."""
        self.bounded = shares is not None or (capacity is not None and capacity.binds)
        """Whether a server that is given back may be for nobody in the queue."""
        self.idle: dict[S, None] = {}
        self.leased: dict[S, W] = {}
        self.others: dict[ServerState, dict[PooledServer, None]] = {
            ServerState.CONNECTING: {},
            ServerState.CLEANING: {},
            ServerState.CANCELLING: {},
        }
        self.waiting: OrderedDict[W, None] = OrderedDict()
        self.pinned: dict[S, dict[str, float]] = {}
        """Leases that outlast their transaction: why, and since when (the caller's clock)."""
        self.greeting = 0
        """Logins that need a first server and are not in the queue. Call `reconsider` after a change."""
        self.failing = False
        """Whether the last attempt to open a server failed."""
        self.leases = 0
        self.waits = 0
        self.pins: Counter[str] = Counter()
        if capacity is not None:
            capacity.pools[self] = None

    # -- clients ---------------------------------------------------------------------------------------------

    def acquire(self, client: W) -> S | None:
        """A server for the client, which leases it from now on; or None, and the client is in the queue.

        Raises `PoolFull`. The most recently used server is taken, so that those in excess grow old and are
        closed. Hot path.
        """
        if self.idle and (self.shares is None or self.shares.take(client.user)):
            server = self.idle.popitem()[0]
            self.leased[server] = client
            server.state = LEASED
            self.leases += 1
            if self.spare:
                self._seek()
            return server
        if self.max_waiting and not self.paused and self._queue_of(client) >= self.max_waiting:
            raise PoolFull
        self.waiting[client] = None
        self.waits += 1
        if self.shares is not None:
            self.shares.wait(client)
        if len(self.leased) < self.size:
            self._seek()
        return None

    def _queue_of(self, client: W) -> int:
        return len(self.waiting) if self.shares is None else self.shares.waiting(client.user)

    def release(self, server: S) -> None:
        """A server is clean and nobody's: the first client in the queue has it, else it is idle. Hot path."""
        if self.bounded:
            self._release_bounded(server)
        elif self.waiting:
            client = self.waiting.popitem(last=False)[0]
            if server.state is not LEASED:
                self._move(server, LEASED)
            self.leased[server] = client
            self.leases += 1
            client.granted(server)
        elif server.state is LEASED:
            del self.leased[server]
            self.idle[server] = None
            server.state = IDLE
        else:
            self._move(server, IDLE)

    def lend(self, server: S, holder: W) -> None:
        """A server is clean and nobody's: somebody has it who has not waited and does not count."""
        if server.state is not LEASED:
            self._move(server, LEASED)
        self.leased[server] = holder

    def _release_bounded(self, server: S) -> None:
        """What `release` does where there are bounds."""
        self._move(server, IDLE)
        surplus = self.paused or self.servers > self.size
        if surplus or (self.capacity is not None and self.capacity.claims(self)):
            self._evict(server)
        else:
            self._serve()

    def _serve(self) -> None:
        """Idle servers go to those who may have one, the last that became idle first."""
        while self.idle and (client := self._first()) is not None:
            server = next(reversed(self.idle))
            self._move(server, LEASED)
            self.leased[server] = client
            self.leases += 1
            del self.waiting[client]
            if self.shares is not None:
                self.shares.forget(client)
                self.shares.take(client.user)
            client.granted(server)
        self._seek()

    def _first(self) -> W | None:
        """Who is next."""
        return next(iter(self.waiting), None) if self.shares is None else self.shares.first()

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
        if client in self.waiting:
            del self.waiting[client]
            if self.shares is not None:
                self.shares.forget(client)
            if self.capacity is not None:
                self.capacity.review(self)

    def reconsider(self) -> None:
        """Something outside has changed: who is to be greeted."""
        self._serve()

    # -- what an operator changes ----------------------------------------------------------------------------

    def pause(self) -> None:
        """From now on nobody gets a server; those that are nobody's are closed, the others when they are
        given back.
        """
        self.paused = True
        self._review_bounds()
        self._seek()

    def go_on(self) -> None:
        """The pause is over: who waits is served, in order."""
        self.paused = False
        self._review_bounds()
        self._serve()

    def resize(self, size: int, min_size: int, max_waiting: int) -> None:
        """From now on this holds. Who waits already goes on waiting."""
        self.size = size
        self.min_size = min_size
        self.max_waiting = max_waiting
        self._review_bounds()
        self._serve()

    def bind(self, shares: Shares[W] | None) -> None:
        """From now on these bound the leases of each user. `shares` knows of nobody yet."""
        self.shares = shares
        if shares is not None:
            for holder in self.leased.values():
                shares.held[holder.user] += 1
            for client in self.waiting:
                shares.wait(client)
        self._review_bounds()
        self._serve()

    def join_capacity(self, capacity: Capacity | None) -> None:
        """From now on this bounds the pool's servers together with those of others."""
        before = self.capacity
        if before is capacity:
            return
        self.capacity = None
        if before is not None:
            before.dismiss(self)
        self.capacity = capacity
        if capacity is not None:
            capacity.enlist(self)
        self._review_bounds()
        self._serve()

    def _review_bounds(self) -> None:
        """Something that `bounded` tells of has changed."""
        while self.idle and (self.paused or self.servers > self.size):
            self.give_way()
        self.note_bounds()

    def note_bounds(self) -> None:
        """What `bounded` tells of may have changed."""
        limited = self.shares is not None or (self.capacity is not None and self.capacity.binds)
        self.bounded = limited or self.paused or self.servers > self.size

    # -- servers ---------------------------------------------------------------------------------------------

    @property
    def servers(self) -> int:
        """All of them, opening ones included: never more than `size`, but for those that a smaller `size` has
        left over.
        """
        return len(self.idle) + len(self.leased) + sum(map(len, self.others.values()))

    @property
    def has_eligible(self) -> bool:
        """Whether somebody waits who may have a server."""
        if self.paused:
            return False
        return bool(self.waiting) if self.shares is None else self.shares.first() is not None

    @property
    def lacks_server(self) -> bool:
        """Whether one more would serve somebody who waits. Few at a time: a burst of clients must not become
        a burst of logins.
        """
        opening = len(self.others[ServerState.CONNECTING])
        if self.paused or opening >= self.at_once or self.servers >= self.size:
            return False
        if self.greeting > 0 and not self.servers:
            return True
        return self.has_eligible and len(self.waiting) > opening

    @property
    def wants_server(self) -> bool:
        """Whether one more should be opened now: for somebody who waits, up to `min_size`, or to be spare;
        and there is room.
        """
        opening = len(self.others[ServerState.CONNECTING])
        if self.paused or opening >= self.at_once or self.servers >= self.size:
            return False
        if self.capacity is not None and not self.capacity.has_room(self):
            return False
        return self.would_grow

    @property
    def would_grow(self) -> bool:
        """The same, if there is room."""
        opening = len(self.others[ServerState.CONNECTING])
        if self.paused or opening >= self.at_once or self.servers >= self.size:
            return False
        if self.servers < self.min_size or self.lacks_server:
            return True
        return self.spare > 0 and len(self.idle) + opening < self.spares_wanted

    @property
    def spares_wanted(self) -> int:
        """How many servers are to be ready for whoever comes."""
        return self.spare + len(self.leased) // LEASED_PER_SPARE if self.spare else 0

    @property
    def has_surplus(self) -> bool:
        """Whether one that is idle is kept for nothing."""
        return self.servers > self.min_size and len(self.idle) > self.spares_wanted

    def _seek(self) -> None:
        """Have one more server opened if it is wanted."""
        if self.capacity is not None:
            self.capacity.review(self)
        elif self.wants_server:
            self.grow()

    def give_way(self) -> None:
        """Close the server that has been idle longest."""
        self._evict(next(iter(self.idle)))

    def _evict(self, server: S) -> None:
        self.evict(server)
        assert server.state is ServerState.CLOSED

    def connecting(self, slot: PooledServer) -> None:
        """A server is being opened; until it has logged in something else keeps its place."""
        assert self.servers < self.size
        slot.state = ServerState.CONNECTING
        self.others[ServerState.CONNECTING][slot] = None
        if self.capacity is not None:
            self.capacity.opening(self)

    def joined(self, slot: PooledServer, server: S) -> None:
        """The server for which `slot` was kept has logged in."""
        connecting = self.others[ServerState.CONNECTING]
        del connecting[slot]
        slot.state = ServerState.CLOSED
        connecting[server] = None
        server.state = ServerState.CONNECTING
        self.failing = False
        self.release(server)
        self._seek()

    def cleaning(self, server: S) -> None:
        """A server is not clean: nobody may have it until `release`."""
        self._move(server, ServerState.CLEANING)
        if self.shares is not None:
            self._serve()

    def cancelling(self, server: S) -> None:
        """A server is clean, but must not be used until its cancel request is done."""
        self._move(server, ServerState.CANCELLING)
        if self.shares is not None:
            self._serve()

    def left(self, server: S | PooledServer) -> None:
        """A server is gone, or never came; harmless to say twice."""
        if server.state is not ServerState.CLOSED:
            self.failing = self.failing or server.state is ServerState.CONNECTING
            self._move(server, ServerState.CLOSED)
            if self.capacity is not None:
                self.capacity.closed()
            if self.bounded:
                self.note_bounds()
            self._serve()

    def _move(self, server: S | PooledServer, state: ServerState) -> None:
        """The one place where a server changes its collection (`acquire` and `release` write its common cases
        out).
        """
        if server.state is IDLE:
            del self.idle[server]  # type: ignore[arg-type]
        elif server.state is LEASED:
            client = self.leased.pop(server)  # type: ignore[arg-type]
            if self.shares is not None:
                self.shares.give_back(client.user)
        else:
            del self.others[server.state][server]
        if state is IDLE:
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
        none idle while somebody waits who may have it, or while nobody may or there are too many.
        """
        members: list[tuple[ServerState, PooledServer]] = [(ServerState.IDLE, s) for s in self.idle]
        members += [(ServerState.LEASED, s) for s in self.leased]
        members += [(state, s) for state, servers in self.others.items() for s in servers]
        assert len({id(server) for _, server in members}) == len(members)
        limited = self.shares is not None or (self.capacity is not None and self.capacity.binds)
        assert self.bounded == (limited or self.paused or len(members) > self.size)
        assert not (self.idle and (self.paused or len(members) > self.size))
        assert all(server.state is state for state, server in members)
        assert self.pinned.keys() <= self.leased.keys()
        assert not (self.idle and self.has_eligible)
        if self.shares is not None:
            self.shares.check(self.leased.values(), self.waiting)
        if self.capacity is not None:
            self.capacity.check()
