"""The first measurement: select-only through each target, interleaved, and the memory of idle clients.

    python -m bench.first                        from a checkout
    python -m trio_pool.bench.first              installed

Starts a throw-away PostgreSQL, trio-pool and, where it is found, PgBouncer, and runs pgbench through them and
directly, in rounds; every round has one run of each, so that a machine that slows down slows them all down.
It never asserts anything about a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from trio_pool.cli.postgres import LocalPostgres

from . import figures, idle, pgbench, poolers, processes

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    Start = Callable[[LocalPostgres, poolers.Size], AbstractContextManager[poolers.Target]]

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "extended", "prepared")

Samples = dict[str, list[figures.Sample]]


def measure(bin_dir: Path, target: poolers.Target, work: pgbench.Work, seconds: int) -> figures.Sample:
    """One run through one target."""
    before = processes.cpu_time(target.pid) if target.pid else None
    machine_before = processes.machine_cpu_time()
    run = pgbench.run(bin_dir, poolers.HOST, target.port, work, seconds)
    after = processes.cpu_time(target.pid) if target.pid else None
    machine_after = processes.machine_cpu_time()
    sample = figures.Sample(run.tps)
    if before and after:
        used = after.since(before)
        sample = attrs.evolve(
            sample,
            user=figures.per_transaction(used.user, run.transactions),
            system=figures.per_transaction(used.system, run.transactions),
        )
    if machine_before and machine_after:
        used = machine_after.since(machine_before)
        machine = figures.per_transaction(used.user + used.system, run.transactions)
        sample = attrs.evolve(sample, machine=machine)
    return sample


def interleave(
    bin_dir: Path, targets: dict[str, poolers.Target], work: pgbench.Work, rounds: int, seconds: int
) -> Samples:
    """Every target once a round. The first run of all is thrown away: it warms the pools up."""
    for target in targets.values():
        pgbench.run(bin_dir, poolers.HOST, target.port, work, 1)
    samples: Samples = {name: [] for name in targets}
    for number in range(rounds):
        for name in figures.turn(list(targets), number):
            sample = measure(bin_dir, targets[name], work, seconds)
            samples[name].append(sample)
            print(f"  round {number + 1}/{rounds}  {name:10} {sample.tps:9,.0f} tps", file=sys.stderr)
    return samples


def report(work: pgbench.Work, samples: Samples) -> dict[str, Any]:
    """Print one work's table; return the same for JSON."""
    baseline = "pgbouncer" if "pgbouncer" in samples else "direct"
    print(f"\n{work.name}: median (lowest-highest); CPU in microseconds per transaction")
    print(f"{'':10}  {'tps':>24}  {'/ ' + baseline:>18}  {'user':>5} {'system':>6} {'machine':>7}")
    table: dict[str, Any] = {}
    for name, rows in samples.items():
        tps = figures.spread(row.tps for row in rows)
        ratio = figures.ratios(rows, samples[baseline])
        cpu = {
            "user": figures.spread(row.user for row in rows),
            "system": figures.spread(row.system for row in rows),
            "machine": figures.spread(row.machine for row in rows),
        }
        medians = [f"{value.median:.1f}" if value else "-" for value in cpu.values()]
        print(f"{name:10}  {tps:>,.0f}".ljust(36), f" {ratio:.3f}".ljust(21), end="")
        print(f"{medians[0]:>5} {medians[1]:>6} {medians[2]:>7}")
        spreads = {"tps": tps, f"ratio to {baseline}": ratio, **cpu}
        table[name] = {
            "rounds": [attrs.asdict(row) for row in rows],
            **{key: attrs.asdict(value) for key, value in spreads.items() if value},
        }
    return table


def measure_throughput(
    postgres: LocalPostgres, chosen: argparse.Namespace, size: poolers.Size
) -> dict[str, Any]:
    """All works through all targets; by work and target."""
    tables = {}
    with contextlib.ExitStack() as stack:
        bin_dir = postgres.bin("pgbench").parent
        pgbench.initialize(bin_dir, poolers.HOST, postgres.port, chosen.scale)
        started = (stack.enter_context(start(postgres, size)) for start in starters(chosen))
        targets = {target.name: target for target in (poolers.direct(postgres), *started)}
        for protocol in chosen.protocol or PROTOCOLS:
            name = f"select-only, {protocol}, {chosen.clients} clients, pool of {size.pool}"
            work = pgbench.Work(name, chosen.clients, protocol)
            samples = interleave(bin_dir, targets, work, chosen.rounds, chosen.seconds)
            tables[name] = report(work, samples)
    return tables


def measure_idle(
    postgres: LocalPostgres, chosen: argparse.Namespace, size: poolers.Size
) -> dict[str, dict[str, Any]]:
    """Idle clients on a fresh process of each pooler; by target."""
    table = {}
    print(f"\n{chosen.idle:,} idle clients: bytes of resident memory per client; logins per second")
    for start in starters(chosen):
        with start(postgres, size) as target:
            seen = idle.measure(target, chosen.idle)
        memory = "-" if seen.client_bytes is None else f"{seen.client_bytes:,.0f}"
        print(f"{target.name:10}  {memory:>24}  {seen.per_second:>18,.0f}")
        table[target.name] = attrs.asdict(seen)
    return table


def starters(chosen: argparse.Namespace) -> list[Start]:
    """How to start each pooler that was asked for and is there."""
    found: list[Start] = [] if "trio-pool" in chosen.without else [poolers.trio_pool]
    program = None if "pgbouncer" in chosen.without else poolers.find_pgbouncer(chosen.pgbouncer)
    if program is not None:
        found.append(functools.partial(poolers.pgbouncer, program))
    elif chosen.pgbouncer:
        sys.exit(f"no program {chosen.pgbouncer}")
    return found


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="The first measurement: throughput, CPU and idle clients")
    parser.add_argument("--rounds", type=int, default=5, metavar="R", help="rounds (default %(default)s)")
    parser.add_argument(
        "--seconds", type=int, default=5, metavar="T", help="of each run (default %(default)s)"
    )
    parser.add_argument(
        "--clients", type=int, default=32, metavar="N", help="of pgbench (default %(default)s)"
    )
    parser.add_argument(
        "--pool-size", type=int, default=20, metavar="N", help="server connections (default 20)"
    )
    parser.add_argument(
        "--queue-ahead", type=int, default=0, metavar="N", help="trio-pool's (default 0, off)"
    )
    parser.add_argument(
        "--scale", type=int, default=10, metavar="N", help="pgbench's -s (default %(default)s)"
    )
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS, help="default: all three, in turn")
    parser.add_argument(
        "--idle", type=int, default=9000, metavar="N", help="idle clients, 0 for none (default %(default)s)"
    )
    parser.add_argument("--pgbouncer", metavar="PROGRAM", help="default: the one on PATH, if there is one")
    parser.add_argument("--without", action="append", default=[], choices=("trio-pool", "pgbouncer"))
    parser.add_argument(
        "--bin-dir", metavar="DIRECTORY", help="PostgreSQL's programs; default: embedded or found"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    files = processes.raise_file_limit()
    # Both ends: a pooler's clients and servers are below its limit, a few files aside.
    if chosen.idle > files - 200:
        sys.exit(f"{chosen.idle} idle clients need more files than the hard limit, {files}")
    size = poolers.Size(chosen.pool_size, max(chosen.idle, chosen.clients) + 100, chosen.queue_ahead)
    settings: dict[str, str | int | bool] = {
        "max_connections": max(chosen.clients, 2 * chosen.pool_size) + 50
    }
    result: dict[str, Any] = {
        "machine": {"platform": platform.platform(), "python": sys.version, "cores": os.cpu_count()},
        "options": {name: value for name, value in vars(chosen).items() if name != "json"},
    }
    try:
        with LocalPostgres(bin_dir=chosen.bin_dir, settings=settings) as postgres:
            result["machine"]["postgresql"] = postgres.version
            if chosen.rounds:
                result["throughput"] = measure_throughput(postgres, chosen, size)
            if chosen.idle:
                result["idle"] = measure_idle(postgres, chosen, size)
    except (poolers.PoolerStartError, pgbench.PgbenchError, idle.LoginError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    finally:
        if chosen.json:
            chosen.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
