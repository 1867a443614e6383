"""pgbench with many more clients than server connections, in every protocol mode."""

from __future__ import annotations

import os
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler
from trio_pool.cli.postgres import Installation, LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = int(os.environ.get("TRIO_POOL_PGBENCH_SECONDS", "3"))
CLIENTS = 64
POOL_SIZE = 8
SCALE = 4

MODES = ("simple", "extended", "prepared")
WORKS: dict[str, list[str]] = {"select-only": ["-S"], "tpcb": []}


@pytest.fixture(scope="module")
def origin(installation: Installation) -> Iterator[LocalPostgres]:
    with LocalPostgres(installation.bin_dir) as pg:
        subprocess.run(
            [
                pg.bin("pgbench"),
                "-i",
                "-q",
                "-s",
                str(SCALE),
                "-h",
                pg.host,
                "-p",
                str(pg.port),
                "-U",
                "postgres",
            ],
            check=True,
            capture_output=True,
            env={**os.environ, "PGDATABASE": "postgres"},
        )
        yield pg


@pytest.fixture(scope="module")
def pool(origin: LocalPostgres) -> Iterator[Pooler]:
    with Pooler(origin, tls=False, auth="trust", pool_size=POOL_SIZE, extra=straight_to(origin)) as running:
        yield running


def straight_to(origin: LocalPostgres) -> dict[str, object]:
    url = f"postgresql://postgres@{origin.host}:{origin.port}/postgres"
    return {"databases": {"postgres": {"origin": url, "pool_size": POOL_SIZE}}}


class ConnectionWatch:
    """The most client backends that `pg_stat_activity` shows while it is open, but those that look (psql)."""

    def __init__(self, origin: LocalPostgres) -> None:
        self.most = 0
        self._origin = origin
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> ConnectionWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        count = """select count(*) from pg_stat_activity
            where backend_type = 'client backend' and application_name <> 'psql'"""
        while not self._over.wait(0.1):
            self.most = max(self.most, int(self._origin.run_sql(count).split()[-1]))


@pytest.mark.e2e
@pytest.mark.timeout(SECONDS + 120)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("work", WORKS)
def test_many_clients_share_few_servers(origin: LocalPostgres, pool: Pooler, work: str, mode: str) -> None:
    """64 clients through 8 servers: no transaction fails, there are never more than 8 servers, and money is
    conserved.
    """
    command = [
        str(origin.bin("pgbench")),
        "-n",
        "-T",
        str(SECONDS),
        "-c",
        str(CLIENTS),
        "-M",
        mode,
        *WORKS[work],
    ]
    with ConnectionWatch(origin) as watch:
        run = subprocess.run(
            [*command, "-h", pool.host, "-p", str(pool.port), "-U", "postgres", "postgres"],
            capture_output=True,
            text=True,
        )
    assert run.returncode == 0, run.stderr
    assert "number of failed transactions: 0 (0.000%)" in run.stdout
    assert 0 < watch.most <= POOL_SIZE
    sums = """select (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)
        and (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
        and (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)"""
    if work == "tpcb":
        assert "t" in origin.run_sql(sums).split()
