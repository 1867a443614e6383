"""The outcomes of a test suite on PostgreSQL directly and through the pool, and what may differ.

A test that passes directly must pass through the pool, unless a file of exceptions names it with a reason;
and what is named there must still fail. It must never know whose suite it is or how it was run.
"""

from __future__ import annotations

import enum
import json
import re
import tomllib
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path


class Outcome(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNFINISHED = "unfinished"
    MISSING = "missing"


@attrs.frozen
class Result:
    """How a test ended; `message` is the last line of its traceback or the reason it was skipped."""

    outcome: Outcome
    message: str = ""


def read_reports(text: str, rename: Callable[[str], str] = str) -> dict[str, Result]:
    """Results from the JSON lines of the plugin `outcomes`: a test's worst report counts.

    `rename` makes of pytest's id the name that is the same on every PostgreSQL.
    """
    results: dict[str, Result] = {}
    finished = set()
    for line in text.splitlines():
        report = json.loads(line)
        name, outcome = rename(report["id"]), Outcome(report["outcome"])
        before = results.get(name, Result(Outcome.PASSED))
        worse = before.outcome is not Outcome.FAILED and outcome is not Outcome.PASSED
        results[name] = Result(outcome, report["message"]) if worse else before
        if report["when"] == "teardown":
            finished.add(name)
    return {
        name: result if name in finished or result.outcome is Outcome.FAILED else Result(Outcome.UNFINISHED)
        for name, result in results.items()
    }


class Names:
    """Names of tests; a `*` in a name stands for any text and makes it several tests."""

    def __init__(self, names: Iterable[str]) -> None:
        self._patterns = {name: re.compile(".*".join(map(re.escape, name.split("*")))) for name in names}
        self._stars = [pattern for name, pattern in self._patterns.items() if "*" in name]

    def __contains__(self, test: str) -> bool:
        return test in self._patterns or any(pattern.fullmatch(test) for pattern in self._stars)

    def without_test(self, tests: Collection[str]) -> list[str]:
        """The names that none of the tests bears."""
        return [
            name
            for name, pattern in self._patterns.items()
            if name not in tests and not ("*" in name and any(map(pattern.fullmatch, tests)))
        ]


@attrs.frozen
class Exceptions:
    """Tests that need not pass through the pool at once, with the reasons: those that must fail, those that
    may, and those that are too hasty for a busy machine, which must pass when they are run again.
    """

    must: Mapping[str, str] = attrs.field(factory=dict)
    may: Mapping[str, str] = attrs.field(factory=dict)
    hasty: Mapping[str, str] = attrs.field(factory=dict)


def read_exceptions(path: Path) -> Exceptions:
    """What a file of exceptions names in its tables `exceptions`, `either` and, if there is one, `hasty`."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return Exceptions(table["exceptions"], table["either"], table.get("hasty", {}))


def failed_in_haste(
    direct: Mapping[str, Result], pooled: Mapping[str, Result], exceptions: Exceptions
) -> list[str]:
    """The hasty ones that pass directly and have not passed through the pool."""
    return [
        name
        for name in exceptions.hasty
        if name in direct
        and direct[name].outcome is Outcome.PASSED
        and pooled.get(name, Result(Outcome.MISSING)).outcome is not Outcome.PASSED
    ]


def compare(
    direct: Mapping[str, Result], pooled: Mapping[str, Result], exceptions: Exceptions, *, complete: bool
) -> list[str]:
    """What is wrong, one line each. `complete`: the whole suite ran, so every exception must be in it."""
    must, may, hasty = Names(exceptions.must), Names(exceptions.may), Names(exceptions.hasty)
    problems = []
    for name, result in direct.items():
        through = pooled.get(name, Result(Outcome.MISSING))
        if result.outcome is not Outcome.PASSED or name in may:
            continue
        if through.outcome is not Outcome.PASSED and name not in must:
            problems.append(
                f"{name} passes directly; through the pool: {through.outcome.value} {through.message}"
            )
        if through.outcome is Outcome.PASSED and name in must:
            problems.append(f"{name} passes through the pool: take it out of the exceptions")
    if complete:
        problems += [
            f"{name} is an exception and no test of the suite"
            for names in (must, may, hasty)
            for name in names.without_test(direct)
        ]
    return problems


def summary(results: Mapping[str, Result]) -> str:
    """Such as "311 passed, 63 skipped"."""
    counts = {outcome: sum(result.outcome is outcome for result in results.values()) for outcome in Outcome}
    return (
        ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count) or "no test ran"
    )
