"""The example in examples/ and the quick start does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import trio

import trio_pool
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

ROOT = Path(__file__).resolve().parent.parent


def origin(pg: LocalPostgres) -> str:
    return f"postgresql://{USER}:{quote(PASSWORD, safe='')}@{pg.host}:{pg.port}/{DATABASE}"


def test_the_example_answers(postgres: LocalPostgres) -> None:
    """A Trio program runs the pooler in its nursery, asks through it, stops it, and ends."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "embedding.py"), origin(postgres)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "The answer is 42" in done.stdout.splitlines()
    assert done.stderr == ""


def test_cancelling_stops_it_at_once(postgres: LocalPostgres) -> None:
    """Cancelled in the middle of a client's statement, `serve` ends cleanly and at once."""
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "databases": {"db": {"origin": origin(postgres)}},
        }
    )

    async def main() -> None:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                service: trio_pool.Service = await nursery.start(trio_pool.serve, config)
                port = service.addresses[0].rpartition(":")[2]
                nursery.start_soon(run_statement, port)
                # A lease tells nobody that it has begun.
                while not any(pool.pool.leased for pool in service.pools.values()):  # noqa: ASYNC110
                    await trio.sleep(0.01)
                nursery.cancel_scope.cancel()

    async def run_statement(port: str) -> None:
        psql = [str(postgres.bin("psql")), "-X", "-h", "127.0.0.1", "-p", port, "-U", "app", "-d", "db"]
        await trio.run_process([*psql, "-c", "select pg_sleep(60)"], check=False)

    trio.run(main)


def test_an_address_that_is_taken_raises(postgres: LocalPostgres) -> None:
    """An address that cannot be listened on is an OSError of `nursery.start`, in the nursery's group."""

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            settings = {"auth": {"method": "trust"}, "databases": {"db": {"origin": origin(postgres)}}}
            free = trio_pool.Config.from_dict({**settings, "listen": {"addresses": ["127.0.0.1:0"]}})
            service: trio_pool.Service = await nursery.start(trio_pool.serve, free)
            taken = trio_pool.Config.from_dict({**settings, "listen": {"addresses": [*service.addresses]}})
            await nursery.start(trio_pool.serve, taken)

    with pytest.RaisesGroup(OSError):
        trio.run(main)
