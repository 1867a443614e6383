"""The PostgreSQL of the authentication tests: its users, their secrets, the look-up function; and log-ins."""

from __future__ import annotations

import asyncio
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import asyncpg
import attrs
import psycopg
import pytest

from tests.support.target import DATABASE
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.protocol.credentials import ScramSecret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from tests.support.pooler import Pooler
    from trio_pool.cli.postgres import Installation

PASSWORD = "correct horse"
LOOKUP_PASSWORD = "of the look-up"
QUERY = "SELECT name, password, valid_until FROM trio_pool.user_lookup($1)"
ODD_USER = """we"ird ' user; drop role scram; --"""

Table = dict[str, Any]
Where: TypeAlias = "Pooler | LocalPostgres"

_USERS = f"""
create role scram login password '{PASSWORD}';
create role other login password 'another password';
create role expired login password '{PASSWORD}' valid until '2001-02-03';
create role expired_long_ago login password '{PASSWORD}' valid until '-infinity';
create role lasting login password '{PASSWORD}' valid until '2101-02-03 04:05:06.789+09';
create role eternal login password '{PASSWORD}' valid until 'infinity';
create role nobody login;
create role no_login password '{PASSWORD}';
create role "{ODD_USER.replace('"', '""')}" login password '{PASSWORD}';
set password_encryption = 'md5';
create role hashed login password '{PASSWORD}';
"""


def documented_sql() -> str:
    """What docs/authentication.md tells a superuser to run."""
    page = Path(__file__).resolve().parents[2] / "docs" / "authentication.md"
    found = re.search(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    assert found is not None
    return found[1].replace("choose one", LOOKUP_PASSWORD)


@attrs.define(eq=False)
class AuthOrigin:
    """`pg` asks every user for a password over TCP, by MD5 or SCRAM, whichever is stored."""

    pg: LocalPostgres

    @classmethod
    @contextmanager
    def start(cls, installation: Installation, certificates: Certificates) -> Iterator[Self]:
        tls = certificates.server if installation.has_tls else None
        settings = {"max_connections": 200}
        with LocalPostgres(installation.bin_dir, auth="scram-sha-256", tls=tls, settings=settings) as pg:
            (pg.data_dir / "pg_hba.conf").write_text("local all all trust\nhost all all all md5\n")
            pg.run_sql("select pg_reload_conf()")
            pg.run_sql(f"set client_min_messages = error; {_USERS}; create database {DATABASE}")
            pg.run_sql(documented_sql(), DATABASE)
            yield cls(pg)

    def sql(self, text: str, database: str = DATABASE) -> str:
        return self.pg.run_sql(f"set client_min_messages = error; {text}", database).rstrip("\n")

    def secret(self, user: str) -> str:
        """What PostgreSQL has stored."""
        return self.sql(f"select rolpassword from pg_authid where rolname = '{user}'")

    def url(self, user: str | None = None, query: str = "sslmode=disable") -> str:
        at = "" if user is None else f"{user}@"
        return f"postgresql://{at}{self.pg.host}:{self.pg.port}/{DATABASE}?{query}"

    def lookup(self, *, shared: bool = True, url: str | None = None, **auth: object) -> Table:
        """A configuration that looks users up; with one pool for all (as superuser) or one for each user."""
        database: Table = {"origin": url or self.url("postgres" if shared else None), "password_env": None}
        if shared:
            database["password"] = self.pg.password
        return {
            "auth": {
                "query": QUERY,
                "query_user": "pool_lookup",
                "query_password": LOOKUP_PASSWORD,
                **auth,
            },
            "users": {"app": None, "admin": None},
            "admin": None,
            "databases": {DATABASE: database},
        }


# -- clients -------------------------------------------------------------------------------------------------


def connect(
    where: Where, user: str, password: str | None = PASSWORD, **options: str
) -> psycopg.Connection[Any]:
    parameters: Table = {"dbname": DATABASE, "sslmode": "disable", "connect_timeout": "20", **options}
    return psycopg.connect(
        host=where.host, port=where.port, user=user, password=password, autocommit=True, **parameters
    )


def ask(
    where: Where, user: str, password: str | None = PASSWORD, sql: str = "select current_user", **options: str
) -> str:
    """The first column of the only row, by psycopg."""
    with connect(where, user, password, **options) as connection:
        row = connection.execute(sql).fetchone()
        assert row is not None
        return str(row[0])


def refusal(where: Where, user: str, password: str | None = PASSWORD, **options: str) -> str:
    """What the server says instead of letting the client in."""
    with pytest.raises(psycopg.OperationalError) as caught:
        connect(where, user, password, **options).close()
    return str(caught.value).rpartition("FATAL:  ")[2].strip()


def ask_asyncpg(where: Where, user: str, password: str = PASSWORD, sql: str = "select current_user") -> str:
    async def run() -> str:
        connection = await asyncpg.connect(
            host=where.host, port=where.port, user=user, password=password, database=DATABASE, ssl=False
        )
        try:
            return str(await connection.fetchval(sql))
        finally:
            await connection.close()

    return asyncio.run(run())


def ask_psql(
    origin: AuthOrigin, where: Where, user: str, password: str = PASSWORD, sql: str = "select current_user"
) -> str:
    done = subprocess.run(
        [
            str(origin.pg.bin("psql")),
            "-XAtw",
            "-h",
            where.host,
            "-p",
            str(where.port),
            "-U",
            user,
            "-c",
            sql,
            DATABASE,
        ],
        env={"PGPASSWORD": password, "PGSSLMODE": "disable", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return (done.stdout + done.stderr).strip()


def derived(password: str = PASSWORD, salt: bytes = b"sixteen bytes ss", iterations: int = 4096) -> str:
    """A SCRAM secret of the password, with a salt of our own."""
    return str(ScramSecret.derive(password.encode(), salt, iterations))


def wrong(user: str) -> str:
    """What everybody is told who is not let in."""
    return f'password authentication failed for user "{user}"'
