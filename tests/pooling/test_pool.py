"""One pool: hand-off in order, growth one at a time, and a model that random use must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trio_pool.pooling.pool import Pool, PoolFull, PoolKey, ServerState

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = PoolKey("app", "alice")


@attrs.define(eq=False)
class Server:
    """A server connection, as far as a pool knows."""

    state: ServerState = ServerState.CLOSED


@attrs.define(eq=False)
class Client:
    """A client that remembers which server it was given."""

    server: Server | None = None

    def granted(self, server: Server) -> None:
        self.server = server


AnyPool = Pool[Server, Client]


def pool(
    size: int = 2, *, min_size: int = 0, max_waiting: int = 0, grow: Callable[[], None] | None = None
) -> AnyPool:
    return Pool(KEY, size, min_size, max_waiting, grow or (lambda: None))


def join(to: AnyPool) -> Server:
    """A server logs in."""
    slot, server = Server(), Server()
    to.connecting(slot)
    to.joined(slot, server)
    return server


def test_the_most_recently_used_server_is_leased() -> None:
    """Servers in excess grow old instead of taking turns."""
    subject = pool(3)
    first, second = join(subject), join(subject)
    client = Client()
    assert subject.acquire(client) is second
    subject.release(second)
    assert subject.acquire(client) is second
    assert list(subject.idle) == [first]


def test_waiting_clients_are_served_in_order() -> None:
    """A released server goes straight to who waits longest, leased before anybody else can look."""
    subject = pool(1)
    server = join(subject)
    holder, first, second = Client(), Client(), Client()
    assert subject.acquire(holder) is server
    assert subject.acquire(first) is None
    assert subject.acquire(second) is None
    subject.release(server)
    assert (first.server, second.server) == (server, None)
    assert subject.leased == {server: first}
    subject.release(server)
    assert second.server is server


def test_who_gave_up_waiting_is_passed_over() -> None:
    """A client that stopped waiting gets nothing, and saying so twice is harmless."""
    subject = pool(1)
    server = join(subject)
    gone, patient = Client(), Client()
    subject.acquire(Client())
    subject.acquire(gone)
    subject.acquire(patient)
    subject.forget(gone)
    subject.forget(gone)
    subject.release(server)
    assert (gone.server, patient.server) == (None, server)


def test_growth_is_asked_for_one_server_at_a_time() -> None:
    """A burst of clients asks for one login, and for the next when that has come, while somebody waits."""
    asked: list[int] = []
    subject = pool(3, grow=lambda: asked.append(1))
    for _ in range(3):
        subject.acquire(Client())
        slot = Server()
        if subject.wants_server:
            subject.connecting(slot)
    assert len(asked) == 1
    connecting = next(iter(subject.others[ServerState.CONNECTING]))
    subject.joined(connecting, Server())
    assert len(asked) == 2
    assert subject.statistics().waiting == 2


def test_a_failed_login_frees_its_place() -> None:
    """What never came counts no more, and another attempt is asked for while somebody waits."""
    asked: list[int] = []
    subject = pool(1, grow=lambda: asked.append(1))
    subject.acquire(Client())
    slot = Server()
    subject.connecting(slot)
    assert not subject.wants_server
    subject.left(slot)
    assert (subject.servers, len(asked)) == (0, 2)


def test_a_full_queue_refuses_at_once() -> None:
    """`max_waiting` clients may wait, one more may not."""
    subject = pool(1, max_waiting=1)
    join(subject)
    subject.acquire(Client())
    subject.acquire(Client())
    with pytest.raises(PoolFull):
        subject.acquire(Client())
    assert subject.statistics().waiting == 1


def test_a_server_being_cleaned_is_nobodys() -> None:
    """It counts, and is leased again only when it is released."""
    subject = pool(1)
    server = join(subject)
    subject.acquire(Client())
    subject.cleaning(server)
    waiter = Client()
    assert subject.acquire(waiter) is None
    assert subject.servers == 1
    subject.cancelling(server)
    assert waiter.server is None
    subject.release(server)
    assert waiter.server is server


def test_min_size_is_asked_for() -> None:
    """Below `min_size` a server is wanted although nobody waits."""
    subject = pool(2, min_size=1)
    assert subject.wants_server
    join(subject)
    assert not subject.wants_server


# -- pins ----------------------------------------------------------------------------------------------------


def leased(subject: AnyPool) -> Server:
    """A server that a client has."""
    server = join(subject)
    assert subject.acquire(Client()) is server
    return server


def test_a_pin_is_new_once_and_gone_once() -> None:
    """So that it can be logged once, however often the server says that it is still there."""
    subject = pool(1)
    server = leased(subject)
    assert subject.pin(server, ["lock", "LOAD"], 1.0) == ({"lock", "LOAD"}, set())
    assert subject.pin(server, ["LOAD", "lock"], 2.0) == (set(), set())
    assert subject.pin(server, ["LOAD", "cursor"], 3.0) == ({"cursor"}, {"lock"})
    assert subject.pin(server, [], 4.0) == (set(), {"LOAD", "cursor"})
    assert subject.pin(server, [], 5.0) == (set(), set())


def test_a_pin_keeps_the_time_at_which_it_began() -> None:
    """Whatever is added or taken away beside it."""
    subject = pool(1)
    server = leased(subject)
    subject.pin(server, ["lock"], 1.0)
    subject.pin(server, ["lock", "cursor"], 2.0)
    assert subject.pinned == {server: {"lock": 1.0, "cursor": 2.0}}
    subject.pin(server, ["cursor"], 3.0)
    subject.pin(server, ["lock", "cursor"], 4.0)
    assert subject.pinned == {server: {"lock": 4.0, "cursor": 2.0}}


def test_pins_are_counted_by_reason() -> None:
    """Since the start, and how many servers are pinned now."""
    subject = pool(2)
    first, second = leased(subject), leased(subject)
    subject.pin(first, ["lock"], 1.0)
    subject.pin(second, ["lock", "LOAD"], 1.0)
    assert (subject.statistics().pinned, subject.statistics().pins) == (2, {"lock": 2, "LOAD": 1})
    subject.pin(first, [], 2.0)
    subject.pin(first, ["lock"], 3.0)
    assert (subject.statistics().pinned, subject.statistics().pins) == (2, {"lock": 3, "LOAD": 1})
    subject.pin(first, [], 4.0)
    subject.pin(second, [], 4.0)
    assert (subject.statistics().pinned, subject.statistics().pins) == (0, {"lock": 3, "LOAD": 1})


def test_a_pinned_server_stays_leased() -> None:
    """Nobody else gets it, and it takes its place in the pool."""
    subject = pool(1)
    server = leased(subject)
    subject.pin(server, ["lock"], 1.0)
    waiting = Client()
    assert subject.acquire(waiting) is None
    subject.check()
    assert not subject.wants_server
    subject.pin(server, [], 2.0)
    subject.release(server)
    assert waiting.server is server
    subject.check()


def test_a_snapshot_of_pins_is_one() -> None:
    """It does not change behind the back of who has it."""
    subject = pool(1)
    server = leased(subject)
    before = subject.statistics()
    subject.pin(server, ["lock"], 1.0)
    assert (before.pinned, before.pins) == (0, {})


class PoolMachine(RuleBasedStateMachine):
    """Random use of a pool, beside the plainest model of it: who has what, and who waits in which order."""

    def __init__(self) -> None:
        super().__init__()
        self.grown = 0
        self.pool: AnyPool = pool(3, min_size=1, max_waiting=4, grow=self.grow)
        self.slots: list[Server] = []
        self.servers: list[Server] = []
        self.queue: list[Client] = []
        self.holders: dict[Server, Client] = {}
        self.pins: dict[Server, dict[str, float]] = {}
        self.now = 0.0

    def grow(self) -> None:
        self.grown += 1

    @rule()
    def acquire(self) -> None:
        client = Client()
        idle = list(self.pool.idle)
        try:
            server = self.pool.acquire(client)
        except PoolFull:
            assert len(self.queue) == 4
            return
        if idle:
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
        else:
            getattr(self.pool, how)(server)
        if how == "left":
            self.servers.remove(server)
            self.pool.left(server)

    def expect_handed_on(self, server: Server, act: Callable[[], None]) -> None:
        first = self.queue.pop(0) if self.queue else None
        act()
        if first is None:
            assert server in self.pool.idle
        else:
            assert first.server is server
            self.holders[server] = first

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

    @invariant()
    def asks_when_it_wants(self) -> None:
        if self.pool.waiting and self.pool.wants_server:
            assert self.grown


TestPoolMachine = PoolMachine.TestCase
