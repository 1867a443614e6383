"""Which tests of a suite get a second chance, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.suites.again import CHANCES, run_again
from tests.suites.comparison import Exceptions, Outcome, Result, failed_in_haste
from tests.suites.suite import Address, Suite

if TYPE_CHECKING:
    from pathlib import Path

PASSED, FAILED = Result(Outcome.PASSED), Result(Outcome.FAILED, "TimeoutError")
NOWHERE = Address("127.0.0.1", 1)

# Each run makes the file longer by a byte.
TESTS = """
from pathlib import Path

def test_hasty():
    runs = Path(__file__).with_name("runs")
    with runs.open("a") as file:
        file.write("x")
    assert runs.stat().st_size > {needed}

def test_other():
    raise AssertionError("is not to be run again")
"""


@pytest.mark.parametrize(
    ("direct", "pooled"),
    [
        ({"a": PASSED}, {"a": PASSED}),
        ({"a": FAILED}, {"a": FAILED}),
        ({}, {"a": FAILED}),
        ({"a": PASSED, "b": PASSED}, {"a": PASSED, "b": FAILED}),
    ],
    ids=["passes", "fails directly", "is none of the suite", "another failed"],
)
def test_who_gets_no_second_chance(direct: dict[str, Result], pooled: dict[str, Result]) -> None:
    """Only what is named as hasty, passes directly and has failed through the pool is run again."""
    assert failed_in_haste(direct, pooled, Exceptions(hasty={"a": "reason"})) == []


@pytest.mark.parametrize("pooled", [{"a": FAILED}, {"a": Result(Outcome.SKIPPED)}, {}])
def test_who_gets_a_second_chance(pooled: dict[str, Result]) -> None:
    """A hasty one that failed, was skipped or was not reached."""
    assert failed_in_haste({"a": PASSED}, pooled, Exceptions(hasty={"a": "reason"})) == ["a"]


@pytest.mark.parametrize(
    ("needed", "runs", "outcome"), [(0, 1, "passed"), (2, 3, "passed"), (CHANCES, CHANCES, "failed")]
)
def test_the_last_chance_counts(tmp_path: Path, needed: int, runs: int, outcome: str) -> None:
    """It is run until it passes, but not more than three times, and by itself; others keep their results."""
    (tmp_path / "test_theirs.py").write_text(TESTS.format(needed=needed))
    suite = Suite(name="theirs", distribution="none", keep=(), tests=("test_theirs.py",), least=0, tidy=False)
    hasty, other = "test_theirs.py::test_hasty", "test_theirs.py::test_other"
    exceptions = Exceptions(hasty={hasty: "reason"})
    direct, pooled = {hasty: PASSED, other: PASSED}, {hasty: FAILED, other: PASSED}
    results = run_again(suite, tmp_path, NOWHERE, NOWHERE, direct, pooled, exceptions)
    assert {name: result.outcome for name, result in results.items()} == {
        hasty: Outcome(outcome),
        other: Outcome.PASSED,
    }
    assert (tmp_path / "runs").stat().st_size == runs
