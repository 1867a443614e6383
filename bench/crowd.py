"""Many clients on few servers: how long the unlucky ones wait, from pgbench's log of every transaction."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import attrs

from . import figures, pgbench, poolers, rounds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

# At the beginning all connect and all ask at once.
LEFT_OUT_SECONDS = 1


@attrs.frozen
class Round:
    """One run through one target."""

    run: pgbench.Run
    latencies: figures.Latencies


def interleave(
    bin_dir: Path,
    targets: Mapping[str, poolers.Target],
    work: pgbench.Work,
    number: int,
    seconds: int,
) -> dict[str, list[Round]]:
    """So many rounds, by target."""
    seen: dict[str, list[Round]] = {name: [] for name in targets}
    for one in range(number):
        for name in figures.turn(list(targets), one):
            port = targets[name].port
            run, taken = pgbench.run_logged(bin_dir, poolers.HOST, port, work, seconds, LEFT_OUT_SECONDS)
            seen[name].append(Round(run, figures.latencies(taken)))
            tail = seen[name][-1].latencies.tail
            print(f"  round {one + 1}/{number}  {name:10} p99 / p50 {tail:7.2f}", file=sys.stderr)
    return seen


def report(work: pgbench.Work, seen: Mapping[str, Sequence[Round]]) -> dict[str, Any]:
    """Print the table; return the same for JSON."""
    print(f"\n{work.name}: milliseconds; median (lowest-highest); cores that pgbench kept busy")
    print(f"{'':10}  {'p50':>8} {'p95':>8} {'p99':>8} {'p99.9':>8}  {'p99 / p50':>22}  {'tps':>24}  pgbench")
    table: dict[str, Any] = {}
    for name, of_target in seen.items():
        latencies = [one.latencies for one in of_target]
        spreads = {
            "p50": figures.spread(one.p50 for one in latencies),
            "p95": figures.spread(one.p95 for one in latencies),
            "p99": figures.spread(one.p99 for one in latencies),
            "p999": figures.spread(one.p999 for one in latencies),
            "p99 to p50": figures.spread(one.tail for one in latencies),
            "tps": figures.spread(one.run.tps for one in of_target),
            "load": figures.spread(one.run.load for one in of_target),
        }
        known = {key: spread for key, spread in spreads.items() if spread}
        medians = " ".join(f"{known[key].median:8.2f}" for key in ("p50", "p95", "p99", "p999"))
        tail, tps, load = f"{known['p99 to p50']:.2f}", f"{known['tps']:,.0f}", known["load"].median
        print(f"{name:10}  {medians}  {tail:>22}  {tps:>24}  {load:.2f}")
        every = [attrs.asdict(one) for one in of_target]
        table[name] = {"rounds": every, **rounds.spreads_for_json(spreads)}
    return table
