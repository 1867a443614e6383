"""The PostgreSQL that everything is measured with: one of our own, or the one that a DSN names.

In a PostgreSQL that is not ours nothing is destroyed: pgbench's tables are used as they are if they exist
(their contents change, as pgbench changes them) and removed at the end if they did not, as is the table that
COPY fills.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from trio_pool.cli.installations import embedded_bin_dir
from trio_pool.cli.postgres import LocalPostgres

from . import pgbench
from .login import Login
from .problems import TargetError

if TYPE_CHECKING:
    from collections.abc import Iterator

SQL_SECONDS = 60.0

# The largest crowd of direct connections, and the orphaned queries of clients that vanish.
MAX_CONNECTIONS = 1600

# What COPY fills.
COPY_TABLE = "trio_pool_bench"

PGBENCH_TABLES = "pgbench_accounts, pgbench_branches, pgbench_tellers, pgbench_history"


@attrs.frozen
class Database:
    """Where it is and which programs go with it. `scale`: of pgbench's tables, 100,000 accounts for each."""

    login: Login
    pgbench: Path
    psql: Path
    scale: int = 1

    def run_sql(self, text: str) -> str:
        """What psql prints for these statements, unaligned and without headings; raises `TargetError`."""
        options = ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-", *self.login.options()]
        try:
            done = subprocess.run(
                [self.psql, *options, "-d", self.login.database],
                input=text,
                capture_output=True,
                text=True,
                env=self.login.environment(),
                timeout=SQL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise TargetError(f"psql did not end within {SQL_SECONDS:.0f} s: {text}") from None
        if done.returncode != 0:
            raise TargetError(f"psql: {done.stderr.strip()}")
        return done.stdout

    def version(self) -> str:
        return self.run_sql("show server_version").strip()

    def connections(self) -> int:
        """How many clients it lets in at once, less what it keeps for superusers."""
        shown = self.run_sql("show max_connections; show superuser_reserved_connections").split()
        return int(shown[0]) - int(shown[1])


@contextlib.contextmanager
def local(bin_dir: str | None, scale: int) -> Iterator[Database]:
    """A throw-away PostgreSQL with pgbench's tables; raises what `LocalPostgres` raises, or `TargetError`."""
    with LocalPostgres(bin_dir=bin_dir, settings={"max_connections": MAX_CONNECTIONS}) as postgres:
        login = Login(postgres.host, postgres.port, postgres.superuser)
        database = Database(login, postgres.bin("pgbench"), postgres.bin("psql"), scale)
        pgbench.initialize(database.pgbench, login, scale)
        yield database


@contextlib.contextmanager
def named(dsn: str, bin_dir: str | None, scale: int) -> Iterator[Database]:
    """The one that the DSN names; raises `ValueError`, `FileNotFoundError` or `TargetError`."""
    login = Login.parse(dsn)
    database = Database(login, program("pgbench", bin_dir), program("psql", bin_dir), scale)
    exists = database.run_sql("select to_regclass('pgbench_branches') is not null").strip() == "t"
    if exists:
        found = int(database.run_sql("select count(*) from pgbench_branches"))
        database = attrs.evolve(database, scale=max(1, found))
    else:
        pgbench.initialize(database.pgbench, login, scale)
    try:
        yield database
    finally:
        with contextlib.suppress(TargetError):
            database.run_sql(f"drop table if exists {COPY_TABLE}")
            if not exists:
                database.run_sql(f"drop table if exists {PGBENCH_TABLES}")


def program(name: str, bin_dir: str | None) -> Path:
    """A client program of PostgreSQL: in the directory named, else in the embedded wheel, else on PATH."""
    embedded = embedded_bin_dir()
    places = [bin_dir] if bin_dir else [*([str(embedded)] if embedded else []), None]
    for place in places:
        if found := shutil.which(name, path=place):
            return Path(found)
    raise FileNotFoundError(f"no program {name}: install trio-pool[embedded], or name its directory")
