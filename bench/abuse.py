"""Honest clients beside abusers: what is left of their throughput, and what they were told.

Each round has, for each pooler, a run of the honest clients alone and one beside the abusers. See
`bench.abusers` for what those do.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

import attrs

from . import abusers, companion, figures, pgbench, poolers, rounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from trio_pool.cli.postgres import LocalPostgres

READY_SECONDS = 30.0

# Of abusers that are gone, the last query may still run.
SETTLE_SECONDS = 10.0
BUSY = (
    "select count(*) from pg_stat_activity"
    " where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()"
)


@attrs.frozen
class Abuse:
    """What `bench.abusers` is asked for: `how`, and what else follows the port. `name` is for the report."""

    name: str
    how: str
    arguments: tuple[str, ...]


@attrs.frozen
class Round:
    """The honest clients' runs and what the abusers met.

    `busy`: server processes of PostgreSQL that were in a query or a transaction when the honest clients had
    just ended: what the abusers kept busy.
    """

    alone: pgbench.Endured
    beside: pgbench.Endured
    abusers: dict[str, Any]
    busy: int

    @property
    def kept(self) -> float | None:
        """Share of the honest throughput that is left."""
        return figures.ratio(self.beside.tps, self.alone.tps)


def measure(
    postgres: LocalPostgres, target: poolers.Target, honest: pgbench.Work, abuse: Abuse, seconds: int
) -> Round:
    """One run alone and one beside abusers, through one target."""
    bin_dir = postgres.bin("pgbench").parent
    alone = pgbench.endure(bin_dir, poolers.HOST, target.port, honest, seconds)
    longest = seconds + pgbench.GRACE_SECONDS + READY_SECONDS
    arguments = (abuse.how, str(target.port), "--seconds", str(longest), *abuse.arguments)
    with companion.running(abusers.__name__, *arguments, ready_seconds=READY_SECONDS) as process:
        beside = pgbench.endure(bin_dir, poolers.HOST, target.port, honest, seconds)
        busy = int(postgres.run_sql(BUSY))
        met = json.loads(process.finish())
    settle(postgres)
    return Round(alone, beside, met, busy)


def settle(postgres: LocalPostgres) -> None:
    """Wait until what the abusers left behind has ended, so that it is not the next target's burden."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and int(postgres.run_sql(BUSY)):
        time.sleep(0.1)


def interleave(
    postgres: LocalPostgres,
    targets: Mapping[str, poolers.Target],
    honest: pgbench.Work,
    abuse: Abuse,
    number: int,
    seconds: int,
) -> dict[str, list[Round]]:
    """So many rounds, by target."""
    seen: dict[str, list[Round]] = {name: [] for name in targets}
    for one in range(number):
        for name in figures.turn(list(targets), one):
            done = measure(postgres, targets[name], honest, abuse, seconds)
            seen[name].append(done)
            tps = f"{done.alone.tps:9,.0f} tps alone {done.beside.tps:9,.0f} beside"
            print(f"  round {one + 1}/{number}  {name:10} {tps}", file=sys.stderr)
    return seen


def report(work: str, seen: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Print the table and what honest clients were told; return the same for JSON."""
    baseline = rounds.baseline_of(seen)
    print(f"\n{work}: median (lowest-highest)")
    print(
        f"{'':10}  {'alone':>24}  {'beside':>24}  {'beside / alone':>20}  {'beside / ' + baseline:>24}"
        f"  {'abuses/s':>8} {'held s':>6} {'busy':>6}"
    )
    table: dict[str, Any] = {}
    for name, of_target in seen.items():
        against = zip(of_target, seen[baseline], strict=True)
        spreads = {
            "alone": figures.spread(one.alone.tps for one in of_target),
            "beside": figures.spread(one.beside.tps for one in of_target),
            "beside to alone": figures.spread(one.kept for one in of_target),
            f"ratio to {baseline}": figures.spread(
                figures.ratio(one.beside.tps, other.beside.tps) for one, other in against
            ),
            "abuses per second": figures.spread(one.abusers["per_second"] for one in of_target),
            "held": figures.spread(one.abusers["held"] for one in of_target),
            "busy": figures.spread(one.busy for one in of_target),
        }
        columns = zip(spreads.values(), (",.0f", ",.0f", ".3f", ".2f"), (24, 24, 20, 24), strict=False)
        texts = [(f"{spread:{spec}}" if spread else "-").rjust(width) for spread, spec, width in columns]
        medians = [f"{spread.median:.1f}" if spread else "-" for spread in list(spreads.values())[4:]]
        print(f"{name:10}  {'  '.join(texts)}  {medians[0]:>8} {medians[1]:>6} {medians[2]:>6}")
        table[name] = {
            "rounds": [attrs.asdict(one) for one in of_target],
            **rounds.spreads_for_json(spreads),
        }
    for name, of_target in seen.items():
        report_complaints(name, of_target)
    return table


def report_complaints(name: str, of_target: Sequence[Round]) -> None:
    """What pgbench said on behalf of the honest clients, per run."""
    for number, one in enumerate(of_target, 1):
        for when, run in (("alone", one.alone), ("beside abusers", one.beside)):
            if not run.ended:
                print(f"{name}, round {number}, {when}: had to be killed")
            for line, count in run.complaints.items():
                print(f"{name}, round {number}, {when}: {count} x {line}")
