"""Settings of a StartupMessage are values: they mean what PostgreSQL makes of them, and never run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import Installation, LocalPostgres

pytestmark = pytest.mark.e2e

CANARY = "the table is still there"
SHADOWS = f"""
create role {USER} login;
create database {DATABASE} owner {USER};
"""
IN_DATABASE = f"""
create table public.canary as select '{CANARY}' as word;
create schema evil authorization {USER};
create table evil.ran (what text);
create function evil.note(what text) returns text language plpgsql as
    $$ begin insert into evil.ran values (what); return what; end $$;
create function evil.set_config(text, text, boolean) returns text language sql as
    $$ select evil.note('set_config') $$;
create function evil.equal(text, text) returns boolean language sql as $$ select evil.note('=') is null $$;
create operator evil.= (leftarg = text, rightarg = text, function = evil.equal);
create view evil.pg_settings as select evil.note('pg_settings') as name;
grant all on all tables in schema evil to public;
grant all on schema evil to public;
grant all on public.canary to public;
"""
SQL = "'; drop table public.canary; select evil.note('value'); --"


@pytest.fixture(scope="module")
def origin(installation: Installation) -> Iterator[LocalPostgres]:
    """A PostgreSQL that trusts, with a schema in which the names of PostgreSQL mean something else."""
    from trio_pool.cli.postgres import LocalPostgres

    with LocalPostgres(installation.bin_dir) as pg:
        pg.run_sql(SHADOWS)
        pg.run_sql(IN_DATABASE, DATABASE)
        yield pg


@pytest.fixture(scope="module")
def pool(origin: LocalPostgres) -> Iterator[Pooler]:
    """One server connection, so that whatever is left on it meets the next client."""
    with Pooler(origin, tls=False, auth="trust", pool_size=1) as running:
        yield running


def start(where: LocalPostgres | Pooler, parameters: dict[str, str], show: list[str]) -> list[str]:
    """The values that a session shows, or SQLSTATE and words of why there is none."""
    with RawClient.connect((where.host, where.port)) as client:
        client.send(messages.startup({"user": USER, "database": DATABASE, **parameters}))
        for tag, body in client.exchange():
            if tag == Backend.ERROR_RESPONSE:
                error = messages.read_error(body)
                return [error.severity, error.sqlstate, error.summary]
        return [client.value(f"show {name}") for name in show]


def nothing_ran(origin: LocalPostgres) -> None:
    assert origin.run_sql("select word from public.canary", DATABASE).strip() == CANARY
    assert origin.run_sql("select what from evil.ran", DATABASE).strip() == ""


VALUES = [
    ("application_name", SQL),
    ("application_name", 'a"b\\c$$d$1;e'),
    ("application_name", "ünïcode \U0001f600 \x01"),
    ("application_name", "x" * 80),
    ("application_name", ""),
    ("search_path", "evil, pg_catalog"),
    ("search_path", "evil,public"),
    ("search_path", '"evil", "a""b; drop table public.canary", pg_catalog'),
    ("search_path", SQL),
    ("search_path", ""),
    ("search_path", '""'),
    ("search_path", 'unclosed"'),
    ("DateStyle", "German, DMY"),
    ("DateStyle", SQL),
    ("TimeZone", "utc"),
    ("TimeZone", f"UTC{SQL}"),
    ("client_encoding", "latin1"),
    ("client_encoding", SQL),
    ("statement_timeout", "12345"),
    ("statement_timeout", f"1{SQL}"),
    ("extra_float_digits", "3"),
    ("work_mem", "1MB'; drop table public.canary; --"),
    ("my.setting", SQL),
    ('my."setting', "x"),
    ("my.setting; drop table public.canary", "x"),
    ("nonsense", "1"),
    ("x'; drop table public.canary; --", "1"),
    ('x"; drop table public.canary; --', "1"),
    ("application_name'), evil.note('name'), ('", "1"),
    ("server_version", "99"),
    ("is_superuser", "on"),
    ("fsync", "off"),
    ("shared_buffers", "1GB"),
    ("log_statement", "none"),
    ("session_replication_role", "replica"),
    ("default_transaction_read_only", "maybe"),
    ("role", "postgres"),
    ("role", USER),
    ("role", "none"),
    ("session_authorization", "postgres"),
    ("session_authorization", USER),
    ("client_min_messages", "debug5'"),
    ("default_tablespace", "nowhere"),
    ("default_text_search_config", "evil.nothing"),
    ("lc_messages", SQL),
]


@pytest.mark.parametrize(("name", "value"), VALUES)
@pytest.mark.parametrize("as_option", [False, True], ids=["parameter", "option"])
def test_a_setting_is_what_it_is_to_postgresql(
    origin: LocalPostgres, pool: Pooler, name: str, value: str, as_option: bool
) -> None:
    """The same value as on a direct connection, or the same refusal; and nothing of it runs."""
    parameters = {name: value}
    if as_option:
        escaped = "".join(f"\\{c}" if c in " \t\n\\" else c for c in value)
        parameters = {"options": f"-c {name.replace(' ', chr(92) + ' ')}={escaped}"}
    show = [name] if name.replace(".", "").replace("_", "").isalnum() else ["search_path"]
    direct = start(origin, parameters, show)
    assert start(pool, parameters, show) == direct
    nothing_ran(origin)
    neutral = start(origin, {}, ["search_path", "application_name", "statement_timeout", "DateStyle"])
    assert start(pool, {}, ["search_path", "application_name", "statement_timeout", "DateStyle"]) == neutral


@pytest.mark.parametrize(
    "options",
    [
        "-c search_path=evil,pg_catalog -c application_name=x -c statement_timeout=5000 -c DateStyle=German",
        "-csearch_path=evil,pg_catalog --statement-timeout=5000",
        "-c search_path=evil -c search_path=public",
        "-c search_path=evil;select\\ 1",
        "-c\tsearch_path=evil",
        "-c  search_path\\=evil",
        "",
        "   ",
    ],
)
def test_options_with_tricks(origin: LocalPostgres, pool: Pooler, options: str) -> None:
    """Words are split where PostgreSQL splits them."""
    show = ["search_path", "application_name", "statement_timeout", "DateStyle"]
    direct = start(origin, {"options": options}, show)
    assert start(pool, {"options": options}, show) == direct
    nothing_ran(origin)


@pytest.mark.parametrize(
    ("name", "value", "sqlstate"),
    [
        ("temp_tablespaces", "nowhere", "42704"),
        ("application_name", "not \udcff UTF-8", "22021"),
        ("search_path", "not \udcff UTF-8", "22021"),
        ("my.setting", "not \udcff UTF-8", "22021"),
        ("seed", "0.5", "0A000"),
    ],
)
def test_some_values_are_refused_that_postgresql_takes(
    origin: LocalPostgres, pool: Pooler, name: str, value: str, sqlstate: str
) -> None:
    """What no session could be brought to by SET is refused at the login: a value that only a start takes."""
    assert start(pool, {name: value}, [])[:2] == ["FATAL", sqlstate]
    assert start(pool, {}, ["search_path"]) == start(origin, {}, ["search_path"])
    nothing_ran(origin)


@pytest.mark.parametrize(
    ("name", "value", "default"),
    [
        ("Transaction_Isolation", "serializable", "read committed"),
        ("transaction_read_only", "on", "off"),
        ("transaction_deferrable", "on", "off"),
    ],
)
def test_settings_of_a_transaction(
    origin: LocalPostgres, pool: Pooler, name: str, value: str, default: str
) -> None:
    """They are without effect, as in PostgreSQL 18, and no server keeps what cannot be reset."""
    for _ in range(2):
        assert start(pool, {name: value}, [name]) == [default]
        assert start(pool, {}, [name]) == start(origin, {}, [name]) == [default]


@pytest.mark.parametrize("name", ["local_preload_libraries", "session_preload_libraries"])
def test_no_library_is_loaded(origin: LocalPostgres, pool: Pooler, name: str) -> None:
    """What PostgreSQL loads into a session that begins so is not loaded: the server's session began before.

    A superuser's privilege stays one.
    """
    direct = start(origin, {name: "nothing"}, [name])
    assert direct[0] == "FATAL"
    if name == "session_preload_libraries":
        assert start(pool, {name: "nothing"}, [name]) == direct
    else:
        assert start(pool, {name: "nothing"}, [name]) == ["nothing"]


def test_statements_of_our_own_mean_what_they_say(origin: LocalPostgres, pool: Pooler) -> None:
    """Clients whose `search_path` begins with a schema of shadows come, change settings, go."""
    for number in range(12):
        with RawClient.connect((pool.host, pool.port)) as client:
            settings = {
                "search_path": "evil, pg_catalog",
                "application_name": f"a'{number}",
                "work_mem": "1MB",
            }
            client.send(messages.startup({"user": USER, "database": DATABASE, **settings}))
            assert client.errors() == []
            assert client.value("show application_name") == f"a'{number}"
            assert client.run("set statement_timeout = 9000") == []
            assert client.value("show search_path") == "evil, pg_catalog"
    assert start(pool, {}, ["search_path", "work_mem"]) == start(origin, {}, ["search_path", "work_mem"])
    nothing_ran(origin)
