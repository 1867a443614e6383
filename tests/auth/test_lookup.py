"""`auth.query`: users that only PostgreSQL knows log in at the pooler, by real drivers."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.auth.origin import (
    ODD_USER,
    PASSWORD,
    ask,
    ask_asyncpg,
    ask_psql,
    connect,
    refusal,
    wrong,
)
from tests.support.pooler import Pooler
from tests.support.target import DATABASE
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.auth.origin import AuthOrigin

pytestmark = pytest.mark.e2e

DEFAULT_QUERY = "SELECT rolname, rolpassword, rolvaliduntil FROM pg_authid WHERE rolname = $1"
PGBOUNCERS_FUNCTION = """
create schema pgbouncer;
create function pgbouncer.user_lookup(in i_username text, out uname text, out phash text) returns record as $$
begin
    select rolname, case when rolvaliduntil < now() then null else rolpassword end
    from pg_authid where rolname = i_username and rolcanlogin into uname, phash;
    return;
end;
$$ language plpgsql security definer set search_path = pg_catalog;
grant usage on schema pgbouncer to pool_lookup
"""
COUNTING = """
create table trio_pool.asked (name text);
create function trio_pool.counting(wanted text)
returns table (name text, password text, valid_until timestamptz)
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_advisory_xact_lock_shared(4711);
    insert into trio_pool.asked values (wanted);
    return query select rolname::text, rolpassword, rolvaliduntil from pg_authid where rolname = wanted;
end $$
"""


@pytest.fixture(scope="module")
def counting(origin: AuthOrigin) -> Iterator[Pooler]:
    """A pooler that remembers for long, and whose look-ups are counted in a table."""
    origin.sql(COUNTING)
    query = "SELECT * FROM trio_pool.counting($1)"
    extra = origin.lookup(query=query, query_cache="1h", allow_cleartext_without_tls=True)
    extra["auth"]["rules"] = [
        {"user": ["by_md5", "hashed"], "method": "md5"},
        {"user": "by_password", "method": "password"},
    ]
    with Pooler(origin.pg, tls=False, extra=extra) as running:
        yield running


def look_ups(origin: AuthOrigin, user: str) -> int:
    return int(origin.sql(f"select count(*) from trio_pool.asked where name = '{user}'"))


# -- who gets in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("user", ["scram", "lasting", "eternal", ODD_USER])
def test_a_user_of_the_origin_gets_in(origin: AuthOrigin, pool: Pooler, user: str) -> None:
    """Whoever PostgreSQL knows needs no table in the configuration, whatever its name is."""
    assert ask(pool, user) == "postgres"
    assert ask_asyncpg(pool, user) == "postgres"
    assert ask_psql(origin, pool, user) == "postgres"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("scram", "wrong"),
        ("missing", PASSWORD),
        ("expired", PASSWORD),
        ("expired_long_ago", PASSWORD),
        ("nobody", PASSWORD),
        ("no_login", PASSWORD),
        ("hashed", PASSWORD),
        ("Scram", PASSWORD),
        ("scram' or '1'='1", PASSWORD),
        ("x' union select rolname, rolpassword, null from pg_authid --", PASSWORD),
        ("x" * 5000, PASSWORD),
    ],
    ids=lambda value: value[:20],
)
def test_everybody_else_is_told_the_same(pool: Pooler, user: str, password: str) -> None:
    """A wrong password, no such user, a password that is expired, missing or does not fit: one error."""
    assert refusal(pool, user, password) == wrong(user)


def test_the_log_says_why(origin: AuthOrigin) -> None:
    """The operator can tell an expired password from a missing user."""
    with Pooler(origin.pg, tls=False, extra=origin.lookup()) as pool:
        details = {}
        for user in ("expired", "missing", "nobody", "hashed"):
            before = pool.mark()
            refusal(pool, user)
            details[user] = pool.wait_for_event("client disconnected", since=before)["detail"]
    assert details == {
        "expired": 'user "expired" has an expired password',
        "missing": 'user "missing" does not exist',
        "nobody": 'user "nobody" has no password, or a malformed one',
        "hashed": 'user "hashed" does not have a valid SCRAM secret',
    }


@pytest.mark.parametrize("method", ["md5", "password"])
@pytest.mark.parametrize("user", ["scram", "hashed"])
def test_other_methods(origin: AuthOrigin, method: str, user: str) -> None:
    """Under `md5` and `password` both kinds of stored passwords open, and no other password does."""
    extra = origin.lookup(method=method, allow_cleartext_without_tls=True)
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, user) == "postgres"
        assert refusal(pool, user, "wrong") == wrong(user)
        assert refusal(pool, "missing") == wrong("missing")


@pytest.mark.parametrize("query", [DEFAULT_QUERY, "SELECT usename, passwd FROM pg_shadow WHERE usename = $1"])
def test_without_a_function(origin: AuthOrigin, query: str) -> None:
    """Where the pool's user is a superuser, its own login and the catalogues will do."""
    extra = origin.lookup(query=query, query_user=None, query_password=None)
    extra["auth"] = {name: value for name, value in extra["auth"].items() if value is not None}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "scram") == "postgres"
        assert refusal(pool, "missing") == wrong("missing")


def test_pgbouncers_function(origin: AuthOrigin) -> None:
    """The function that PgBouncer's documentation has works as it is: two columns, NULL for a missing one."""
    origin.sql(PGBOUNCERS_FUNCTION)
    extra = origin.lookup(query="SELECT uname, phash FROM pgbouncer.user_lookup($1)")
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "scram") == "postgres"
        for user in ("missing", "expired", "no_login"):
            assert refusal(pool, user) == wrong(user)


def test_the_configuration_comes_first(origin: AuthOrigin) -> None:
    """A password in the configuration is the one that counts; a table without one is looked up."""
    extra = origin.lookup()
    extra["users"] |= {"scram": {"password": "ours"}, "other": {"max_clients": 3}}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "scram", "ours") == "postgres"
        assert refusal(pool, "scram") == wrong("scram")
        assert ask(pool, "other", "another password") == "postgres"


def test_another_database_for_look_ups(origin: AuthOrigin) -> None:
    """With `query_database` even names that lead anywhere are looked up in one database."""
    url = f"postgresql://postgres@{origin.pg.host}:{origin.pg.port}?sslmode=disable"
    extra = origin.lookup(query_database=DATABASE)
    extra["databases"] = {
        DATABASE: None,
        "*": {"origin": url, "password": origin.pg.password},
    }
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert ask(pool, "scram", sql="select current_database()", dbname="template1") == "template1"
        assert refusal(pool, "scram", "wrong", dbname="nowhere") == wrong("scram")


# -- nothing distinguishes -----------------------------------------------------------------------------------


def transcript(pool: Pooler, user: bytes, password: str) -> list[tuple[int, int]]:
    """Tag and length of all that a client of these gets to see; the user's name does not count."""
    name = user.decode(errors="surrogateescape")
    login = Login(
        {"user": name, "database": DATABASE},
        password,
        tls=False,
        channel_binding=None,
        allow_cleartext=True,
        client_nonce="nonce",
    )
    assembler = Assembler()
    seen: list[tuple[int, int]] = []
    with socket.create_connection((pool.host, pool.port), 20) as sock:
        sock.sendall(login.begin())
        while True:
            data = sock.recv(65536)
            if not data:
                return seen
            assembler.feed(data)
            while (message := assembler.message()) is not None:
                tag, body = message
                if tag == ord("E"):
                    fields = messages.read_error(body)
                    assert (fields.sqlstate, fields.detail, fields.hint) == ("28P01", None, None)
                    seen.append((tag, len(body) - len(user)))
                    continue
                seen.append((tag, len(body)))
                reply = login.receive(tag, body)
                if reply:
                    sock.sendall(reply)


def test_a_missing_user_looks_like_a_wrong_password(pool: Pooler) -> None:
    """Message by message: a missing user, one without a password, one that is expired, no name at all."""
    expected = transcript(pool, b"scram", "wrong")
    assert [chr(tag) for tag, _ in expected] == ["R", "R", "E"]
    for user in (b"missing", b"nobody", b"expired", b"hashed", b"not \xff UTF-8"):
        assert transcript(pool, user, PASSWORD) == expected


def test_under_md5_a_missing_user_is_asked_as_others_are(origin: AuthOrigin) -> None:
    """For MD5 where the users that are found have MD5 hashes, for SCRAM where they have SCRAM secrets."""
    with Pooler(origin.pg, tls=False, extra=origin.lookup(method="md5")) as pool:
        assert transcript(pool, b"missing", PASSWORD) == transcript(pool, b"scram", "wrong")
        for _ in range(2):
            expected = transcript(pool, b"hashed", "wrong")
        assert transcript(pool, b"missing", PASSWORD) == expected
        assert [chr(tag) for tag, _ in expected] == ["R", "E"]


# -- what is remembered --------------------------------------------------------------------------------------


def test_a_user_is_remembered(origin: AuthOrigin, counting: Pooler) -> None:
    """The second login costs no look-up; a missing user is looked up each time."""
    for _ in range(3):
        assert ask(counting, "lasting") == "postgres"
        refusal(counting, "missing")
    assert (look_ups(origin, "lasting"), look_ups(origin, "missing")) == (1, 3)


def test_nothing_is_remembered(origin: AuthOrigin) -> None:
    """With `query_cache = "0"` every login asks, and with SCRAM too a new password works at once."""
    origin.sql("create role anew login password 'old'")
    with Pooler(origin.pg, tls=False, extra=origin.lookup(query_cache="0")) as pool:
        assert ask(pool, "anew", "old") == "postgres"
        origin.sql("alter role anew password 'new'")
        assert refusal(pool, "anew", "old") == wrong("anew")
        assert ask(pool, "anew", "new") == "postgres"


def test_who_logs_in_at_the_same_time_shares_a_look_up(origin: AuthOrigin, counting: Pooler) -> None:
    """Twenty clients of one user that wait for PostgreSQL cost one look-up, or two if one had begun."""
    origin.sql("create role crowd login password 'p'")
    with psycopg.connect(
        host=str(origin.pg.socket_dir), port=origin.pg.port, user="postgres", dbname=DATABASE, autocommit=True
    ) as lock:
        lock.execute("select pg_advisory_lock(4711)")
        with ThreadPoolExecutor(20) as threads:
            clients = [threads.submit(ask, counting, "crowd", "p") for _ in range(20)]
            waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
            while lock.execute(waiting).fetchone() != (1,):
                pass
            lock.execute("select pg_advisory_unlock(4711)")
            assert [client.result(30) for client in clients] == ["postgres"] * 20
    assert look_ups(origin, "crowd") in (1, 2)


@pytest.mark.parametrize("user", ["by_md5", "by_password"])
def test_a_changed_password_works_at_once(origin: AuthOrigin, counting: Pooler, user: str) -> None:
    """Although the old one is remembered: a failed login looks the user up again, once."""
    stored = "set password_encryption = 'md5'"
    origin.sql(f"{stored}; create role {user} login password 'old'")
    assert ask(counting, user, "old") == "postgres"
    origin.sql(f"{stored}; alter role {user} password 'new'")
    assert ask(counting, user, "new") == "postgres"
    assert refusal(counting, user, "old") == wrong(user)
    assert look_ups(origin, user) == 3


def test_a_changed_scram_password_works_at_the_second_login(origin: AuthOrigin, counting: Pooler) -> None:
    """The exchange that has begun with the old salt fails; it is the only one."""
    origin.sql("create role changing login password 'old'")
    assert ask(counting, "changing", "old") == "postgres"
    origin.sql("alter role changing password 'new'")
    assert refusal(counting, "changing", "new") == wrong("changing")
    assert ask(counting, "changing", "new") == "postgres"
    assert look_ups(origin, "changing") == 2


def test_a_remembered_password_expires_too(origin: AuthOrigin, counting: Pooler) -> None:
    """VALID UNTIL holds to the moment, although nobody asks again."""
    origin.sql(
        "select set_config('a.b', (clock_timestamp() + '2 s')::text, false);"
        "create role fading login password 'p';"
        "do $$ begin execute format('alter role fading valid until %L', current_setting('a.b')); end $$"
    )
    assert ask(counting, "fading", "p") == "postgres"
    while True:
        try:
            connect(counting, "fading", "p").close()
        except psycopg.OperationalError:
            break
    assert refusal(counting, "fading", "p") == wrong("fading")
    assert (
        origin.sql("select clock_timestamp() >= rolvaliduntil from pg_roles where rolname = 'fading'") == "t"
    )


# -- the connection ------------------------------------------------------------------------------------------


def test_the_connection_is_kept_and_nobody_elses(origin: AuthOrigin) -> None:
    """Look-ups have one connection of their own, on which no client's statement ever runs."""
    sql = "select pid from pg_stat_activity where application_name = 'trio-pool auth.query'"
    others = set(origin.sql(sql).split())
    with Pooler(origin.pg, tls=False, extra=origin.lookup()) as fresh:
        ask(fresh, "scram")
        (lookup,) = set(origin.sql(sql).split()) - others
        for user in ("lasting", "eternal", "missing"):
            with connect(fresh, "scram") as client:
                refusal(fresh, user, "wrong")
                row = client.execute("select pg_backend_pid()").fetchone()
                assert row is not None
                assert str(row[0]) != lookup
        assert set(origin.sql(sql).split()) - others == {lookup}


def test_a_lost_connection_is_replaced(origin: AuthOrigin, pool: Pooler) -> None:
    """When PostgreSQL ends it, the next login does not notice."""
    ask(pool, "scram")
    sql = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'pool_lookup'"
    assert "t" in origin.sql(sql).split()
    assert ask(pool, "eternal") == "postgres"


@pytest.mark.parametrize(
    ("query", "cause"),
    [
        ("SELECT nonsense", 'column "nonsense" does not exist'),
        ("SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1", "permission denied for"),
        (
            "SELECT 'postgres'::text, 'md5' || repeat('0', 32), $1::text",
            "has found a user of another name than $1",
        ),
        ("SELECT $1::text", "has found 1 columns where 2 or 3 are expected"),
        ("SELECT $1::text, 'a' FROM generate_series(1, 3)", "has found more than one row"),
        ("SELECT $1::text, 'a', 'nonsense'", "invalid input syntax for type timestamp with time zone"),
        ("SELECT $1::text, 'a', NULL FROM user_lookup($1)", "function user_lookup(unknown) does not exist"),
    ],
)
def test_a_query_that_will_not_do(origin: AuthOrigin, query: str, cause: str) -> None:
    """Nobody gets in by a mistake in the query; the log names it, the client learns nothing of it."""
    with Pooler(origin.pg, tls=False, extra=origin.lookup(query=query)) as pool:
        assert refusal(pool, "scram") == "cannot look up users at the origin"
        assert cause in pool.wait_for_event("user look-up failed")["error"]


def test_a_function_that_raises(origin: AuthOrigin) -> None:
    """An exception for a missing user is a missing user."""
    origin.sql(
        "create function trio_pool.strict(wanted text, out name text, out password text) language plpgsql"
        " security definer set search_path = pg_catalog, pg_temp as $$ begin"
        " select rolname, rolpassword into strict name, password from pg_authid where rolname = wanted;"
        " end $$"
    )
    with Pooler(
        origin.pg, tls=False, extra=origin.lookup(query="SELECT * FROM trio_pool.strict($1)")
    ) as pool:
        assert refusal(pool, "missing") == wrong("missing")
        assert ask(pool, "scram") == "postgres"


def test_an_origin_that_is_down(origin: AuthOrigin) -> None:
    """Whoever has to be looked up is told so without details; whoever is configured is not concerned."""
    extra = origin.lookup(query_password="wrong")
    extra["users"]["ours"] = {"password": "ours"}
    with Pooler(origin.pg, tls=False, extra=extra) as pool:
        assert refusal(pool, "scram") == "cannot look up users at the origin"
        failed = pool.wait_for_event("user look-up failed")
        assert (failed["sqlstate"], failed["reason"]) == ("28P01", "server login failed")
        assert ask(pool, "ours", "ours") == "postgres"


# -- no setting of a client gets there (CVE-2025-12819) ------------------------------------------------------

SHADOWS = """
create schema evil;
create table evil.ran (what text);
grant all on schema evil to public;
grant all on evil.ran to public;
create function evil.note(what text) returns boolean language plpgsql security definer as
    $$ begin insert into evil.ran values (what); return true; end $$;
create view evil.pg_authid as
    select 'mallory'::name rolname, 'known'::text rolpassword, null::timestamptz rolvaliduntil
    where evil.note('pg_authid');
create function evil.set_config(text, text, boolean) returns text language sql as
    $$ select evil.note('set_config')::text $$;
create function evil.equal(name, text) returns boolean language sql as $$ select evil.note('=') $$;
create operator evil.= (leftarg = name, rightarg = text, function = evil.equal);
create function evil.clock_timestamp() returns timestamptz language sql as
    $$ select case when evil.note('clock_timestamp') then '2000-01-01'::timestamptz end $$;
grant select on evil.pg_authid to public
"""


@pytest.fixture(scope="module")
def shadowed(origin: AuthOrigin) -> AuthOrigin:
    """A schema in which everything that a look-up names means something else."""
    origin.sql(SHADOWS)
    return origin


@pytest.mark.parametrize(
    "options",
    [
        "-c search_path=evil,pg_catalog",
        "-csearch_path=evil -c role=postgres",
        "--search-path=evil",
        "-c search_path=evil,pg_temp,pg_catalog -c session_preload_libraries=nothing",
    ],
)
@pytest.mark.parametrize("query", [DEFAULT_QUERY, None], ids=["catalogue", "function"])
def test_settings_of_a_client_do_not_reach_the_look_up(
    shadowed: AuthOrigin, query: str | None, options: str
) -> None:
    """Before the login and after it, with the secret remembered and not: nothing of the schema runs."""
    extra = shadowed.lookup(query_cache="0")
    if query is not None:
        extra["auth"] |= {"query": query, "query_user": "postgres", "query_password": shadowed.pg.password}
    with Pooler(shadowed.pg, tls=False, pool_size=1, extra=extra) as pool:
        for user, password in (("mallory", "known"), ("scram", "wrong"), ("scram' --", "x")):
            assert refusal(pool, user, password, options=options) == wrong(user)
        if "session_preload" not in options:
            with connect(pool, "scram", options=options) as client:
                assert client.execute("select 1").fetchone() == (1,)
                assert ask(pool, "lasting", options=options) == "postgres"
                assert refusal(pool, "mallory", "known", options=options) == wrong("mallory")
    assert shadowed.sql("select what from evil.ran") == ""


@pytest.mark.parametrize("setting", ["database", "role"])
def test_settings_of_the_database_do_not_reach_it_either(shadowed: AuthOrigin, setting: str) -> None:
    """Whoever may set `search_path` for the database or the look-up's role does not decide who gets in."""
    where = f"database {DATABASE}" if setting == "database" else "role postgres"
    shadowed.sql(f"alter {where} set search_path = evil, pg_catalog")
    try:
        extra = shadowed.lookup(
            query=DEFAULT_QUERY, query_user="postgres", query_password=shadowed.pg.password
        )
        with Pooler(shadowed.pg, tls=False, extra=extra) as pool:
            assert refusal(pool, "mallory", "known") == wrong("mallory")
            assert ask(pool, "scram") == "postgres"
    finally:
        shadowed.sql(f"alter {where} reset search_path")
    assert shadowed.sql("select what from evil.ran") == ""
