"""Limits of databases and users, limits that clients set for themselves, and what others have of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.peer import Peer
from tests.support.limited import ENDED, LIMIT, SINK, SLOW, SPAN, fails_until_ended, limited
from tests.support.requests import Reply
from tests.support.serving import server_pids, serving
from tests.support.talk import ask, refused, selected
from tests.support.target import PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import Installation, LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


async def test_databases_and_users_have_limits_of_their_own(postgres: LocalPostgres) -> None:
    """A database's limit comes before the general one, and a user's before both; 0 switches one off."""
    short, users = "100ms", ("hasty", "patient", USER)
    databases = {"general": {}, "own": {"timeouts": {"query": "10s"}}}
    own = {"hasty": {"timeouts": {"query": short}}, "patient": {"timeouts": {"query": "0"}}}
    sleep = f"select 'done' from pg_sleep({LIMIT})"
    expected = {
        ("general", USER): ["57014"],
        ("general", "hasty"): ["57014"],
        ("general", "patient"): [],
        ("own", USER): [],
        ("own", "hasty"): ["57014"],
        ("own", "patient"): [],
    }
    async with serving(
        postgres,
        databases=databases,
        users={name: {"password": PASSWORD, **own.get(name, {})} for name in users},
        timeouts={"query": short},
    ) as running:
        actual = {}
        for database, user in expected:
            async with await Peer.log_in(running.address, {"database": database, "user": user}) as peer:
                actual[database, user] = [error.sqlstate for error in await peer.run(sleep)]
        assert actual == expected
        assert running.log.find("server disconnected") == []


OWN = {
    "statement_timeout": ("57014", 90000),
    "idle_in_transaction_session_timeout": ("25P03", 90600),
    "transaction_timeout": ("25P04", 170000),
}


@pytest.mark.parametrize("how", ["set", "set local", "set_config", "startup", "options", "alter role"])
@pytest.mark.parametrize("name", OWN)
async def test_a_client_may_set_limits_for_itself(
    postgres: LocalPostgres, installation: Installation, name: str, how: str
) -> None:
    """PostgreSQL's own parameters do to it what the pooler's limits do; the server connection, which
    PostgreSQL would close, stays as well if the client has set them for its session. Another client has none
    of that.
    """
    keeps = name == "statement_timeout" or how not in ("set local", "alter role")
    sqlstate, _ = OWN[name]
    if name == "transaction_timeout" and installation.major < 17 and how not in ("set", "startup", "options"):
        return  # PostgreSQL knows no such parameter; the pooler has it as one of the session
    parameters = {
        "startup": {name: SPAN},
        "options": {"options": f"-c {name}={SPAN}"},
    }.get(how, {})
    if how == "alter role":
        postgres.run_sql(f"alter role {USER} set {name} = '{SPAN}'")
    try:
        async with (
            limited(postgres, {}, parameters=parameters, keeps=keeps) as one,
            await one.running.log_in() as other,
        ):
            peer = one.peer
            if how == "set":
                await peer.rows(f"set {name} = '{SPAN}'")
            elif how == "set_config":
                await peer.rows(f"select set_config('{name}', '{SPAN}', false)")
            await peer.rows("begin")
            if how == "set local":
                await peer.rows(f"set local {name} = '{SPAN}'")
            await peer.rows(f"insert into {SINK} values ('never')")
            if name == "idle_in_transaction_session_timeout":
                await one.freed()
                assert await ask(peer, "select 1") == refused(sqlstate, "E")
            else:
                assert await ask(peer, SLOW) == [Reply("T", "1"), *refused(sqlstate, "E")]
            await fails_until_ended(peer)
            if how != "alter role":
                await other.rows("begin")
                assert await other.rows(f"select 'long' from pg_sleep({2 * LIMIT})") == ["long"]
                await trio.sleep(2 * LIMIT)
                assert await other.rows("select 'there'") == ["there"]
                await other.rows("commit")
            if how == "set":
                await peer.rows(f"set {name} = 0")
                await peer.rows("begin")
                await trio.sleep(2 * LIMIT)
                assert await peer.rows("select 'mine'") == ["mine"]
                await peer.rows("commit")
    finally:
        if how == "alter role":
            postgres.run_sql(f"alter role {USER} reset {name}")


async def test_a_client_cannot_raise_its_limits(postgres: LocalPostgres) -> None:
    """The configured limit holds whatever the client sets."""
    async with limited(postgres, {"query": SPAN, "idle_in_transaction": SPAN}) as one:
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            await one.peer.rows(f"set {name} = '1min'")
        assert (await ask(one.peer, SLOW))[-2:] == refused("57014")
        await one.begin()
        await one.freed()
        assert await ask(one.peer, "select 1") == refused("25P03", "E")
        await fails_until_ended(one.peer)


async def test_others_get_the_server_at_once(postgres: LocalPostgres) -> None:
    """Who waits for the only server has it as soon as an idle transaction's time is over."""
    async with limited(postgres, {"idle_in_transaction": SPAN}) as one, await one.running.log_in() as other:
        await one.begin()
        pids = server_pids(one.running)
        assert await ask(other, "select pg_backend_pid()") == selected(*map(str, pids))
        assert await ask(one.peer, "select 1") == refused("25P03", "E")
        assert await ask(one.peer, "rollback") == ENDED


async def test_a_notification_does_not_count(postgres: LocalPostgres) -> None:
    """What a client gets unasked does not prolong its transaction."""
    locks = f"select count(*) from pg_locks where relation = '{SINK}'::regclass and pid <> pg_backend_pid()"
    async with (
        limited(postgres, {"idle_in_transaction": SPAN}, pool_size=2) as one,
        await one.running.log_in() as other,
    ):
        await one.peer.rows("listen news")
        await one.begin()
        with trio.fail_after(20 * LIMIT):
            while await other.rows(locks) != ["0"]:
                await other.rows("notify news")
                await trio.sleep(LIMIT / 10)
        assert await ask(one.peer, "select 1") == refused("25P03", "E")
        assert await ask(one.peer, "rollback") == ENDED
        await one.peer.rows("unlisten *")
