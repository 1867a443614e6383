"""What every measurement of throughput shares: the targets, the rounds, the table, the command line.

A round has one run of each target, so that a machine that slows down slows them all down. Nothing here
asserts anything about a figure.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from . import figures, pgbench, poolers, processes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from trio_pool.cli.postgres import LocalPostgres

    from .processes import CpuTime

    Start = Callable[[LocalPostgres, poolers.Settings], AbstractContextManager[poolers.Target]]

Samples = dict[str, list[figures.Sample]]


@attrs.frozen
class Reading:
    """What had been used at one moment: by the pooler, by the whole machine, by the link."""

    at: float
    pooler: CpuTime | None
    machine: CpuTime | None
    link: CpuTime | None

    @classmethod
    def of(cls, target: poolers.Target) -> Reading:
        return cls(
            time.monotonic(),
            processes.cpu_time(target.pid) if target.pid else None,
            processes.machine_cpu_time(),
            processes.cpu_time(target.link) if target.link else None,
        )

    def sample(self, after: Reading, run: pgbench.Run) -> figures.Sample:
        """Of a run between this reading and the other."""
        sample = figures.Sample(run.tps, load=run.load)
        if self.pooler and after.pooler:
            used = after.pooler.since(self.pooler)
            sample = attrs.evolve(
                sample,
                user=figures.per_transaction(used.user, run.transactions),
                system=figures.per_transaction(used.system, run.transactions),
            )
        if self.machine and after.machine:
            used = after.machine.since(self.machine)
            machine = figures.per_transaction(used.user + used.system, run.transactions)
            sample = attrs.evolve(sample, machine=machine)
        if self.link and after.link:
            used = after.link.since(self.link)
            sample = attrs.evolve(sample, link=(used.user + used.system) / (after.at - self.at))
        return sample


def measure(bin_dir: Path, target: poolers.Target, work: pgbench.Work, seconds: int) -> figures.Sample:
    """One run through one target."""
    before = Reading.of(target)
    run = pgbench.run(bin_dir, poolers.HOST, target.port, work, seconds)
    return before.sample(Reading.of(target), run)


def interleave(
    bin_dir: Path,
    targets: Mapping[str, poolers.Target],
    work: pgbench.Work,
    rounds: int,
    seconds: int,
    prepare: Callable[[], object] = lambda: None,
) -> Samples:
    """Every target once a round, `prepare` called before each run.

    The first run of all is thrown away: it warms the pools up.
    """
    for target in targets.values():
        pgbench.run(bin_dir, poolers.HOST, target.port, work, 1)
    samples: Samples = {name: [] for name in targets}
    for number in range(rounds):
        for name in figures.turn(list(targets), number):
            prepare()
            sample = measure(bin_dir, targets[name], work, seconds)
            samples[name].append(sample)
            print(f"  round {number + 1}/{rounds}  {name:10} {sample.tps:9,.0f} tps", file=sys.stderr)
    return samples


def report(work: pgbench.Work, samples: Samples) -> dict[str, Any]:
    """Print one work's table; return the same for JSON."""
    baseline = baseline_of(samples)
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
        spreads = {
            "tps": tps,
            f"ratio to {baseline}": ratio,
            **cpu,
            "load": figures.spread(row.load for row in rows),
            "link": figures.spread(row.link for row in rows),
        }
        table[name] = {"rounds": [attrs.asdict(row) for row in rows], **spreads_for_json(spreads)}
    return table


def report_limits(samples: Samples) -> None:
    """Print how busy were the processes that must not be what is measured."""
    for name, rows in samples.items():
        busy = {"pgbench": [row.load for row in rows], "link": [row.link for row in rows]}
        known = [f"{what} {shares:.2f}" for what, shares in _spreads(busy)]
        if known:
            print(f"{name:10}  cores kept busy: {', '.join(known)}")


def _spreads(values: Mapping[str, list[float | None]]) -> Iterator[tuple[str, figures.Spread]]:
    for name, shares in values.items():
        if known := figures.spread(shares):
            yield name, known


def baseline_of(targets: Mapping[str, Any]) -> str:
    """What the others are compared with: PgBouncer if it is there, else PostgreSQL, else the first."""
    return next((name for name in ("pgbouncer", "direct") if name in targets), next(iter(targets)))


def spreads_for_json(spreads: Mapping[str, figures.Spread | None]) -> dict[str, Any]:
    """Without those that are unknown."""
    return {name: attrs.asdict(spread) for name, spread in spreads.items() if spread}


def starters(chosen: argparse.Namespace) -> list[Start]:
    """How to start each pooler that was asked for and is there."""
    found: list[Start] = [] if "trio-pool" in chosen.without else [poolers.trio_pool]
    program = None if "pgbouncer" in chosen.without else poolers.find_pgbouncer(chosen.pgbouncer)
    if program is not None:
        found.append(functools.partial(poolers.pgbouncer, program))
    elif chosen.pgbouncer:
        sys.exit(f"no program {chosen.pgbouncer}")
    return found


@contextlib.contextmanager
def started(
    chosen: argparse.Namespace, postgres: LocalPostgres, settings: poolers.Settings
) -> Iterator[dict[str, poolers.Target]]:
    """Every pooler that was asked for, by name, all with the same settings."""
    with contextlib.ExitStack() as stack:
        targets = [stack.enter_context(start(postgres, settings)) for start in starters(chosen)]
        yield {target.name: target for target in targets}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Those that every measurement has."""
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
    parser.add_argument("--pgbouncer", metavar="PROGRAM", help="default: the one on PATH, if there is one")
    parser.add_argument("--without", action="append", default=[], choices=("trio-pool", "pgbouncer"))
    parser.add_argument(
        "--bin-dir", metavar="DIRECTORY", help="PostgreSQL's programs; default: embedded or found"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here")


def conditions(chosen: argparse.Namespace) -> dict[str, Any]:
    """The machine and the options, as the beginning of what is written as JSON."""
    return {
        "machine": {"platform": platform.platform(), "python": sys.version, "cores": os.cpu_count()},
        "options": {name: value for name, value in vars(chosen).items() if name != "json"},
    }


@contextlib.contextmanager
def recording(file: Path | None, result: Mapping[str, Any]) -> Iterator[None]:
    """Write the result to the file at the end, however far it got.

    SIGTERM ends the measurement as Ctrl-C does, so that nothing that it started is left behind.
    """
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if file:
            file.write_text(json.dumps(result, indent=1) + "\n")
