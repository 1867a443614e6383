"""Reads that are sent ahead of their turn: who may, whose answer is whose, and that nobody notices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.support import requests
from tests.support.ahead import BLOCKED, OPEN, sharing
from tests.support.requests import Reply
from tests.support.serving import superuser
from tests.support.talk import (
    ask,
    done,
    executed,
    extended,
    nothing_comes,
    replies,
    selected,
    told,
)
from tests.support.target import DATABASE, USER
from trio_pool.net import queue_ahead
from trio_pool.wire import messages

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from tests.support.ahead import Sharing
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SYNC = requests.SYNC
FIRST = "select 'first'"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Nobody looks for another server because of the time, unless a test is about that."""
    monkeypatch.setattr(queue_ahead, "PATIENCE", 0.0 if "hedged" in request.node.name else 1e9)


async def settled(shared: Sharing, peer: Peer) -> None:
    """Return when its request waits, for a server or for its turn."""
    client = shared.client(peer)
    await shared.running.until(lambda: client.waits or client.queued is not None)


# -- the order of things -------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["simple", "extended", "prepared"])
async def test_each_gets_its_own_answer_in_turn(postgres: LocalPostgres, protocol: str) -> None:
    """Eight behind one: all of them are sent at once, and each answer is its client's."""
    async with sharing(postgres) as shared, await shared.running.log_in() as holder:
        peers = [await shared.running.log_in() for _ in range(8)]

        def request(number: int) -> bytes:
            if protocol == "simple":
                return requests.query(f"select {number}")
            if protocol == "extended":
                return extended("select $1::text", str(number)) + SYNC
            return requests.bind("s", str(number)) + requests.execute() + SYNC

        for number, peer in enumerate(peers):
            if protocol == "prepared":
                await replies(peer, requests.parse("s", "select $1::text") + SYNC)
            await shared.know(peer, request(number))
        await shared.hold(holder)
        for number, peer in enumerate(peers):
            await peer.send(request(number))
        await shared.queued(*peers)
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        for number, peer in enumerate(peers):
            row = str(number)
            expected = {
                "simple": selected(row),
                "extended": [*executed(row), Reply("Z", "I")],
                "prepared": [*executed(row)[1:], Reply("Z", "I")],
            }
            assert await told(peer) == expected[protocol]
            await peer.stream.aclose()
        assert shared.ahead.statistics.queued == 8


async def test_a_transaction_that_was_begun_without_a_server_is_none_of_it(postgres: LocalPostgres) -> None:
    """The statement behind a BEGIN that was answered at once needs a lease, whatever it reads."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as peer,
    ):
        await shared.know(peer, requests.query(FIRST))
        await shared.hold(holder)
        assert await ask(peer, "begin") == done("BEGIN", "T")
        await peer.send(requests.query(FIRST))
        await shared.running.until(
            lambda: shared.client(peer).waits or shared.client(peer).queued is not None
        )
        assert shared.client(peer).queued is None
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)
        assert await told(peer) == selected("first", status="T")
        assert await ask(peer, "insert into ahead_log values ('never')") == done("INSERT 0 1", "T")
        assert await ask(peer, "rollback") == done("ROLLBACK")
        assert await peer.rows("select count(*) from ahead_log") == ["0"]


async def test_the_statement_ahead_has_begun_a_transaction(postgres: LocalPostgres) -> None:
    """Nobody queues behind a statement in a transaction."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as peer,
    ):
        await shared.know(peer, requests.query(FIRST))
        await shared.gate.close()
        assert await ask(holder, "begin") == done("BEGIN", "T")
        await holder.send(requests.query(BLOCKED))
        await shared.gate.waits()
        await peer.send(requests.query(FIRST))
        await shared.running.until(lambda: shared.client(peer).waits)
        assert shared.client(peer).queued is None
        await shared.gate.open()
        assert await told(holder) == selected(OPEN, status="T")
        assert await ask(holder, "commit") == done("COMMIT")
        assert await told(peer) == selected("first")


async def test_what_comes_while_it_waits_is_kept_in_order(postgres: LocalPostgres) -> None:
    """Of a client in front and one behind: what they send meanwhile is answered afterwards, in order."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as peer,
    ):
        await shared.know(peer, requests.query(FIRST))
        await shared.hold(holder)
        await peer.send(requests.query(FIRST))
        await shared.queued(peer)
        for one in (holder, peer):
            await one.send(requests.query("begin") + requests.query("select 'second'"))
            await one.send(extended("select $1::text", "third") + SYNC)
            await one.send(requests.query("commit") + requests.query("select 'last'"))
        await nothing_comes(holder, 0.05)
        await shared.gate.open()
        for one, first in ((holder, OPEN), (peer, "first")):
            assert await told(one, 6) == [
                *(*selected(first), *done("BEGIN", "T"), *selected("second", status="T")),
                *(*executed("third"), Reply("Z", "T"), *done("COMMIT"), *selected("last")),
            ]


@pytest.mark.parametrize("who", ["ahead", "behind"])
async def test_terminate_while_it_waits(postgres: LocalPostgres, who: str) -> None:
    """The statement is done first, as PostgreSQL does, and nobody else notices."""
    async with (
        sharing(postgres) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as peer,
        await shared.running.log_in() as last,
    ):
        await shared.know(peer, requests.query(FIRST))
        await shared.hold(holder)
        for one in (peer, last):
            await one.send(requests.query(FIRST))
            await shared.queued(one)
        leaver, answer = (holder, OPEN) if who == "ahead" else (peer, "first")
        await leaver.send(requests.TERMINATE)
        await shared.gate.open()
        assert await told(leaver) == selected(answer)
        assert await leaver.at_end()
        for one in {holder, peer, last} - {leaver}:
            assert (await told(one))[1:2] == [Reply("D", OPEN if one is holder else "first")]


async def test_nobody_overtakes_a_transaction(postgres: LocalPostgres) -> None:
    """A transaction that waits gets the next server, though there are always readers."""
    async with sharing(postgres) as shared, await shared.running.log_in() as writer:
        enough = trio.Event()

        async def read(number: int) -> None:
            async with await shared.running.log_in() as peer:
                while not enough.is_set():
                    assert await peer.rows(f"select {number}") == [str(number)]

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(read, number)
            await shared.running.until(lambda: shared.ahead.statistics.queued > 50)
            for _ in range(5):
                assert await ask(writer, "begin") == done("BEGIN", "T")
                assert await ask(writer, "insert into ahead_log values ('x')") == done("INSERT 0 1", "T")
                assert await ask(writer, "rollback") == done("ROLLBACK")
            enough.set()


async def test_never_while_a_server_is_free(postgres: LocalPostgres) -> None:
    """With a free server nobody waits behind another."""
    async with (
        sharing(postgres, pool_size=2) as shared,
        await shared.running.log_in() as holder,
        await shared.running.log_in() as peer,
    ):
        await shared.know(peer, requests.query(FIRST))
        await shared.hold(holder)
        for _ in range(5):
            assert await ask(peer, FIRST) == selected("first")
        assert shared.ahead.statistics.queued == 0
        await shared.gate.open()
        assert await told(holder) == selected(OPEN)


async def test_the_depth_is_bounded(postgres: LocalPostgres) -> None:
    """With `queue_ahead` = 2, the third waits for a server."""
    async with (
        sharing(postgres, database={"queue_ahead": 2}) as shared,
        await shared.running.log_in() as holder,
    ):
        peers = [await shared.running.log_in() for _ in range(5)]
        await shared.know(peers[0], requests.query("select 0"))
        await shared.hold(holder)
        for number, peer in enumerate(peers):
            await peer.send(requests.query(f"select {number}"))
            await settled(shared, peer)
        assert [shared.client(peer).queued is not None for peer in peers] == [True, True, False, False, False]
        await shared.gate.open()
        for number, peer in enumerate(peers):
            assert await told(peer) == selected(str(number))
            await peer.stream.aclose()
        assert await told(holder) == selected(OPEN)


@pytest.mark.parametrize(
    "how",
    [
        {"database": {"queue_ahead": 0}},
        {"database": {"pool_mode": "session"}},
        {"database": {"max_leases_per_user": 1}},
        {"session": {"strict": True}},
    ],
    ids=["off", "session mode", "bounded leases", "strict mode"],
)
async def test_where_servers_are_never_shared(postgres: LocalPostgres, how: dict[str, object]) -> None:
    """Nothing is sent ahead."""
    async with sharing(postgres, **how) as shared:  # type: ignore[arg-type]
        assert shared.running.origin.ahead is None


# -- what is sent ahead --------------------------------------------------------------------------------------

LIARS = """
    create function ahead_writes() returns int language sql as
        $$ insert into ahead_log values ('wrote'); select 1 $$;
    create function ahead_sets() returns text stable language plpgsql as
        $$ begin return set_config('app.liar', 'x', false); end $$;
    create function ahead_fine() returns int immutable language sql as 'select 1';
    create view ahead_view as select nextval('ahead_numbers') as n;
    create type ahead_color as enum ('red');
"""
NO_LIARS = """
    drop function ahead_writes, ahead_sets, ahead_fine;
    drop view ahead_view;
    drop type ahead_color;
"""
SIMPLE = [
    "select ahead_writes()",
    "select ahead_sets()",
    "select n into temp x from ahead_gate",
    "with d as (delete from ahead_log returning 1) select * from d",
    "select * from ahead_gate for update",
    "select * from ahead_gate for key share",
    "select * from ahead_view",
    "table ahead_view",
    "explain analyze select ahead_writes()",
    "select nextval('ahead_numbers')",
    "select currval('ahead_numbers')",
    "select lastval()",
    "select set_config('app.x', 'y', false)",
    "select set_config('app.x', 'y', true)",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_lock_shared(1)",
    "select pg_sleep(0)",
    "select random()",
    "select pg_backend_pid()",
    "select pg_cancel_backend(1)",
    "select txid_current()",
    "copy ahead_gate to stdout",
    "copy (select 1) to stdout",
    "select 1; select 2",
    "insert into ahead_log values ('x')",
    "show application_name",
    "set application_name = 'x'",
    "begin",
    "declare c cursor for select 1",
    "fetch 1 from c",
    "execute p",
    "prepare p as select 1",
    "listen x",
    "notify x",
    "do $$ begin end $$",
    "call x()",
    "lock ahead_gate",
    "select lo_create(0)",
    "select query_to_xml('select ahead_writes()', true, true, '')",
    "select 'red'::ahead_color, ahead_writes()",
    "select * from no_such_table",
    "select no_such_function()",
    "values (ahead_writes())",
    "select (select ahead_writes())",
    "select 1 order by ahead_writes()",
    "select count(*) filter (where ahead_writes() = 1) from ahead_gate",
    "select * from pg_temp.x",
    "selec 1",
    "",
    ";",
    "/* select 1 */",
    "vacuum",
    "with recursive x as (select ahead_writes()) select * from x",
    "select ahead_fine() union select ahead_writes()",
    "select 1 limit (select ahead_writes())",
    "select * from generate_series(1, (select ahead_writes()))",
    "select * from ahead_gate tablesample system (10)",
    "select pg_notify('x', 'y')",
    "select pg_export_snapshot()",
    "select setseed(0.5)",
]


async def test_statements_that_are_never_sent_ahead(postgres: LocalPostgres) -> None:
    """Whatever writes, changes the session, tells one server from another or is not known."""
    async with sharing(postgres) as shared:
        postgres.run_sql(LIARS, DATABASE)
        try:
            async with await shared.running.log_in() as peer:
                sent = [
                    sql
                    for sql in SIMPLE
                    if not isinstance(await shared.judge(peer, requests.query(sql)), str)
                ]
                assert sent == []
                sent = [
                    sql
                    for sql in SIMPLE
                    if not isinstance(await shared.judge(peer, extended(sql) + SYNC), str)
                ]
                assert sent == []
                for sql in ("select ahead_fine()", "select n from ahead_gate", "values (1)"):
                    await shared.know(peer, requests.query(sql))
                    await shared.know(peer, extended(sql) + SYNC)
        finally:
            postgres.run_sql(NO_LIARS, DATABASE)


async def test_requests_that_are_never_sent_ahead(postgres: LocalPostgres) -> None:
    """Portals with names or row limits, types of users, pipelines, Flush, and what is not whole."""
    async with sharing(postgres) as shared, await shared.running.log_in() as peer:
        one = "select $1::text"
        bound = requests.bind("", "x")
        run = requests.execute()
        oid = int(postgres.run_sql("select 'ahead_log'::regtype::oid", DATABASE))
        whole = requests.parse("", one) + bound + run + SYNC
        await shared.know(peer, whole)
        await shared.know(peer, requests.parse("", one, 25) + bound + requests.describe_portal() + run + SYNC)
        await shared.know(peer, requests.parse("", one) + requests.describe("") + bound + run + SYNC)
        wrong = {
            "named portal": requests.parse("", one) + requests.bind("", "x", portal="p") + run + SYNC,
            "runs another portal": requests.parse("", one) + bound + requests.execute("p") + SYNC,
            "row limit": requests.parse("", one) + bound + requests.execute("", 1) + SYNC,
            "a user's type": requests.parse("", one, oid) + bound + run + SYNC,
            "named statement": requests.parse("s", one) + requests.bind("s", "x") + run + SYNC,
            "flush": requests.parse("", one) + bound + run + requests.FLUSH,
            "flush and sync": requests.parse("", one) + bound + run + requests.FLUSH + SYNC,
            "no sync": requests.parse("", one) + bound + run,
            "two syncs": whole + SYNC,
            "twice run": requests.parse("", one) + bound + run + run + SYNC,
            "twice bound": requests.parse("", one) + bound + bound + run + SYNC,
            "two": whole + whole,
            "two queries": requests.query(FIRST) + requests.query(FIRST),
            "a query behind": whole + requests.query(FIRST),
            "a query in front": requests.query(FIRST) + whole,
            "not run": requests.parse("", one) + bound + SYNC,
            "described only": requests.parse("", one) + requests.describe("") + SYNC,
            "closed": requests.parse("", one) + bound + run + requests.close("") + SYNC,
            "bound only": bound + run + SYNC,
            "unknown name": requests.bind("s", "x") + run + SYNC,
            "terminate behind": requests.query(FIRST) + requests.TERMINATE,
            "sync": SYNC,
            "function call": requests.function_call("x"),
            "cut": whole[:-1],
            "cut query": requests.query(FIRST)[:-1],
            "one byte more": requests.query(FIRST) + b"Q",
            "nothing": b"",
        }
        sent = [what for what, data in wrong.items() if not isinstance(await shared.judge(peer, data), str)]
        assert sent == []


async def test_a_prepared_statement_of_a_users_type(postgres: LocalPostgres) -> None:
    """Its input may run anything."""
    async with sharing(postgres) as shared, await shared.running.log_in() as peer:
        oid = int(postgres.run_sql("select 'ahead_log'::regtype::oid", DATABASE))
        await replies(peer, requests.parse("s", "select $1 is null", oid) + SYNC)
        await replies(peer, requests.parse("t", "select $1::text is null", 25) + SYNC)
        assert isinstance(await shared.judge(peer, requests.bind("s", None) + requests.execute() + SYNC), str)
        await shared.know(peer, requests.bind("t", None) + requests.execute() + SYNC)


async def test_ddl_makes_it_ask_again(postgres: LocalPostgres) -> None:
    """A function that is replaced by one that writes is not sent ahead any more."""
    async with sharing(postgres) as shared, await shared.running.log_in() as peer:
        async with superuser(postgres) as boss:
            await boss.rows(f"grant create on schema public to {USER}")
        create = "create or replace function ahead_f() returns int language sql"
        call = requests.query("select ahead_f()")
        try:
            assert await ask(peer, f"{create} immutable as 'select 1'") == done("CREATE FUNCTION")
            await shared.know(peer, call)
            writes = f"{create} volatile as $$ insert into ahead_log values ('x'); select 1 $$"
            assert await ask(peer, writes) == done("CREATE FUNCTION")
            assert isinstance(await shared.judge(peer, call), str)
            assert await ask(peer, "alter function ahead_f() stable") == done("ALTER FUNCTION")
            assert isinstance(await shared.judge(peer, call), str)
            assert await ask(peer, f"begin; {create} as 'select 2'; commit") != []
            assert isinstance(await shared.judge(peer, call), str)
        finally:
            await ask(peer, "drop function ahead_f()")


@pytest.mark.parametrize(
    "setting", ["application_name = 'x'", "timezone = 'UTC'", "search_path = 'x'", "role"]
)
async def test_different_settings_never_share(postgres: LocalPostgres, setting: str) -> None:
    """Who has other settings than the server waits for a server of its own."""
    if setting == "role":
        postgres.run_sql(f"create role ahead_role; grant ahead_role to {USER}", DATABASE)
        setting = "role = ahead_role"
    try:
        async with (
            sharing(postgres) as shared,
            await shared.running.log_in() as holder,
            await shared.running.log_in() as peer,
            await shared.running.log_in() as same,
        ):
            await shared.know(peer, requests.query(FIRST))
            assert await ask(peer, f"set {setting}") == done("SET")
            assert await ask(same, FIRST) == selected("first")
            await shared.hold(holder)
            await same.send(requests.query(FIRST))
            await shared.queued(same)
            await peer.send(requests.query(FIRST))
            await shared.running.until(lambda: shared.client(peer).waits)
            assert shared.client(peer).queued is None
            await shared.gate.open()
            assert await told(holder) == selected(OPEN)
            assert await told(same) == selected("first")
            assert await told(peer) == selected("first")
    finally:
        if "ahead_role" in setting:
            postgres.run_sql(f"revoke ahead_role from {USER}; drop role ahead_role", DATABASE)


async def test_slow_statements_are_not_taken_for_fast(postgres: LocalPostgres) -> None:
    """Where every statement takes long, that is not the way to the server: nobody queues behind them."""
    slow = "select count(*) from generate_series(1, 300000)"
    async with sharing(postgres) as shared:
        shared.ahead.trip = 1.0  # as it begins

        async def read() -> None:
            async with await shared.running.log_in() as peer:
                for _ in range(6):
                    assert await peer.rows(slow) == ["300000"]

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(read)
        assert shared.ahead.statistics.queued == 0


async def test_the_end_of_a_long_message_is_no_statement(postgres: LocalPostgres) -> None:
    """A client's long Bind arrives in pieces, the last of which looks like a read that may be shared."""
    async with (
        sharing(postgres, pool_size=1) as shared,
        await shared.running.log_in() as forger,
        await shared.running.log_in() as peer,
    ):
        await replies(forger, requests.parse("s", "select $1::text") + SYNC)
        await shared.know(forger, requests.bind("s", "x") + requests.execute() + SYNC)
        await shared.know(peer, requests.query(FIRST))
        await shared.gate.close()
        piece = requests.bind("s", "x")
        tail = piece + requests.execute() + SYNC
        filler = b"x" * 200_000
        # The tail, up to Execute, is the end of the parameter; no result formats follow but its last bytes.
        parameter = filler + piece[:-2]
        body = b"\0\0" + b"\0\1\0\1" + b"\0\1" + len(parameter).to_bytes(4, "big") + parameter + b"\0\0"
        bind = messages.message(ord("B"), body)
        data = requests.parse(
            "", "insert into ahead_log select n::text from ahead_gate where length($1::bytea) > 0"
        )
        data += bind + requests.execute() + SYNC
        assert data.endswith(tail)
        await forger.send(data[: -len(tail)])
        client = shared.client(forger)
        await shared.running.until(lambda: client.session.body_left == len(piece))
        await forger.send(tail)
        await shared.gate.waits()
        await peer.send(requests.query(FIRST))
        await shared.running.until(
            lambda: shared.client(peer).waits or shared.client(peer).queued is not None
        )
        assert shared.client(peer).queued is None
        await shared.gate.open()
        assert (await told(forger))[-2:] == done("INSERT 0 1")
        assert await told(peer) == selected("first")
