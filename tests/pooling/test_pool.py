"""One pool: hand-off in order, growth one at a time, pins."""

from __future__ import annotations

import pytest

from tests.pooling.parts import AnyPool, Client, Server, join, pool
from trio_pool.pooling.pool import PoolFull, ServerState


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
