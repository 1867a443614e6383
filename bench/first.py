"""The first measurement: select-only through each target, interleaved, and the memory of idle clients.

    python -m bench.first                        from a checkout
    python -m trio_pool.bench.first              installed

Starts a throw-away PostgreSQL, trio-pool and, where it is found, PgBouncer, and runs pgbench through them and
directly, in rounds; every round has one run of each, so that a machine that slows down slows them all down.
It never asserts anything about a figure.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import attrs

from trio_pool.cli.postgres import LocalPostgres

from . import idle, pgbench, poolers, processes, rounds

if TYPE_CHECKING:
    from .rounds import Samples

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "extended", "prepared")


def measure_throughput(
    postgres: LocalPostgres, chosen: argparse.Namespace, settings: poolers.Settings
) -> dict[str, Any]:
    """All works through all targets; by work and target."""
    tables = {}
    bin_dir = postgres.bin("pgbench").parent
    pgbench.initialize(bin_dir, poolers.HOST, postgres.port, chosen.scale)
    with rounds.started(chosen, postgres, settings) as started:
        targets = {"direct": poolers.direct(postgres), **started}
        for protocol in chosen.protocol or PROTOCOLS:
            name = f"select-only, {protocol}, {chosen.clients} clients, pool of {settings.pool}"
            work = pgbench.Work(name, chosen.clients, protocol)
            samples: Samples = rounds.interleave(bin_dir, targets, work, chosen.rounds, chosen.seconds)
            tables[name] = rounds.report(work, samples)
    return tables


def measure_idle(
    postgres: LocalPostgres, chosen: argparse.Namespace, settings: poolers.Settings
) -> dict[str, dict[str, Any]]:
    """Idle clients on a fresh process of each pooler; by target."""
    table = {}
    print(f"\n{chosen.idle:,} idle clients: bytes of resident memory per client; logins per second")
    for start in rounds.starters(chosen):
        with start(postgres, settings) as target:
            seen = idle.measure(target, chosen.idle)
        memory = "-" if seen.client_bytes is None else f"{seen.client_bytes:,.0f}"
        print(f"{target.name:10}  {memory:>24}  {seen.per_second:>18,.0f}")
        table[target.name] = attrs.asdict(seen)
    return table


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The first measurement: throughput, CPU and idle clients")
    rounds.add_options(parser)
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS, help="default: all three, in turn")
    parser.add_argument(
        "--idle", type=int, default=9000, metavar="N", help="idle clients, 0 for none (default %(default)s)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    files = processes.raise_file_limit()
    # Both ends: a pooler's clients and servers are below its limit, a few files aside.
    if chosen.idle > files - 200:
        sys.exit(f"{chosen.idle} idle clients need more files than the hard limit, {files}")
    settings = poolers.Settings(chosen.pool_size, max(chosen.idle, chosen.clients) + 100, chosen.queue_ahead)
    of_postgres: dict[str, str | int | bool] = {
        "max_connections": max(chosen.clients, 2 * chosen.pool_size) + 50
    }
    result = rounds.conditions(chosen)
    try:
        with (
            rounds.recording(chosen.json, result),
            LocalPostgres(bin_dir=chosen.bin_dir, settings=of_postgres) as postgres,
        ):
            result["machine"]["postgresql"] = postgres.version
            if chosen.rounds:
                result["throughput"] = measure_throughput(postgres, chosen, settings)
            if chosen.idle:
                result["idle"] = measure_idle(postgres, chosen, settings)
    except (poolers.PoolerStartError, pgbench.PgbenchError, idle.LoginError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
