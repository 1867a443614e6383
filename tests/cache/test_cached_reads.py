"""Answers from memory: the same bytes as PostgreSQL's, over with the first write that could change them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.peer import cancel
from tests.support import requests
from tests.support.caching import PATIENCE, SETUP, bound, caching, prepared, unnamed
from tests.support.requests import Reply
from tests.support.serving import direct
from tests.support.talk import ask, done, refused, replies, selected, told
from tests.support.target import PASSWORD, USER
from trio_pool.cache.statuses import Status

if TYPE_CHECKING:
    from tests.support.caching import Caching
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

READ = "SELECT value FROM kept WHERE id = 1"
SLOWLY = """
CREATE OR REPLACE FUNCTION slowly(value text, seconds float8) RETURNS text IMMUTABLE LANGUAGE plpgsql
  AS 'BEGIN PERFORM pg_sleep(seconds); RETURN value; END';
"""


KILL = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'"


def kept_keys(shared: Caching) -> list[bytes]:
    """What answers are found by."""
    return [entry.key for entry in shared.cached.store._ring]


@pytest.mark.parametrize("protocol", ["simple", "unnamed", "prepared"])
async def test_the_second_answer_is_the_first(postgres: LocalPostgres, protocol: str) -> None:
    """Byte for byte, for every protocol; and PostgreSQL is not asked."""
    sql = "SELECT id, value FROM kept WHERE id = $1"
    ways: dict[str, bytes | str] = {
        "simple": READ,
        "unnamed": unnamed(sql, "1"),
        "prepared": bound("s", "1"),
    }
    request = ways[protocol]
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await replies(peer, prepared("s", sql))
        first, _ = await shared.asked(peer, request)
        kept = await shared.keep(peer, request)
        assert first == kept
        leases = shared.running.origin.pool.leases
        for _ in range(5):
            assert await shared.asked(peer, request) == (first, Status.HIT)
        assert shared.running.origin.pool.leases == leases


async def test_a_write_ends_what_was_kept(postgres: LocalPostgres) -> None:
    """Whoever asks after a commit was acknowledged gets what was committed."""
    async with (
        caching(postgres) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in() as writer,
    ):
        await shared.keep(reader, READ)
        for number in range(20):
            assert await ask(writer, f"UPDATE kept SET value = 'n {number}' WHERE id = 1") == done("UPDATE 1")
            assert await ask(reader, READ) == selected(f"n {number}")
            assert await ask(writer, READ) == selected(f"n {number}")


async def test_what_a_transaction_writes_ends_answers_when_it_is_committed(postgres: LocalPostgres) -> None:
    """Until then the others read what is committed; from then on nobody reads anything older."""
    async with (
        caching(postgres) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in() as writer,
    ):
        await shared.keep(reader, READ)
        await ask(writer, "BEGIN")
        await ask(writer, "UPDATE kept SET value = 'new' WHERE id = 1")
        assert await ask(reader, READ) == selected("value 1")
        assert await ask(writer, READ) == selected("new", status="T")
        await ask(writer, "COMMIT")
        assert await ask(reader, READ) == selected("new")


async def test_a_read_that_began_before_a_write_is_not_kept(postgres: LocalPostgres) -> None:
    """Its answer is as old as its beginning: whoever asks later must not get it."""
    read = "SELECT slowly(value, 0.3) FROM kept WHERE id = 1"
    async with (
        caching(postgres, setup=SETUP + SLOWLY) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in() as writer,
    ):
        await shared.keep(reader, read)
        await ask(writer, "UPDATE kept SET value = 'newer' WHERE id = 1")
        await reader.send(requests.query(read))
        await shared.running.until(lambda: len(shared.running.origin.pool.leased) == 1)
        await trio.sleep(0.05)  # it has its snapshot
        await ask(writer, "UPDATE kept SET value = 'newest' WHERE id = 1")
        assert await told(reader) == selected("newer")
        assert await ask(reader, read) == selected("newest")
        assert shared.cached.statistics.overtaken >= 1


@pytest.mark.parametrize(
    "setting", ["TimeZone", "DateStyle", "bytea_output", "search_path", "extra_float_digits"]
)
async def test_settings_that_change_answers_keep_them_apart(postgres: LocalPostgres, setting: str) -> None:
    """Each gets what its own session would get."""
    values = {
        "TimeZone": ("'Europe/Berlin'", "'Asia/Tokyo'"),
        "DateStyle": ("'ISO, DMY'", "'SQL, MDY'"),
        "bytea_output": ("'hex'", "'escape'"),
        "search_path": ("one", "other"),
        "extra_float_digits": ("1", "-3"),
    }[setting]
    setup = """
    DROP SCHEMA IF EXISTS one, other CASCADE; CREATE SCHEMA one; CREATE SCHEMA other;
    CREATE TABLE one.things AS SELECT timestamptz '2026-01-02 03:04:05Z' AS t, 'a\\001'::bytea AS b,
      1.23456789::float8 AS f, 'one' AS s;
    CREATE TABLE other.things AS SELECT t, b, f, 'other' AS s FROM one.things;
    """
    read = (
        "SELECT t, b, f, s FROM things" if setting == "search_path" else "SELECT t, b, f, s FROM one.things"
    )
    async with (
        caching(postgres, setup=setup) as shared,
        direct(postgres) as oracle,
        await shared.running.log_in() as peer,
    ):
        for value in (*values, *values):
            for session in (peer, oracle):
                await ask(session, f"SET {setting} = {value}")
            expected = await ask(oracle, read)
            assert await shared.keep(peer, read) == expected


async def test_who_only_calls_himself_otherwise_shares_answers(postgres: LocalPostgres) -> None:
    """The name of the application, or a time limit, changes no answer."""
    async with caching(postgres) as shared, await shared.running.log_in() as first:
        await shared.keep(first, READ)
        async with await shared.running.log_in(application_name="other") as second:
            await ask(second, "SET statement_timeout = '10s'")
            await ask(second, "select 1")
            assert await shared.asked(second, READ) == (selected("value 1"), Status.HIT)


async def test_roles_do_not_see_each_others_answers(postgres: LocalPostgres) -> None:
    """Who may not read a table gets PostgreSQL's refusal, whatever was kept for others."""
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await ask(shared.direct, "DROP ROLE IF EXISTS nobody")
        await ask(shared.direct, "CREATE ROLE nobody; GRANT nobody TO app")
        await shared.keep(peer, READ)
        await ask(peer, "SET ROLE nobody")
        for _ in range(3):
            assert await ask(peer, READ) == refused("42501")
        await ask(peer, "RESET ROLE")
        assert await shared.keep(peer, READ) == selected("value 1")
        await ask(shared.direct, "DROP ROLE nobody")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT now()",
        "SELECT current_timestamp, id FROM kept WHERE id = 1",
        "SELECT random()",
        "SELECT current_setting('TimeZone')",
        "SELECT pg_backend_pid()",
        "SELECT count(*) FROM pg_class",
        "SELECT count(*) FROM information_schema.tables",
        "SELECT value FROM kept WHERE id = 1 FOR UPDATE",
        "SELECT nextval('counter')",
        "SELECT last_value FROM counter",
        "SELECT value FROM kept TABLESAMPLE BERNOULLI (100) WHERE id = 1",
        "SELECT volatile_one(id) FROM kept WHERE id = 1",
        "SELECT stable_one(id) FROM kept WHERE id = 1",
        "SELECT 'now'::timestamptz",
        "SHOW server_version",
        "SELECT 1; SELECT 2",
        "SELECT * FROM missing",
        "/* trio-pool: cache=off */ SELECT value FROM kept WHERE id = 1",
    ],
)
async def test_what_depends_on_more_than_tables_is_not_kept(postgres: LocalPostgres, sql: str) -> None:
    """On the time, on chance, on who asks, on catalogs, on what nobody can know."""
    setup = (
        SETUP
        + """
    DROP SEQUENCE IF EXISTS counter; CREATE SEQUENCE counter;
    CREATE OR REPLACE FUNCTION volatile_one(int) RETURNS text LANGUAGE sql AS 'SELECT random()::text';
    CREATE OR REPLACE FUNCTION stable_one(int) RETURNS text STABLE LANGUAGE plpgsql
      AS 'BEGIN RETURN now(); END';
    """
    )
    async with caching(postgres, setup=setup) as shared, await shared.running.log_in() as peer:
        with trio.fail_after(PATIENCE):
            while (await shared.asked(peer, sql))[1] is Status.UNKNOWN:
                await ask(peer, "select 1")  # the catalog is asked when a lease ends
        for _ in range(3):
            await ask(peer, sql)
        assert {key[5:].rstrip(b"\0") for key in kept_keys(shared)} <= {b"select 1"}


async def test_a_comment_is_no_function_call(postgres: LocalPostgres) -> None:
    """Texts are parsed, not searched."""
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, "/* now() */ SELECT value FROM kept WHERE id = 1 -- random()")


@pytest.mark.parametrize("way", ["simple", "pipeline"])
async def test_a_client_reads_what_it_has_just_written(postgres: LocalPostgres, way: str) -> None:
    """In the next message, or in the same write."""
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, READ)
        for number in range(10):
            write = requests.query(f"UPDATE kept SET value = '{number}' WHERE id = 1")
            if way == "pipeline":
                answers = await replies(peer, write + requests.query(READ), 2)
                assert answers[-4:] == selected(f"{number}")
            else:
                await peer.send(write)
                await peer.send(requests.query(READ))
                assert (await told(peer, 2))[-4:] == selected(f"{number}")


async def test_the_unnamed_statement_is_what_it_would_be(postgres: LocalPostgres) -> None:
    """A Parse that was answered from memory has prepared it, a Query has dropped it."""
    sql = "SELECT value FROM kept WHERE id = $1"
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, READ)
        await shared.keep(peer, unnamed(sql, "1"))
        await ask(peer, "SELECT 2 AS another")
        assert (await shared.asked(peer, unnamed(sql, "1")))[1] is Status.HIT
        assert await replies(peer, bound("", "2")) == [Reply("2"), *selected("value 2")[1:]]
        assert (await shared.asked(peer, READ))[1] is Status.HIT
        assert await replies(peer, bound("", "2")) == refused("26000")


async def test_prepared_statements_share_by_content(postgres: LocalPostgres) -> None:
    """Whatever each client calls them; the parameters decide, and their formats."""
    sql = "SELECT value FROM kept WHERE id = $1"
    async with (
        caching(postgres) as shared,
        await shared.running.log_in() as one,
        await shared.running.log_in() as other,
    ):
        await replies(one, prepared("s", sql))
        await replies(other, prepared("t", sql))
        await shared.keep(one, bound("s", "1"))
        assert await shared.asked(other, bound("t", "1")) == (
            [Reply("2"), *selected("value 1")[1:]],
            Status.HIT,
        )
        assert (await shared.asked(other, bound("t", "2")))[0] == [Reply("2"), *selected("value 2")[1:]]


@pytest.mark.parametrize(
    "request_",
    [
        requests.bind("s", "1") + requests.execute("", 1) + requests.SYNC,
        requests.bind("s", "1", portal="p") + requests.execute("p") + requests.SYNC,
        requests.bind("s", "1") + requests.execute() + requests.execute() + requests.SYNC,
        requests.bind("s", "1") + requests.execute() + requests.SYNC + requests.SYNC,
    ],
)
async def test_parts_of_results_are_not_kept(postgres: LocalPostgres, request_: bytes) -> None:
    """Row limits, named portals, pipelines."""
    async with caching(postgres) as shared, await shared.running.log_in() as peer:
        await replies(peer, prepared("s", "SELECT value FROM kept WHERE id = $1"))
        for _ in range(5):
            await replies(peer, request_, request_.count(requests.SYNC))
        assert shared.cached.statistics.stored == 0
        assert shared.hits == 0


async def test_answers_age(postgres: LocalPostgres) -> None:
    """Past `max_age` the next asks PostgreSQL again, if stale answers are not wanted."""
    cache = {"max_age": "200ms", "stale_while_revalidate": "0", "invalidation": "ttl"}
    async with caching(postgres, cache=cache) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, READ)
        await ask(shared.direct, "UPDATE kept SET value = 'elsewhere' WHERE id = 1")
        with trio.fail_after(5):
            while await ask(peer, READ) == selected("value 1"):
                pass
        assert await ask(peer, READ) == selected("elsewhere")


@pytest.mark.parametrize("protocol", ["simple", "unnamed", "prepared"])
async def test_a_stale_answer_serves_while_a_new_one_is_fetched(
    postgres: LocalPostgres, protocol: str
) -> None:
    """On a lease of the pooler's own; under the settings and with the statement that it was for."""
    cache = {"max_age": "100ms", "stale_while_revalidate": "1h", "invalidation": "ttl"}
    sql = "SELECT value, timestamptz '2026-01-01 00:00:00Z' FROM kept WHERE id = $1"
    simple = sql.replace("$1", "1")
    ways: dict[str, bytes | str] = {
        "simple": simple,
        "unnamed": unnamed(sql, "1"),
        "prepared": bound("s", "1"),
    }
    request = ways[protocol]
    async with caching(postgres, cache=cache) as shared, await shared.running.log_in() as peer:
        await ask(peer, "SET TimeZone = 'Asia/Tokyo'")
        await replies(peer, prepared("s", sql))
        old = await shared.keep(peer, request)
        await ask(shared.direct, "UPDATE kept SET value = 'new' WHERE id = 1")
        entry = next(one for one in shared.cached.store._ring if b"2026" in one.reply)
        entry.fresh_until = 0.0
        assert await shared.asked(peer, request) == (old, Status.STALE)
        await shared.running.until(lambda: shared.cached.statistics.revalidated == 1)
        new, status = await shared.asked(peer, request)
        assert status in (Status.HIT, Status.STALE)
        (row,) = (reply.content for reply in new if reply.tag == "D")
        assert row.startswith("new")
        assert row.endswith("2026-01-01 09:00:00+09")


async def test_one_asks_for_all(postgres: LocalPostgres) -> None:
    """While an answer is under way, others wait for it instead of asking, too."""
    read = "SELECT slowly(value, 0.2) FROM kept WHERE id = 1"
    async with caching(postgres, setup=SETUP + SLOWLY) as shared:
        peers = [await shared.running.log_in() for _ in range(16)]
        await shared.keep(peers[0], read)
        await ask(peers[0], "UPDATE kept SET value = 'again' WHERE id = 1")
        await shared.settled()
        leases = shared.running.origin.pool.leases
        for peer in peers:
            await peer.send(requests.query(read))
        for peer in peers:
            assert await told(peer) == selected("again")
        assert shared.running.origin.pool.leases == leases + 1
        assert shared.count(Status.SHARED) == 15
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("end", ["cancel", "close", "terminate"])
async def test_when_the_asker_goes_the_others_ask_themselves(postgres: LocalPostgres, end: str) -> None:
    """Whatever becomes of it: an error of its own is nobody else's."""
    read = f"SELECT slowly(value, {1.5 if end == 'cancel' else 0.3}) FROM kept WHERE id = 1"
    async with caching(postgres, setup=SETUP + SLOWLY) as shared:
        leader, *others = [await shared.running.log_in() for _ in range(4)]
        await shared.keep(leader, read)
        await ask(leader, "UPDATE kept SET value = 'again' WHERE id = 1")
        await shared.settled()
        await leader.send(requests.query(read))
        await shared.running.until(lambda: bool(shared.running.origin.pool.leased))
        for peer in others:
            await peer.send(requests.query(read))
        await shared.running.until(lambda: shared.count(Status.SHARED) == 3)
        if end == "cancel":
            await cancel(leader.address, leader.process_id, leader.secret)
            assert (await told(leader))[-2:] == refused("57014")
        elif end == "terminate":
            await leader.send(requests.TERMINATE)
        leader.close()
        for peer in others:
            assert await told(peer) == selected("again")
            peer.close()


async def test_who_waits_for_anothers_answer_can_be_cancelled(postgres: LocalPostgres) -> None:
    """Like who waits for a server, and may go on with something else."""
    read = "SELECT slowly(value, 0.3) FROM kept WHERE id = 1"
    async with (
        caching(postgres, setup=SETUP + SLOWLY) as shared,
        await shared.running.log_in() as leader,
        await shared.running.log_in() as other,
    ):
        await shared.keep(leader, read)
        await ask(leader, "UPDATE kept SET value = 'again' WHERE id = 1")
        await shared.settled()
        await leader.send(requests.query(read))
        await shared.running.until(lambda: bool(shared.running.origin.pool.leased))
        await other.send(requests.query(read))
        await shared.running.until(lambda: shared.count(Status.SHARED) == 1)
        await cancel(other.address, other.process_id, other.secret)
        assert await told(other) == refused("57014")
        assert await ask(other, "SELECT 3") == selected("3")
        assert await told(leader) == selected("again")


async def test_what_comes_behind_a_shared_request_is_answered_behind_it(postgres: LocalPostgres) -> None:
    """In order, though it has come while the answer was waited for."""
    read = "SELECT slowly(value, 0.2) FROM kept WHERE id = 1"
    async with (
        caching(postgres, setup=SETUP + SLOWLY) as shared,
        await shared.running.log_in() as leader,
        await shared.running.log_in() as other,
    ):
        await shared.keep(leader, read)
        await ask(leader, "UPDATE kept SET value = 'again' WHERE id = 1")
        await shared.settled()
        await leader.send(requests.query(read))
        await shared.running.until(lambda: bool(shared.running.origin.pool.leased))
        await other.send(requests.query(read))
        await shared.running.until(lambda: shared.count(Status.SHARED) == 1)
        await other.send(requests.query("SELECT 'behind'") + requests.query("SELECT 'last'"))
        assert await told(other, 3) == selected("again") + selected("behind") + selected("last")


async def test_large_results_pass_and_are_not_kept(postgres: LocalPostgres) -> None:
    """Past `max_result_size`; whoever waited for one asks himself."""
    read = "SELECT repeat(value, 2000) FROM kept ORDER BY id"
    async with (
        caching(postgres, cache={"max_result_size": "100kB"}) as shared,
        await shared.running.log_in() as peer,
    ):
        while not shared.count(Status.OVERSIZED_RESULT):
            answer = await ask(peer, read)
            assert len(answer) == 103
            await ask(peer, "select 1")
        assert shared.cached.store.size < 10_000


async def test_a_dry_run_counts_and_answers_nothing(postgres: LocalPostgres) -> None:
    """What would have been a hit is asked all the same."""
    async with caching(postgres, cache={"dry_run": True}) as shared, await shared.running.log_in() as peer:
        while shared.count(Status.DRY_HIT) < 10:
            await ask(peer, READ)
            await ask(peer, "select 1")
        assert shared.hits == 0
        await ask(shared.direct, "UPDATE kept SET value = 'elsewhere' WHERE id = 1")
        assert await ask(peer, READ) == selected("elsewhere")


async def test_verification_finds_what_is_stale(postgres: LocalPostgres) -> None:
    """A sample of the hits is asked again; what differs is counted, told and replaced."""
    async with caching(postgres, cache={"verify": 1}) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, READ)
        await ask(peer, READ)
        await shared.running.until(lambda: shared.cached.statistics.verified > 0)
        assert shared.cached.statistics.differed == 0
        await ask(shared.direct, "UPDATE kept SET value = 'elsewhere' WHERE id = 1")
        await ask(peer, READ)
        await shared.running.until(lambda: shared.cached.statistics.differed == 1)
        assert shared.running.log.find("a kept answer differs from the database's")
        assert await shared.asked(peer, READ) == (selected("elsewhere"), Status.HIT)


async def test_a_user_can_do_without(postgres: LocalPostgres) -> None:
    """`users.NAME.cache = false`: its reads are PostgreSQL's; its writes still end others' answers."""
    users = {USER: {"password": PASSWORD, "cache": False}}
    async with caching(postgres, users=users) as shared, await shared.running.log_in() as peer:
        for _ in range(5):
            await ask(peer, READ)
        assert not shared.cached.statistics.statuses()[Status.HIT]
        before = shared.cached.freshness.invalidations
        await ask(peer, "UPDATE kept SET value = 'x' WHERE id = 1")
        assert shared.cached.freshness.invalidations > before


async def test_a_lost_connection_leaves_a_doubt(postgres: LocalPostgres) -> None:
    """Nobody knows whether the write was committed: what it may have changed is not kept for a while."""
    async with (
        caching(postgres) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in() as writer,
    ):
        await shared.keep(reader, READ)
        await ask(writer, "BEGIN")
        await ask(writer, "UPDATE kept SET value = 'x' WHERE id = 1")
        await ask(
            shared.direct,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction'",
        )
        await shared.running.until(lambda: shared.running.log.find("server disconnected") != [])
        for _ in range(5):
            answer, status = await shared.asked(reader, READ)
            assert answer == selected("value 1")
            assert status is not Status.HIT
        stored = shared.cached.statistics.stored
        await ask(reader, READ)
        assert shared.cached.statistics.stored == stored
