"""Honest clients beside abusers: what is left of their throughput, and what they were told.

Each run has the honest clients alone and then beside the abusers, of which `bench.abusers` tells what they
do. That honest clients fail is a result, not an error: nothing at all may be left of their throughput.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from typing import TYPE_CHECKING, Any

import attrs

from .. import abusers, companion, figures, pgbench, poolers
from ..results import Figure
from ..sample import Done, Sample, accounted
from .work import WARM_UP_SECONDS, Plan, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..database import Database
    from ..stage import Stage

HONEST, ABUSERS, HOLD_SECONDS, VANISH_RATE = 50, 50, 2.0, 20.0
READY_SECONDS = 30.0
POOL_CLIENTS = 10_000

# An open transaction may be idle for 200 ms. PgBouncer takes fractions of a second (its parser of times reads
# a floating-point number), but looks at them three times a second (full_maint_period in its janitor.c), so it
# ends them after 200 to 533 ms.
IDLE_TOML = """\
[timeouts]
idle_in_transaction = "200ms"
"""
IDLE_INI = "idle_transaction_timeout = 0.2"

# Of abusers that are gone, the last query may still run.
SETTLE_SECONDS = 10.0
BUSY = (
    "select count(*) from pg_stat_activity"
    " where backend_type = 'client backend' and state <> 'idle' and pid <> pg_backend_pid()"
)

FIGURES = (
    Figure("beside", "honest transactions per second beside abusers"),
    Figure("kept", "share of what they did alone", "higher", ".3f"),
    Figure("alone", "honest transactions per second alone"),
    Figure("abuses", "abuses per second", "neither", ",.1f"),
    Figure("held", "seconds until an abuser was disconnected", "neither", ".2f"),
    Figure("busy", "server processes that abusers kept busy at the end", "neither"),
)


@attrs.frozen
class Abuse:
    """What `bench.abusers` is asked for: `how`, and what else follows the port."""

    how: str
    arguments: tuple[str, ...]
    toml: str = ""
    ini: str = ""


HOLD = Abuse("hold", ("--clients", str(ABUSERS), "--hold", str(HOLD_SECONDS)), IDLE_TOML, IDLE_INI)
HOLD_AWAKE = attrs.evolve(HOLD, arguments=(*HOLD.arguments, "--awake"))
VANISH = Abuse("vanish", ("--rate", str(VANISH_RATE)))


@contextlib.contextmanager
def plan(abuse: Abuse, what: str, stage: Stage) -> Iterator[Plan]:
    pool = stage.pool()
    honest = pgbench.Load(stage.clients(HONEST))
    program = stage.database.pgbench

    def warm_up(target: poolers.Target) -> None:
        pgbench.endure(program, target.login, honest, WARM_UP_SECONDS)

    def measure(target: poolers.Target, seconds: int) -> Sample:
        return accounted(target, functools.partial(run, stage.database, target, honest, abuse, seconds))

    targets = stage.both(poolers.Settings(pool, POOL_CLIENTS, toml=abuse.toml, ini=abuse.ini))
    title = f"{honest.clients} honest clients beside {what}, pool of {pool}"
    yield Plan(title, targets, measure, warm_up)


def run(database: Database, target: poolers.Target, honest: pgbench.Load, abuse: Abuse, seconds: int) -> Done:
    """One run alone and one beside abusers, through one target."""
    alone = pgbench.endure(database.pgbench, target.login, honest, seconds)
    longest = seconds + pgbench.GRACE_SECONDS + READY_SECONDS
    arguments = (abuse.how, str(target.port), "--seconds", str(longest), *abuse.arguments)
    with companion.running(abusers.__name__, *arguments, ready_seconds=READY_SECONDS) as process:
        beside = pgbench.endure(database.pgbench, target.login, honest, seconds)
        busy = int(database.run_sql(BUSY))
        met = json.loads(process.finish())
    settle(database)
    return Done(
        alone.transactions + beside.transactions,
        figures_of(alone, beside, met, busy),
        notes=(
            *notes("alone", alone),
            *notes("beside abusers", beside),
            f"abusers: {json.dumps(brief(met))}",
        ),
    )


def figures_of(
    alone: pgbench.Endured, beside: pgbench.Endured, met: dict[str, Any], busy: int
) -> dict[str, float]:
    """Without those that are unknown: nothing is kept of nothing, and nobody may have been disconnected."""
    found = {
        "beside": beside.tps,
        "kept": figures.ratio(beside.tps, alone.tps),
        "alone": alone.tps,
        "abuses": met["per_second"],
        "held": met["held"],
        "busy": float(busy),
    }
    return {key: value for key, value in found.items() if value is not None}


def brief(met: dict[str, Any]) -> dict[str, Any]:
    """What abusers met, but for what is a figure."""
    return {key: met[key] for key in ("began", "vanished", "refused", "disconnected", "errors")}


def notes(when: str, run: pgbench.Endured) -> Iterator[str]:
    """What pgbench said on behalf of the honest clients."""
    if not run.ended:
        yield f"{when}: had to be killed"
    for line, count in run.complaints.items():
        yield f"{when}: {count} x {line}"


def settle(database: Database) -> None:
    """Wait until what the abusers left behind has ended, so that it is not the next target's burden."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline and int(database.run_sql(BUSY)):
        time.sleep(0.1)


WORKS = tuple(
    Work(
        f"abuse-{name}",
        f"honest clients beside {what}",
        functools.partial(plan, abuse, what),
        figures=FIGURES,
        unit="honest transaction",
        against=("pgbouncer",),
    )
    for name, abuse, what in (
        ("idle", HOLD_AWAKE, f"{ABUSERS} that leave transactions open"),
        ("idle-asleep", HOLD, f"{ABUSERS} that leave transactions open, asleep"),
        ("vanish", VANISH, f"{VANISH_RATE:g} a second that vanish in the middle of a query"),
    )
)
