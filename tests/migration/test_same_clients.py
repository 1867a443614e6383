"""What is imported from PgBouncer's sample configuration serves the same clients as PgBouncer with it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from functools import partial
from typing import TYPE_CHECKING

import attrs
import psycopg
import pytest
import trio
from click.testing import CliRunner

from tests.migration.bouncer import (
    HOST,
    SAMPLES,
    adapted,
    find_pgbouncer,
    free_port,
    pgbouncer,
    shared_directory,
)
from tests.net.harness import served
from trio_pool.cli.import_pgbouncer import command
from trio_pool.config import read

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.cli.postgres import Installation, LocalPostgres

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(find_pgbouncer() is None, reason="PgBouncer is not installed"),
]

REFUSED = "refused"
QUESTION = (
    "select current_database(), current_user, current_setting('client_encoding'), "
    "current_setting('datestyle'), "
    "current_setting('timezone'), current_setting('application_name')"
)
ROLES = {"marko": "asdasd", "baz": "foo", "pgbouncer": "another one", "bar": "bar's"}
DATABASES = ("foodb", "bazdb", "forcedb", "nondefaultdb", "elsewhere")
USERS = (
    ("marko", "asdasd"),
    ("marko", "wrong"),
    ("marko", ""),
    # Known to the pooler by another password than to PostgreSQL.
    ("pgbouncer", "fake"),
    ("pgbouncer", "another one"),
    # Known to PostgreSQL only.
    ("baz", "foo"),
    ("stranger", "asdasd"),
)
ASKED_FOR = ("foodb", "bardb", "forcedb", "nondefaultdb", "elsewhere", "missing")


HBA = """\
host   bardb         marko            127.0.0.1/32         scram-sha-256
host   nondefaultdb  all              127.0.0.1/32         reject
host   sameuser      all              127.0.0.1/32         md5
host   all           marko,pgbouncer  127.0.0.0 255.0.0.0  md5
local  all           all              trust
"""


@attrs.frozen
class Variant:
    """How clients log in: the sample's way, or one that it describes."""

    auth_type: str
    looks_up: bool = False

    def __str__(self) -> str:
        return f"{self.auth_type}{'-auth_user' if self.looks_up else ''}"


VARIANTS = [
    *(Variant(auth_type) for auth_type in ("md5", "scram-sha-256", "plain", "trust", "hba")),
    Variant("md5", looks_up=True),
]


@attrs.frozen
class Place:
    host: str
    port: int


@pytest.fixture
def origin(postgres: LocalPostgres) -> Iterator[LocalPostgres]:
    """PostgreSQL with what the sample names."""
    for role, password in ROLES.items():
        quoted = password.replace("'", "''")
        postgres.run_sql(f"create role {role} login password '{quoted}'")
    postgres.run_sql("alter role bar superuser")
    for database in DATABASES:
        postgres.run_sql(f"create database {database}")
    yield postgres
    for database in DATABASES:
        postgres.run_sql(f"drop database {database} with (force)")
    for role in ROLES:
        postgres.run_sql(f"drop role {role}")


def sample(pg: LocalPostgres, directory: Path, port: int, variant: Variant) -> str:
    """The sample with its examples switched on, of the server that is there."""
    lookup = " auth_user=bar" if variant.looks_up else ""
    there = f"host={pg.host} port={pg.port}{lookup}"
    return adapted(
        {
            "foodb": f"host={pg.socket_dir} port={pg.port}{lookup}",
            "bardb": f"{there} dbname=bazdb",
            "forcedb": f"{there} user=baz password=foo client_encoding=UNICODE datestyle=ISO "
            f"connect_query='SELECT 1'",
            "nondefaultdb": f"{there} pool_size=50 reserve_pool=10",
            "*": there,
            "user1": "pool_mode=transaction max_user_connections=10",
            "admin_users": "marko, someadmin",
            "listen_addr": HOST,
            "listen_port": str(port),
            "unix_socket_dir": str(directory),
            "logfile": str(directory / "log"),
            "pidfile": str(directory / "pid"),
            "server_login_retry": "0.2",  # it makes clients wait who will be refused
            "auth_type": variant.auth_type,
            "auth_hba_file": str(directory / "hba"),
            "auth_file": str(directory / "userlist.txt"),
        }
    )


def write_files(directory: Path) -> None:
    """The files that the sample names. The user that looks others up is added."""
    userlist = (SAMPLES / "userlist.txt").read_text()
    (directory / "userlist.txt").write_text(f"""{userlist}"bar" "{ROLES["bar"]}"\n""")
    (directory / "hba").write_text(HBA)


def ask(place: Place, database: str, user: str, password: str) -> str:
    """What psycopg gets: the answer, or nothing."""
    try:
        with psycopg.connect(
            host=place.host, port=place.port, dbname=database, user=user, password=password, autocommit=True
        ) as connection:
            return str(connection.execute(QUESTION).fetchone())
    except psycopg.Error:
        return REFUSED


def ask_with_psql(program: Path, place: Place, database: str, user: str, password: str, sql: str) -> str:
    """What psql prints, or nothing."""
    done = subprocess.run(
        [program, "-X", "-A", "-t", "-c", sql],
        env={**os.environ, "PGHOST": place.host, "PGPORT": str(place.port), "PGDATABASE": database}
        | {"PGUSER": user, "PGPASSWORD": password, "PGAPPNAME": "psql", "PGCONNECT_TIMEOUT": "20"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout if done.returncode == 0 else REFUSED


def ask_everything(installation: Installation, place: Place, unix: Place) -> dict[str, str]:
    """Every client of this test, by who it is."""
    found = {}
    psql = installation.bin_dir / "psql"
    for user, password in USERS:
        for database in ASKED_FOR:
            found[f"psycopg {user}:{password} {database}"] = ask(place, database, user, password)
    for user, password in USERS[:2]:
        for database in ASKED_FOR:
            found[f"psql {user}:{password} {database}"] = ask_with_psql(
                psql, place, database, user, password, QUESTION
            )
    found["psycopg, Unix socket"] = ask(unix, "bardb", "marko", "asdasd")
    return found


def imported(ini: Path, directory: Path) -> Path:
    """The file that the command prints."""
    result = CliRunner().invoke(command, [str(ini)])
    assert result.exit_code == 0, result.stderr
    toml = directory / "trio-pool.toml"
    toml.write_text(result.stdout)
    return toml


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_same_clients_get_the_same(
    origin: LocalPostgres, installation: Installation, variant: Variant
) -> None:
    """Right and wrong passwords, the sample's databases, the fallback; by psycopg and psql, TCP and Unix."""
    program = find_pgbouncer()
    assert program is not None
    with shared_directory() as directory:
        write_files(directory)
        theirs, ours = free_port(), free_port()
        ini = directory / "pgbouncer.ini"
        ini.write_text(sample(origin, directory, theirs, variant))
        with pgbouncer(program, ini, theirs):
            expected = ask_everything(installation, Place(HOST, theirs), Place(str(directory), theirs))
        ini.write_text(sample(origin, directory, ours, variant))
        toml = imported(ini, directory)

        async def run() -> dict[str, str]:
            async with served(read(toml), 60):
                return await trio.to_thread.run_sync(
                    partial(ask_everything, installation, Place(HOST, ours), Place(str(directory), ours))
                )

        assert trio.run(run) == expected
    assert expected["psycopg, Unix socket"] != REFUSED
    assert REFUSED in expected.values()
    assert (expected["psycopg baz:foo elsewhere"] != REFUSED) is variant.looks_up


@pytest.mark.skipif(
    importlib.util.find_spec("trio_pool.daemon.console") is None, reason="there is no console in this version"
)
def test_the_same_users_get_into_the_console(origin: LocalPostgres, installation: Installation) -> None:
    """By the name that they know, with their password, and nobody else."""
    program = find_pgbouncer()
    assert program is not None
    clients = [("marko", "asdasd"), ("marko", "wrong"), ("postgres", "asdasd"), ("stranger", "asdasd")]

    def ask_all(port: int) -> list[bool]:
        psql = installation.bin_dir / "psql"
        return [
            ask_with_psql(psql, Place(HOST, port), "pgbouncer", user, password, "SHOW VERSION") != REFUSED
            for user, password in clients
        ]

    with shared_directory() as directory:
        write_files(directory)
        theirs, ours = free_port(), free_port()
        ini = directory / "pgbouncer.ini"
        ini.write_text(sample(origin, directory, theirs, Variant("md5")))
        with pgbouncer(program, ini, theirs):
            expected = ask_all(theirs)
        ini.write_text(sample(origin, directory, ours, Variant("md5")))
        toml = imported(ini, directory)

        async def run() -> list[bool]:
            async with served(read(toml), 60):
                return await trio.to_thread.run_sync(ask_all, ours)

        assert trio.run(run) == expected == [True, False, False, False]
