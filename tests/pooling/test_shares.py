"""A pool that several users share: how much of it one of them may have, and who is passed over."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pooling.parts import Client, Server, join, pool
from trio_pool.pooling.pool import PoolFull
from trio_pool.pooling.shares import Shares

NAMES = ["alice", "bob", "carol", ""]


def test_who_is_at_the_bound_waits_although_a_server_is_idle() -> None:
    """What the bound keeps free is there for others."""
    subject = pool(2, bounds={"alice": 1})
    first, second = join(subject), join(subject)
    greedy, other = Client("alice"), Client("bob")
    assert subject.acquire(Client("alice")) is second
    assert subject.acquire(greedy) is None
    subject.check()
    assert subject.acquire(other) is first
    assert greedy.server is None


def test_who_is_at_the_bound_is_passed_over_and_keeps_its_place() -> None:
    """It is served in front of those that came later, as soon as its user gives a lease back."""
    subject = pool(2, bounds={"alice": 1})
    theirs, hers = join(subject), join(subject)
    assert subject.acquire(Client("alice")) is hers
    assert subject.acquire(Client("bob")) is theirs
    passed_over, second, third = Client("alice"), Client("bob"), Client("bob")
    for client in (passed_over, second, third):
        assert subject.acquire(client) is None
    subject.release(theirs)
    assert (passed_over.server, second.server, third.server) == (None, theirs, None)
    subject.release(hers)
    assert (passed_over.server, third.server) == (hers, None)
    subject.check()


@pytest.mark.parametrize("end", ["cleaning", "cancelling", "left"])
def test_a_lease_that_ends_without_a_server_lets_the_next_have_another(end: str) -> None:
    """A user's share is free again with its lease, however long the server takes to become clean."""
    subject = pool(2, bounds={"alice": 1})
    spare, hers = join(subject), join(subject)
    waiting = Client("alice")
    assert subject.acquire(Client("alice")) is hers
    assert subject.acquire(waiting) is None
    getattr(subject, end)(hers)
    assert waiting.server is spare
    subject.check()


def test_no_server_is_opened_for_who_may_not_have_it() -> None:
    """Growth is asked for when somebody waits who may have a server, and when one comes to be so."""
    asked: list[int] = []
    subject = pool(3, bounds={"alice": 1}, grow=lambda: asked.append(1))
    hers = join(subject)
    assert subject.acquire(Client("alice")) is hers
    assert subject.acquire(Client("alice")) is None
    assert (subject.wants_server, asked) == (False, [])
    subject.cleaning(hers)
    assert (subject.wants_server, asked) == (True, [1])


def test_nobody_can_keep_others_out_by_filling_the_queue() -> None:
    """Where users are bounded, `max_waiting` counts the clients of each user."""
    subject = pool(1, bounds={"alice": 1}, max_waiting=2)
    hers = join(subject)
    assert subject.acquire(Client("alice")) is hers
    subject.acquire(Client("alice"))
    subject.acquire(Client("alice"))
    with pytest.raises(PoolFull):
        subject.acquire(Client("alice"))
    other = Client("bob")
    assert subject.acquire(other) is None
    assert len(subject.waiting) == 3


def test_who_has_no_name_is_bounded_by_nothing() -> None:
    """What trio-pool does for itself needs no share."""
    subject = pool(2, bounds={"": 0, "alice": 1})
    join(subject), join(subject)
    assert isinstance(subject.acquire(Client()), Server)
    assert isinstance(subject.acquire(Client()), Server)


def test_a_long_queue_of_one_user_is_not_looked_through() -> None:
    """Passing over thousands costs no look at any of them, and leaves nothing behind."""
    subject = pool(2, bounds={"alice": 1})
    hers, theirs = join(subject), join(subject)
    assert {subject.acquire(Client("alice")), subject.acquire(Client("bob"))} == {hers, theirs}
    hers, theirs = sorted(subject.leased, key=lambda server: subject.leased[server].user)
    asked: Counter[str] = Counter()
    assert subject.shares is not None
    bound_of = subject.shares.bound_of

    def counted(user: str) -> int:
        asked[user] += 1
        return bound_of(user)

    subject.shares.bound_of = counted
    crowd = [Client("alice") for _ in range(5000)]
    for client in crowd:
        subject.acquire(client)
    asked.clear()
    for _ in range(100):
        other = Client("bob")
        subject.acquire(other)
        subject.release(theirs)
        assert other.server is theirs
    assert asked["alice"] < 100
    for client in crowd:
        subject.forget(client)
    subject.check()
    assert not subject.waiting


Step = tuple[str, str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["wait", "forget", "take", "give"]), st.sampled_from(NAMES), st.integers(0, 9))
)


@given(STEPS)
def test_the_first_is_who_waits_longest_of_the_admitted(steps: list[Step]) -> None:
    """After any history; `check` says so in the plainest way there is."""
    bounds = {"alice": 1, "bob": 2}
    subject: Shares[Client] = Shares(lambda user: bounds.get(user, 0))
    waiting: list[Client] = []
    held: list[Client] = []
    for what, user, index in steps:
        if what == "wait":
            waiting.append(Client(user))
            subject.wait(waiting[-1])
        elif what == "forget" and waiting:
            subject.forget(waiting.pop(index % len(waiting)))
        elif what == "take":
            admitted = not bounds.get(user) or sum(c.user == user for c in held) < bounds[user]
            assert subject.take(user) is admitted
            if admitted:
                held.append(Client(user))
        elif what == "give" and held:
            subject.give_back(held.pop(index % len(held)).user)
        subject.check(held, waiting)


@given(st.lists(st.sampled_from(NAMES), min_size=1, max_size=60), st.integers(1, 4), st.randoms())
def test_everybody_is_served_and_each_user_in_order(names: list[str], size: int, random: object) -> None:
    """Whoever gives back what when: the clients of one user are served in the order of their arrival, nobody
    is left waiting at the end, and no server is lost.
    """
    subject = pool(size, bounds={"alice": 1, "bob": 2})
    for _ in range(size):
        join(subject)
    clients = [Client(name) for name in names]
    served: list[Client] = []
    for client in clients:
        server = subject.acquire(client)
        if server is not None:
            client.granted(server)
    while subject.leased:
        assert all(held <= {"alice": 1, "bob": 2}.get(user, size) for user, held in held_of(subject.leased))
        server = random.choice(list(subject.leased))  # type: ignore[attr-defined]
        served.append(subject.leased[server])
        subject.release(server)
        subject.check()
    assert len(served) == len(clients)
    assert (len(subject.idle), len(subject.waiting)) == (size, 0)
    bounded = [client for client in served if client.user == "alice"]
    assert bounded == [client for client in clients if client.user == "alice"]


def held_of(leased: dict[Server, Client]) -> list[tuple[str, int]]:
    return list(Counter(client.user for client in leased.values()).items())
