"""Results that were never measured: rounds whose figures are known."""

from __future__ import annotations

from bench.figures import Latencies
from bench.results import Figure, Results, TargetResult, WorkResult
from bench.sample import Sample

TPS = Figure("tps", "transactions per second")
LATENCY = Figure("p99", "p99, milliseconds", "lower", ".1f")

CONDITIONS = {
    "at": "2026-01-02T03:04:05+00:00",
    "machine": {
        "processor": "Some | Processor",
        "cores": 2,
        "memory": 8 << 30,
        "system": "Linux",
        "kernel": "6.18",
        "architecture": "x86_64",
    },
    "versions": {"trio-pool": "1.0", "pgbench": "pgbench (PostgreSQL) 18.6", "pgbouncer": "1.24.1"},
    "options": {"quick": False, "rounds": 3, "seconds": 5},
    "scale": 10,
    "own database": True,
    "warnings": [],
}


def target(name: str, *values: float, key: str = "tps", load: float = 0.2) -> TargetResult:
    """One sample for each value."""
    latencies = Latencies(1.0, 2.0, 3.0, 4.0, 3.0)
    samples = [
        Sample(1000, {key: value}, latencies, user=7.0, system=14.0, resident=50_000_000, load=load)
        for value in values
    ]
    return TargetResult(name, tuple(samples))


def work(name: str, *targets: TargetResult, figure: Figure = TPS, title: str = "") -> WorkResult:
    return WorkResult(name, title or f"the work {name}", (figure,), targets=targets)


def results(*works: WorkResult) -> Results:
    return Results(CONDITIONS, works)
