"""`prometheus-pgbouncer-exporter` (PyPI), unchanged, against a real PgBouncer and against the console."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench import poolers
from bench.login import HOST, Login
from tests.support.raw import RawClient
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.core import Metric

    from tests.support.pooler import Pooler
    from trio_pool.cli.postgres import LocalPostgres

# It requires psycopg2, which has no wheels; psycopg2-binary is the same, but pip does not know that.
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("prometheus_pgbouncer_exporter") is None,
    reason="not installed: pip install --no-deps prometheus-pgbouncer-exporter, and python-json-logger",
)

PROGRAM = poolers.find_pgbouncer()
READY_SECONDS = 20.0

Metrics = dict[str, "Metric"]


@contextlib.contextmanager
def exporter(directory: Path, user: str, port: int) -> Iterator[str]:
    """The exporter's process for one console; gives the address of its metrics."""
    here = poolers.free_port()
    file = directory / "config.yml"
    pgbouncer = {"dsn": f"postgresql://{user}@{HOST}:{port}/pgbouncer?sslmode=disable"}
    file.write_text(json.dumps({"exporter_port": here, "pgbouncers": [pgbouncer]}))  # which is YAML
    command = [sys.executable, "-m", "prometheus_pgbouncer_exporter.cli", "--config", str(file)]
    with (directory / "printed").open("wb") as printed:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=printed, stderr=printed)
    try:
        yield f"http://{HOST}:{here}/metrics"
    finally:
        process.kill()  # SIGTERM takes it four seconds
        process.wait()


def metrics(directory: Path, user: str, port: int) -> Metrics:
    """What the exporter exports, by name; without those of its own process."""
    with exporter(directory, user, port) as address:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                with urllib.request.urlopen(address, timeout=READY_SECONDS) as answer:
                    text = answer.read().decode()
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline, (directory / "printed").read_text()
                time.sleep(0.05)
    found = {family.name: family for family in text_string_to_metric_families(text)}
    assert found["pgbouncer_up"].samples[0].value == 1, (directory / "printed").read_text()
    return {name: family for name, family in found.items() if name.startswith("pgbouncer_")}


def shape(found: Metrics) -> dict[str, tuple[str, set[tuple[str, ...]]]]:
    """Types and label names."""
    return {
        name: (family.type, {tuple(sorted(sample.labels)) for sample in family.samples})
        for name, family in found.items()
    }


@pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed")
def test_every_metric_of_pgbouncer_is_exported(postgres: LocalPostgres, own: Pooler, tmp_path: Path) -> None:
    """With the same type and the same labels."""
    assert PROGRAM is not None
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.run("select 1") == []
        ours = metrics(tmp_path, "admin", own.port)
    origin = Login(postgres.host, postgres.port, USER, DATABASE, PASSWORD)
    settings = poolers.Settings(ini="admin_users = postgres\n")
    with (
        poolers.pgbouncer(PROGRAM, "pgbouncer", origin, settings) as target,
        RawClient.log_in((HOST, target.port), "postgres", "postgres") as client,
    ):
        assert client.run("select 1") == []
        theirs = metrics(tmp_path, "postgres", target.port)
    assert {name: shape(ours).get(name) for name in theirs} == shape(theirs)


def test_the_figures_are_ours(own: Pooler, tmp_path: Path) -> None:
    """What the exporter reads is what has happened."""
    with RawClient.log_in((own.host, own.port)) as client:
        for _ in range(3):
            assert client.run("select 1") == []
        found = metrics(tmp_path, "admin", own.port)

    def value(name: str) -> float:
        (sample,) = (s for s in found[name].samples if s.labels.get("database", DATABASE) == DATABASE)
        return sample.value

    assert value("pgbouncer_stats_queries") == 3
    assert value("pgbouncer_pools_server_idle_connections") == 1
    assert value("pgbouncer_pools_client_active_connections") == 1
    assert value("pgbouncer_databases_database_pool_size") == 2
    assert value("pgbouncer_config_max_client_conn") == 10_000
