"""The limits of a transaction and of a client's pauses in it, in each situation, with a real PostgreSQL:
what the client gets, and that neither it nor the server loses its connection (tests/support/limited.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support import requests
from tests.support.limited import (
    BIG,
    BIG_ROW,
    BIG_ROWS,
    ENDED,
    FAILED,
    LIMIT,
    PARSED,
    SINK,
    SLEEPS,
    SLOW,
    SPAN,
    SYNC,
    fails_until_ended,
    limited,
    slow_reader,
)
from tests.support.requests import Reply
from tests.support.serving import superuser
from tests.support.talk import (
    ask,
    done,
    executed,
    expect,
    extended,
    nothing_comes,
    refused,
    replies,
    selected,
    told,
)
from tests.support.target import DATABASE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

ENDS = ("rollback", "commit", "end", "abort")


# -- transaction ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
async def test_a_transaction_is_over_while_a_statement_runs(postgres: LocalPostgres, end: str) -> None:
    """25P04 in its place, then 25P02 until the client ends it; others have the server long before."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        await one.begin()
        assert await ask(one.peer, SLOW) == [Reply("T", "1"), *refused("25P04", "E")]
        await one.freed()
        assert await one.written() == []
        await fails_until_ended(one.peer, end)


async def test_a_transaction_is_over_while_a_group_runs(postgres: LocalPostgres) -> None:
    """25P04 in its place, the rest is skipped up to Sync; what follows gets 25P02."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        await one.begin()
        group = extended("select 'before'") + extended(SLOW) + extended("select 'never'") + SYNC
        assert await replies(one.peer, group) == [*executed("before"), *PARSED, *refused("25P04", "E")]
        await one.freed()
        await fails_until_ended(one.peer)


async def test_a_transaction_is_over_in_a_pipeline(postgres: LocalPostgres) -> None:
    """What has been sent behind it is answered as in a failed transaction, up to the end of it; what follows
    that is run.
    """
    texts = (
        "begin",
        f"insert into {SINK} values ('never')",
        SLOW,
        "select 1",
        "select 2",
        "commit",
        "select 'new'",
    )
    answers = [
        *done("BEGIN", "T"),
        *done("INSERT 0 1", "T"),
        *(Reply("T", "1"), *refused("25P04", "E")),
        *(*FAILED, *FAILED, *ENDED),
        *selected("new"),
    ]
    async with limited(postgres, {"transaction": SPAN}) as one:
        assert await replies(one.peer, b"".join(map(requests.query, texts)), len(texts)) == answers
        assert await one.written() == []


async def test_a_transaction_is_over_in_a_pipeline_of_groups(postgres: LocalPostgres) -> None:
    """The same in the extended protocol."""
    groups = (
        extended("begin") + extended(SLOW),
        extended("select 1"),
        extended("commit"),
        extended("select 'new'"),
    )
    answers = [
        *(*PARSED, Reply("C", "BEGIN"), *PARSED, *refused("25P04", "E")),
        *FAILED,
        *(*PARSED, *ENDED),
        *(*executed("new"), Reply("Z", "I")),
    ]
    async with limited(postgres, {"transaction": SPAN}) as one:
        assert await replies(one.peer, SYNC.join([*groups, b""]), len(groups)) == answers


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_an_autocommit_statement_is_a_transaction(postgres: LocalPostgres, protocol: str) -> None:
    """It gets 25P04, and nothing is left to be ended."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        if protocol == "simple":
            assert await ask(one.peer, SLOW) == [Reply("T", "1"), *refused("25P04")]
        else:
            assert await replies(one.peer, extended(SLOW) + SYNC) == [*PARSED, *refused("25P04")]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("limit", ["transaction", "idle_in_transaction"])
async def test_a_transaction_is_over_while_it_idles(postgres: LocalPostgres, limit: str, end: str) -> None:
    """It is rolled back and the server is others'; the client learns it at its next statement, and gets 25P02
    from then on until it ends the transaction.
    """
    sqlstate = {"transaction": "25P04", "idle_in_transaction": "25P03"}[limit]
    async with limited(postgres, {limit: SPAN}) as one:
        await one.begin()
        await one.freed()
        assert await one.written() == []
        await nothing_comes(one.peer, LIMIT / 3)
        assert await ask(one.peer, "select 1") == refused(sqlstate, "E")
        await fails_until_ended(one.peer, end)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("limit", ["transaction", "idle_in_transaction"])
async def test_an_expired_transaction_is_ended_at_once(
    postgres: LocalPostgres, limit: str, protocol: str, end: str
) -> None:
    """If the next statement is its end, it is over: ROLLBACK is what has happened already, COMMIT gets the
    reason, for nobody else tells the client that nothing was committed.
    """
    sqlstate = {"transaction": "25P04", "idle_in_transaction": "25P03"}[limit]
    async with limited(postgres, {limit: SPAN}) as one:
        await one.begin()
        await one.freed()
        expected = refused(sqlstate, "I") if end.lower() in ("commit", "end") else ENDED
        if protocol == "simple":
            assert await ask(one.peer, end) == expected
        else:
            ended = [*PARSED, *expected] if expected == ENDED else [*PARSED[:2], *expected]
            assert await replies(one.peer, extended(end) + SYNC) == ended
        assert await one.written() == []


@pytest.mark.parametrize("limit", ["transaction", "idle_in_transaction"])
async def test_an_expired_transaction_in_the_extended_protocol(postgres: LocalPostgres, limit: str) -> None:
    """The first group gets the reason, and is skipped up to Sync as PostgreSQL does."""
    sqlstate = {"transaction": "25P04", "idle_in_transaction": "25P03"}[limit]
    async with limited(postgres, {limit: SPAN}) as one:
        await one.begin()
        await one.freed()
        group = extended("select 1") + extended("rollback") + requests.query("select 'skipped'") + SYNC
        assert await replies(one.peer, group) == refused(sqlstate, "E")
        assert await replies(one.peer, extended("rollback") + extended("select 'x'") + SYNC) == [
            *(*PARSED, Reply("C", "ROLLBACK")),
            *(*executed("x"), Reply("Z", "I")),
        ]


async def test_the_time_of_a_transaction_is_all_of_it(postgres: LocalPostgres) -> None:
    """Statements none of which is slow, without a pause: 25P04 when they have taken too long together."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        started = trio.current_time()
        await one.begin()
        while (answer := await ask(one.peer, "select 'quick'")) == selected("quick", status="T"):
            assert trio.current_time() < started + 20 * LIMIT
        assert trio.current_time() >= started + LIMIT
        assert answer[-2:] == refused("25P04", "E")
        await fails_until_ended(one.peer)


async def test_each_transaction_has_its_own_time(postgres: LocalPostgres) -> None:
    """Transactions that are short enough, one after the other, and in one write."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        for _ in range(4):
            await one.begin("mine")
            assert await one.peer.rows(SLEEPS) == ["short"]
            await one.peer.rows("rollback")
        texts = ("begin", SLEEPS, "commit") * 3
        answers = [*done("BEGIN", "T"), *selected("short", status="T"), *done("COMMIT")] * 3
        assert await replies(one.peer, b"".join(map(requests.query, texts)), len(texts)) == answers
        assert await replies(one.peer, requests.query(SLEEPS) * 4, 4) == selected("short") * 4


async def test_the_time_of_a_transaction_begins_with_begin(postgres: LocalPostgres) -> None:
    """Also with one that was answered ahead of time: the first statement behind it gets 25P04."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        before = one.running.origin.pool.leases
        assert await ask(one.peer, "begin") == done("BEGIN", "T")
        await trio.sleep(2 * LIMIT)
        assert await ask(one.peer, f"insert into {SINK} values ('never')") == refused("25P04", "E")
        await fails_until_ended(one.peer)
        assert one.running.origin.pool.leases == before


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_waiting_for_a_server_takes_no_time_of_a_transaction(
    postgres: LocalPostgres, protocol: str
) -> None:
    """Its BEGIN was answered ahead of time, and its first statement finds every server taken for longer than
    there is time: it runs as soon as one is free.
    """
    async with limited(postgres, {"transaction": SPAN}) as one, await one.running.log_in() as holder:
        pool = one.running.origin.pool
        await one.peer.rows("begin")
        await trio.sleep(LIMIT * 0.7)
        await holder.rows("begin")
        await holder.rows("select 1")
        statement = f"insert into {SINK} values ('kept')"
        if protocol == "simple":
            await one.peer.send(requests.query(statement))
        else:
            await one.peer.send(extended(statement) + SYNC)
        await one.running.until(lambda: len(pool.waiting) == 1)
        answer = await told(one.peer)
        assert answer[-2:] == done("INSERT 0 1", "T")
        await one.peer.rows("commit")
        assert await one.written() == ["kept"]
        assert await ask(holder, "rollback") == ENDED
        await one.peer.rows(f"delete from {SINK}")


def dawdle(postgres: LocalPostgres) -> None:
    """What is written to the sink takes three limits to commit from now on."""
    postgres.run_sql(
        f"""create function dawdle() returns trigger language plpgsql as
                $$ begin perform pg_sleep({3 * LIMIT}); return null; end $$;
            create constraint trigger dawdles after insert on {SINK} deferrable initially deferred
                for each row execute function dawdle()""",
        DATABASE,
    )


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_commit_is_waited_for(postgres: LocalPostgres, protocol: str) -> None:
    """However long it takes: the client gets what PostgreSQL says, and what it wrote is there."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        dawdle(postgres)
        await one.begin("kept")
        if protocol == "simple":
            assert await ask(one.peer, "commit") == done("COMMIT")
        else:
            assert await replies(one.peer, extended("commit") + SYNC) == [*PARSED, *done("COMMIT")]
        assert await one.written() == ["kept"]
        assert await ask(one.peer, f"delete from {SINK}") == done("DELETE 1")
        postgres.run_sql("drop function dawdle() cascade", DATABASE)


# -- idle_in_transaction -------------------------------------------------------------------------------------


async def test_only_the_clients_turn_counts(postgres: LocalPostgres) -> None:
    """Neither a statement that runs for longer, nor a client that is quiet outside of a transaction, nor
    pauses that are short enough.
    """
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        await one.peer.rows("begin")
        assert await one.peer.rows(f"select 'long' from pg_sleep({2 * LIMIT})") == ["long"]
        for _ in range(6):
            await trio.sleep(LIMIT / 2)
            assert await one.peer.rows("select 'here'") == ["here"]
        await one.peer.rows("commit")
        await trio.sleep(2 * LIMIT)
        assert await one.peer.rows("select 'here'") == ["here"]


async def test_any_byte_is_a_sign_of_life(postgres: LocalPostgres) -> None:
    """A statement that comes in pieces keeps the transaction alive until it stops coming."""
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        await one.begin()
        for piece in _pieces(requests.query("select 'whole'"), 6):
            await one.peer.send(piece)
            await trio.sleep(LIMIT / 2)
        assert await told(one.peer) == selected("whole", status="T")
        await one.peer.rows("rollback")


def _pieces(data: bytes, count: int) -> Iterator[bytes]:
    size = -(-len(data) // count)
    return (data[at : at + size] for at in range(0, len(data), size))


@pytest.mark.parametrize("size", [20, 100_000, 3_000_000], ids=["short", "long", "very long"])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_half_a_message(postgres: LocalPostgres, protocol: str, size: int) -> None:
    """The server does not wait for the other half; when that comes, the statement gets 25P03."""
    value = "x" * size
    whole = requests.query(f"select '{value}'")
    if protocol == "extended":
        whole = requests.parse("", "select $1::text") + requests.bind("", value) + requests.execute() + SYNC
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        await one.begin()
        half = len(whole) - size // 2 - 10
        await one.peer.send(whole[:half])
        await one.freed()
        assert await one.written() == []
        answer = await replies(one.peer, whole[half:])
        ahead = [reply.tag for reply in answer[:-2]]
        assert ahead in ([], ["1"])  # the Parse was whole
        assert answer[-2:] == refused("25P03", "E")
        await fails_until_ended(one.peer)


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
async def test_a_pipeline_without_its_sync(postgres: LocalPostgres, in_transaction: bool) -> None:
    """What has been answered stays answered, and is rolled back; the rest of the group gets 25P03."""
    status = "E" if in_transaction else "I"
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        if in_transaction:
            await one.begin()
        await one.peer.send(extended(f"insert into {SINK} values ('never')") + requests.FLUSH)
        await expect(one.peer, *PARSED, Reply("C", "INSERT 0 1"))
        await one.freed()
        assert await one.written() == []
        await nothing_comes(one.peer, LIMIT / 3)
        assert await replies(one.peer, extended("select 1") + SYNC) == refused("25P03", status)
        if in_transaction:
            await fails_until_ended(one.peer)


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_result_that_is_not_read(postgres: LocalPostgres, protocol: str) -> None:
    """The server does not wait for the reader either: the result is cut by an error in its place, and the
    transaction is a failed one.
    """
    async with (
        limited(postgres, {"idle_in_transaction": "1s"}) as one,
        await slow_reader(one.running) as peer,
    ):
        await peer.rows("begin")
        await peer.rows(f"insert into {SINK} values ('never')")
        await peer.send(requests.query(BIG) if protocol == "simple" else extended(BIG) + SYNC)
        assert await peer.more()
        await one.freed()
        assert await one.written() == []
        answer = await told(peer)
        rows = [reply.content for reply in answer if reply.tag == "D"]
        assert set(rows) == {BIG_ROW}
        assert len(rows) < BIG_ROWS
        assert answer[-2].tag == "E"
        assert answer[-2].content in ("25P03", "57014")
        assert answer[-1] == Reply("Z", "E")
        await fails_until_ended(peer)
        assert await ask(peer, "select 'again'") == selected("again")


@pytest.mark.parametrize("limit", ["transaction", "idle_in_transaction"])
async def test_who_is_pinned_keeps_the_server(postgres: LocalPostgres, limit: str) -> None:
    """The transaction is rolled back on it, and what pins the client is still there."""
    sqlstate = {"transaction": "25P04", "idle_in_transaction": "25P03"}[limit]
    async with limited(postgres, {limit: SPAN}, pool_size=2) as one:
        peer, pool = one.peer, one.running.origin.pool
        await peer.rows("create temporary table mine (t text)")
        (pid,) = await peer.rows("select pg_backend_pid()")
        await peer.rows("begin")
        await peer.rows("insert into mine values ('never')")
        async with superuser(postgres) as watching:
            state = f"select state from pg_stat_activity where pid = {pid}"
            while await watching.rows(state) != ["idle"]:  # noqa: ASYNC110 (PostgreSQL tells nobody)
                await trio.sleep(0.01)
        assert pool.statistics().pinned == 1
        assert await ask(peer, "select * from mine") == refused(sqlstate, "E")
        await fails_until_ended(peer)
        assert await ask(peer, "select count(*) from mine") == selected("0")
        assert await ask(peer, "select pg_backend_pid()") == selected(pid)
        await peer.rows("begin; insert into mine values ('kept'); commit")
        assert await ask(peer, "select t from mine") == selected("kept")
        await peer.rows("drop table mine")


async def test_a_pinned_client_that_is_too_slow(postgres: LocalPostgres) -> None:
    """Its transaction's time is over while a statement runs: the same."""
    async with limited(postgres, {"transaction": SPAN}) as one:
        await one.peer.rows("create temporary table mine (t text)")
        await one.peer.rows("begin")
        await one.peer.rows("insert into mine values ('never')")
        assert await ask(one.peer, SLOW) == [Reply("T", "1"), *refused("25P04", "E")]
        await fails_until_ended(one.peer)
        assert await ask(one.peer, "select count(*) from mine") == selected("0")
        await one.peer.rows("drop table mine")


async def test_what_the_transaction_had_set_is_undone(postgres: LocalPostgres) -> None:
    """Settings, prepared statements and cursors are as after any ROLLBACK."""
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        peer = one.peer
        await peer.rows("set application_name = 'before'")
        await peer.send(requests.parse("kept", "select $1::text") + SYNC)
        assert await told(peer) == [Reply("1"), Reply("Z", "I")]
        await peer.rows("begin")
        await peer.rows("set application_name = 'within'")
        await peer.rows("declare c cursor for select 1")
        await one.freed()
        assert await ask(peer, "fetch c") == refused("25P03", "E")
        await fails_until_ended(peer)
        assert await ask(peer, "show application_name") == [
            *(Reply("T", "1"), Reply("D", "before"), Reply("C", "SHOW"), Reply("Z", "I"))
        ]
        assert await ask(peer, "fetch c") == refused("34000")
        bound = requests.bind("kept", "here") + requests.execute() + SYNC
        assert await replies(peer, bound) == [
            *(Reply("2"), Reply("D", "here"), Reply("C", "SELECT 1"), Reply("Z", "I"))
        ]
        await peer.rows("reset application_name")
