"""What clients without a lease are told, and how often a pool is looked at for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import attrs

from tests.net.harness import logged
from tests.pooling.parts import Server, join
from trio_pool.errors import Reason, ServerFault
from trio_pool.net.shortage import FRESH, MOST_TEXT, Shortage
from trio_pool.pooling.capacity import Capacity
from trio_pool.pooling.pool import Pool, PoolKey
from trio_pool.pooling.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Iterable

NOW = 1000.0


@attrs.define(eq=False)
class Holder:
    """A client, as far as the words go; it counts how often it was asked what it does."""

    process_id: int
    user: str = "alice"
    statement: str = "select 1"
    leased_at: float = NOW - 2
    requested_at: float = NOW - 1
    peer: str = "127.0.0.1:5000"
    asked: int = 0

    @property
    def doing(self) -> str:
        self.asked += 1
        return self.statement

    @property
    def shown(self) -> str:
        return "constants are not shown"

    def granted(self, server: Server) -> None: ...


def pool_of(
    holders: Iterable[Holder],
    waiting: Iterable[Holder] = (),
    *,
    bound: int = 0,
    capacity: Capacity | None = None,
    max_waiting: int = 0,
    size: int = 0,
) -> Any:
    """A pool that these lease completely."""
    holders = list(holders)
    subject: Pool[Server, Holder] = Pool(
        PoolKey("app", "app"),
        size or len(holders),
        0,
        max_waiting,
        lambda: None,
        Shares(lambda user: bound) if bound else None,
        capacity,
    )
    for holder in holders:
        join(cast("Any", subject))
        assert subject.acquire(holder) is not None
    for waiter in waiting:
        assert subject.acquire(waiter) is None
    return subject


def test_a_pool_is_looked_at_once_for_thousands() -> None:
    """All who give up in the same moment cost one look, whoever they are; a later one sees the pool anew."""
    holder = Holder(1)
    subject = Shortage(pool_of([holder], (Holder(n, f"user {n % 10}") for n in range(10_000))))
    with logged() as log:
        for n in range(10_000):
            subject.refusal(f"user {n % 10}", NOW + n * FRESH / 20_000)
        assert holder.asked == 1
        later = subject.refusal("user 1", NOW + FRESH).detail
        assert holder.asked == 2
        subject.refusal("user 1", NOW + 1)
    assert "the longest for 1.1 s" in later
    assert [entry["refused"] for entry in log.find("no lease")] == [1, 10_001]


def test_the_three_longest_leases_are_named() -> None:
    """The longest first, however many there are."""
    holders = [Holder(n, leased_at=NOW - n) for n in (4, 2, 5, 1, 3)]
    with logged():
        detail = Shortage(pool_of(holders)).refusal("alice", NOW).detail
    assert detail == (
        "Pool app/app has 5 server connections of at most 5, 5 leased. Longest leases: "
        + "; ".join(
            f'client {n} of user "alice" from 127.0.0.1:5000 for {n}.0 s: select 1' for n in (5, 4, 3)
        )
        + "."
    )


def test_what_a_client_does_is_cut_and_on_one_line() -> None:
    """However long its statement is."""
    statement = "select\n  " + "x, " * 100_000
    with logged():
        detail = Shortage(pool_of([Holder(1, statement=statement)])).refusal("alice", NOW).detail
    doing = ("select " + "x, " * 100)[: MOST_TEXT - 3] + "..."
    assert detail.endswith(f" for 2.0 s: {doing}.")


def test_another_users_clients_are_there_and_nothing_else() -> None:
    """Neither name nor address nor statement of one user is for another's clients."""
    subject = Shortage(pool_of([Holder(1, "bob", "select 'secret'")], [Holder(2), Holder(3, "carol")]))
    with logged():
        detail = subject.refusal("alice", NOW).detail
    assert detail == (
        "Pool app/app has 1 server connection of at most 1, 1 leased. "
        '2 clients of 2 users wait, 1 of user "alice", the longest for 1.0 s. '
        "Longest leases: client 1 of another user for 2.0 s."
    )


def test_an_unknown_client_is_shown_no_statement() -> None:
    """Nor is what trio-pool does for itself taken for its own."""
    subject = Shortage(pool_of([Holder(1), Holder(0, "")]))
    with logged():
        detail = subject.refusal("", NOW).detail
    assert detail.endswith("Longest leases: client 1 of another user for 2.0 s; trio-pool itself for 2.0 s.")


def test_the_hint_is_for_the_cause() -> None:
    """What would have helped: another bound for one that was met, time limits for an idle lease."""
    crowded = Capacity(1)
    hints = {
        "max_leases": pool_of([Holder(1)], bound=1),
        "max_servers": pool_of([Holder(1)], capacity=crowded, size=2),
        "max_waiting": pool_of([Holder(1)], [Holder(2)], max_waiting=1),
        "idle_in_transaction": pool_of([Holder(1, statement="idle in transaction")]),
        "pool_size": pool_of([Holder(1)]),
    }
    with logged():
        for key, pool in hints.items():
            assert key in (Shortage(pool).refusal("alice", NOW).hint or "")


def test_an_origin_that_is_down_is_the_reason() -> None:
    """And not the pool, unless somebody has a server of it."""
    fault = ServerFault("nobody there", reason=Reason.SERVER_CONNECT_FAILED)
    with logged():
        down = Shortage(pool_of([], [Holder(1)], size=1)).refusal("alice", NOW, fault)
        busy = Shortage(pool_of([Holder(1)])).refusal("alice", NOW, fault)
    assert (down.sqlstate, down.message) == ("08001", "cannot connect to the origin: nobody there")
    assert busy.sqlstate == "53300"
