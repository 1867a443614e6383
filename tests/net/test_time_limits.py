"""The limit of a query in each situation, with a real PostgreSQL: what the client gets, and that neither it
nor the server loses its connection (tests/support/limited.py sees to the latter).
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
from tests.support.requests import Reply, read_replies
from tests.support.serving import direct, superuser
from tests.support.talk import (
    ask,
    done,
    expect,
    extended,
    next_message,
    nothing_comes,
    refused,
    replies,
    selected,
    told,
)
from tests.support.transcripts import Conversation, held, synced
from trio_pool.wire import messages

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

COPY = f"copy {SINK} from stdin"
LOCK = "pg_advisory_xact_lock(815)"


# -- query ---------------------------------------------------------------------------------------------------


LOCK_WAIT = f"select 'locked' from {LOCK}"
IN_QUERY = [
    Conversation.of("simple", SLOW),
    Conversation.of("extended", synced(extended(SLOW))),
    Conversation.of(
        "described",
        synced(
            requests.parse("s", SLOW),
            requests.describe("s"),
            requests.bind("s"),
            requests.describe_portal(),
            requests.execute(),
        ),
    ),
    Conversation.of("several in a Query", f"select 'before'; {SLOW}; select 'never'"),
    Conversation.of(
        "a group with others", synced(extended("select 'before'"), extended(SLOW), extended("selec"))
    ),
    Conversation.of("a COPY to the client", f"copy ({SLOW}) to stdout"),
    Conversation.of("a DO", "do $$ begin perform pg_sleep(30); end $$"),
    Conversation.of("what SQL prepared", f"prepare p as {SLOW}", "execute p", "execute p", "deallocate p"),
    Conversation.of("a lock", LOCK_WAIT),
    Conversation.of("a transaction", "begin", SLOW, "select 1", "rollback", "select 2"),
    Conversation.of("a transaction, COMMIT", "begin", SLOW, "commit", "select 2"),
    Conversation.of(
        "a transaction, extended", "begin", synced(extended(SLOW)), synced(extended("select 1")), "end"
    ),
    Conversation.of(
        "what a portal gives", "begin", synced(extended("select 1")), synced(extended(SLOW)), "abort"
    ),
    Conversation.of("a cursor", "begin", f"declare c cursor for {SLOW}", "fetch c", "rollback"),
    Conversation.of("BEGIN in the same Query", f"begin; {SLOW}; select 3", "rollback"),
    Conversation.of("BEGIN in the same group", synced(extended("begin"), extended(SLOW)), "rollback"),
    Conversation.of(
        "back to a savepoint",
        *(
            "begin",
            f"insert into {SINK} values ('kept')",
            "savepoint s",
            f"insert into {SINK} values ('lost')",
        ),
        *(SLOW, "select 1", "rollback to s", f"select t from {SINK}", LOCK_WAIT, "rollback to s"),
        *(f"select t from {SINK}", "release s", "commit", f"delete from {SINK}"),
    ),
    Conversation.of(
        "queries behind it",
        b"".join(map(requests.query, ("select 'before'", SLOW, "select 'behind'", "selec"))),
    ),
    Conversation.of(
        "groups behind it",
        synced(extended("select 'before'"))
        + synced(extended(SLOW), extended("select 'skipped'"))
        + synced(extended("select 'behind'"))
        + requests.query("select 'and simple'"),
    ),
    Conversation.of(
        "a transaction in one write",
        b"".join(map(requests.query, ("begin", "select 1", SLOW, "select 2", "rollback", "select 3"))),
    ),
    Conversation.of(
        "two slow ones in one write", b"".join(map(requests.query, (SLOW, "select 1", SLOW, "select 2")))
    ),
    Conversation.of(
        "a transaction of groups in one write",
        synced(extended("begin"), extended("select 1"))
        + synced(extended(SLOW))
        + synced(extended("select 2"))
        + synced(extended("commit"))
        + synced(extended("select 3")),
    ),
    Conversation.of("many that are short enough", b"".join([requests.query(SLEEPS)] * 4)),
    Conversation.of("many groups that are short enough", synced(extended(SLEEPS)) * 4),
    Conversation.of("a transaction that is long enough", "begin", *([SLEEPS] * 4), "commit"),
]


@pytest.mark.parametrize("conversation", IN_QUERY, ids=str)
async def test_a_query_ends_as_by_statement_timeout(
    postgres: LocalPostgres, conversation: Conversation
) -> None:
    """57014 in its place, and everything behind it as on a direct connection under PostgreSQL's own
    `statement_timeout`.
    """
    async with superuser(postgres) as locker:
        assert await locker.rows(f"begin; select 1 from {LOCK}") == ["1"]
        async with limited(postgres, {"query": SPAN}) as one, direct(postgres) as peer:
            await peer.rows(f"set statement_timeout = '{SPAN}'")
            expected = read_replies(
                b"".join(messages.message(*message) for message in await held(peer, conversation))
            )
            actual = await held(one.peer, conversation)
            assert read_replies(b"".join(messages.message(*message) for message in actual)) == expected


async def test_what_a_query_timeout_says(postgres: LocalPostgres) -> None:
    """An ERROR that names the limit, so that nobody looks for the one who cancelled."""
    async with limited(postgres, {"query": SPAN}) as one:
        started = trio.current_time()
        (error,) = await one.peer.run(SLOW)
        took = trio.current_time() - started
        assert (error.severity, error.sqlstate) == ("ERROR", "57014")
        assert error.summary == "canceling statement due to query timeout"
        assert took >= LIMIT


async def test_a_group_is_one_statement(postgres: LocalPostgres) -> None:
    """Statements up to a Sync have the time of one; what was answered before stays answered, and nothing of
    the group is committed.
    """
    async with limited(postgres, {"query": SPAN}) as one:
        group = extended(f"insert into {SINK} values ('never')") + extended(SLEEPS) * 5
        actual = await replies(one.peer, group + SYNC)
        assert actual[:3] == [*PARSED, Reply("C", "INSERT 0 1")]
        assert actual[-2:] == refused("57014")
        assert [reply.content for reply in actual if reply.tag == "D"] in (["short"], ["short"] * 2)


async def test_the_wait_for_a_server_is_not_the_query(postgres: LocalPostgres) -> None:
    """Whoever waited for a lease for longer than the limit has all of it left."""
    async with limited(postgres, {"query": SPAN}) as one, await one.running.log_in() as holder:
        await holder.rows("begin")
        await holder.rows("select 1")
        await one.peer.send(requests.query(SLEEPS))
        await one.running.until(lambda: len(one.running.origin.pool.waiting) == 1)
        await trio.sleep(2 * LIMIT)
        await holder.rows("commit")
        assert await one.peer.read_rows() == ["short"]


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_slow_reader_is_not_a_slow_query(postgres: LocalPostgres, protocol: str) -> None:
    """The time for which an answer waits to be read does not count."""
    async with limited(postgres, {"query": "1s"}) as one, await slow_reader(one.running) as peer:
        await peer.send(requests.query(BIG) if protocol == "simple" else extended(BIG) + SYNC)
        assert await peer.more()
        await trio.sleep(2)
        rows = await peer.read_rows()
        assert (len(rows), set(rows)) == (BIG_ROWS, {BIG_ROW})


# -- COPY FROM STDIN -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_transaction", [False, True], ids=["alone", "in a transaction"])
@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("protocol", ["simple", "extended"])
@pytest.mark.parametrize("limit", ["query", "idle_in_transaction"])
async def test_a_stalled_copy_is_ended(
    postgres: LocalPostgres, limit: str, protocol: str, rows: int, in_transaction: bool
) -> None:
    """57014 in its place, as when PostgreSQL breaks off a COPY; what of it still comes is ignored, in the
    extended protocol up to Sync.
    """
    status = "E" if in_transaction else "I"
    data = requests.copy_data(b"never\n")
    async with limited(postgres, {limit: SPAN}) as one:
        peer = one.peer
        if in_transaction:
            await one.begin()
        if protocol == "simple":
            await peer.send(requests.query(COPY))
        else:
            await peer.send(extended(COPY) + requests.FLUSH)
            await expect(peer, *PARSED)
        await expect(peer, Reply("G"))
        await peer.send(data * rows)
        if protocol == "simple":
            await expect(peer, *refused("57014", status))
        else:
            await expect(peer, Reply("E", "57014"))
        await nothing_comes(peer, LIMIT / 3)
        await peer.send(data * 2 + requests.COPY_DONE)
        if protocol == "extended":
            assert await replies(peer, SYNC) == [Reply("Z", status)]
        if in_transaction:
            await fails_until_ended(peer)
        assert await ask(peer, f"select count(*) from {SINK}") == selected("0")


@pytest.mark.parametrize("protocol", ["simple", "extended"])
async def test_a_stalled_copy_has_been_written_ahead(postgres: LocalPostgres, protocol: str) -> None:
    """Its end and the next statement may be on their way when it is ended: each is answered once."""
    async with limited(postgres, {"query": SPAN}) as one:
        peer = one.peer
        begun = requests.query(COPY) if protocol == "simple" else extended(COPY) + requests.FLUSH
        await peer.send(begun)
        await trio.sleep(2 * LIMIT)
        rest = requests.copy_data(b"never\n") + requests.COPY_DONE
        if protocol == "extended":
            rest += SYNC
        await peer.send(rest + requests.query("select 'next'"))
        ahead = [] if protocol == "simple" else PARSED
        assert await told(peer, 2) == [*ahead, Reply("G"), *refused("57014"), *selected("next")]


async def test_a_copy_that_goes_on_is_one_statement(postgres: LocalPostgres) -> None:
    """The query limit counts it as a whole; the idle limit counts from its last byte."""
    data = requests.copy_data(b"row\n")
    async with limited(postgres, {"query": SPAN}) as one:
        await one.peer.send(requests.query(COPY))
        await expect(one.peer, Reply("G"))
        message = None
        with trio.move_on_after(10 * LIMIT):
            while message is None:
                await one.peer.send(data)
                with trio.move_on_after(LIMIT / 5):
                    message = await next_message(one.peer)
        assert message == Reply("E", "57014")
        await expect(one.peer, Reply("Z", "I"))
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one:
        await one.peer.rows("begin")
        await one.peer.send(requests.query(COPY))
        await expect(one.peer, Reply("G"))
        for _ in range(6):
            await one.peer.send(data)
            await trio.sleep(LIMIT / 2)
        assert await replies(one.peer, requests.COPY_DONE) == done("COPY 6", "T")
        assert await ask(one.peer, "rollback") == done("ROLLBACK")
