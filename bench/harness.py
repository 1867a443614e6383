"""The whole measurement: the database, the works one after the other, the results as far as they got."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs

from . import conditions, database, poolers, rounds, works
from .problems import LeftOut
from .results import Results, WorkResult
from .stage import Options, Stage
from .works import script

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .screen import Screen
    from .works.work import Work


def chosen_works(options: Options, only: Sequence[str]) -> tuple[Work, ...]:
    """Those named; else the user's script alone; else all, or the quick ones. Raises `LookupError`."""
    own = (script.work(options.script),) if options.script is not None else ()
    if only:
        return (*works.chosen(only), *own)
    return own or (works.chosen(works.QUICK) if options.quick else works.every())


@contextlib.contextmanager
def staged(options: Options, dsn: str | None, bin_dir: str | None, pgbouncer: Path | None) -> Iterator[Stage]:
    """Everything that the works stand on; raises what `database.local` and `database.named` raise."""
    started = database.named(dsn, bin_dir, options.scale) if dsn else database.local(bin_dir, options.scale)
    with started as found:
        yield Stage(options, found, found.connections(), pgbouncer, own=dsn is None)


def measure(
    stage: Stage, chosen: Sequence[Work], screen: Screen, done: Callable[[Results, WorkResult], None]
) -> Results:
    """All of the works; `done` gets each result as soon as it is there, and all up to it."""
    results = Results(conditions.of(stage))
    for warning in results.conditions["warnings"]:
        screen.say(f"warning: {warning}")
    with screen.works(len(chosen)):
        for work in chosen:
            result = measure_work(stage, work, screen)
            results = Results(results.conditions, (*results.works, result))
            done(results, result)
    return results


def measure_work(stage: Stage, work: Work, screen: Screen) -> WorkResult:
    """One work through all of its targets; what fails is in the result."""

    result = WorkResult(work.name, work.does, work.figures, work.unit, work.against)
    options = stage.options
    try:
        with work.plan(stage) as plan:
            number = len(plan.targets) * options.rounds
            with screen.work(work.name, number):
                tell = _telling(screen, work.name)
                targets = rounds.run(plan, options.rounds, options.seconds, tell)
            return attrs.evolve(result, title=plan.title, targets=targets)
    except LeftOut as reason:
        return attrs.evolve(result, left_out=str(reason))
    except rounds.FAILURES as error:
        screen.say(f"  {work.name}: error: {error}")
        return attrs.evolve(result, error=str(error))


def _telling(screen: Screen, work: str) -> rounds.Tell:
    return lambda target, what: screen.tell(work, target, what)


def named_pgbouncer(named: str | None) -> Path | None:
    """The program to measure; raises `FileNotFoundError` if one was named that is not there."""
    found = poolers.find_pgbouncer(named)
    if named and found is None:
        raise FileNotFoundError(f"no program {named}")
    return found
