"""How the outcomes of a suite are read and compared."""

from __future__ import annotations

import json

import pytest

from tests.suites.catalog import SUITES
from tests.suites.comparison import Exceptions, Outcome, Result, compare, read_reports

PASSED, FAILED = Result(Outcome.PASSED), Result(Outcome.FAILED, "AssertionError: 1 != 2")


def report(name: str, when: str, outcome: str, message: str = "") -> str:
    return json.dumps({"id": name, "when": when, "outcome": outcome, "message": message}) + "\n"


def test_a_tests_worst_report_counts() -> None:
    """A failing subtest or teardown makes the test a failure, whatever is reported later."""
    text = (
        report("a", "setup", "passed")
        + report("a", "call", "failed", "AssertionError: 1 != 2")
        + report("a", "call", "passed")
        + report("a", "teardown", "passed")
        + report("b", "setup", "skipped", "no")
        + report("b", "teardown", "passed")
    )
    assert read_reports(text) == {"a": FAILED, "b": Result(Outcome.SKIPPED, "no")}


def test_a_test_that_never_ended_has_not_passed() -> None:
    """When the suite dies inside a test, the reports so far do not count as its success."""
    text = report("a", "setup", "passed") + report("a", "call", "passed")
    assert read_reports(text) == {"a": Result(Outcome.UNFINISHED)}


@pytest.mark.parametrize("through", [{"a": FAILED}, {"a": Result(Outcome.SKIPPED)}, {}])
def test_a_test_that_passes_only_directly_is_a_problem(through: dict[str, Result]) -> None:
    """Failing, being skipped and not being reached are all told, unless the test is an exception."""
    assert len(compare({"a": PASSED}, through, Exceptions(), complete=True)) == 1
    assert compare({"a": PASSED}, through, Exceptions({"a": "reason"}), complete=True) == []


def test_a_test_that_fails_directly_is_nobodys_fault() -> None:
    """Only what works without the pool is asked of it."""
    assert compare({"a": FAILED}, {"a": FAILED}, Exceptions(), complete=True) == []


def test_the_list_of_exceptions_only_shrinks() -> None:
    """An exception that passes, or that no test bears the name of, is a problem."""
    same = {"a": PASSED}
    assert compare(same, same, Exceptions({"a": "reason"}), complete=True) == [
        "a passes through the pool: take it out of the exceptions"
    ]
    assert compare(same, same, Exceptions({"b": "reason"}), complete=True) == [
        "b is an exception and no test of the suite"
    ]
    assert compare(same, same, Exceptions({"b": "reason"}), complete=False) == []


def test_a_star_names_several_tests() -> None:
    """An exception with a `*` holds for each test that it matches, and each of them must fail."""
    exceptions = Exceptions({"t[*-TEMPORARY-*]": "reason"})
    direct = {"t[a-TEMPORARY-1]": PASSED, "t[b-TEMPORARY-2]": PASSED, "t[b-DEFAULT-2]": PASSED}
    pooled = {"t[a-TEMPORARY-1]": FAILED, "t[b-TEMPORARY-2]": PASSED, "t[b-DEFAULT-2]": PASSED}
    assert compare(direct, pooled, exceptions, complete=True) == [
        "t[b-TEMPORARY-2] passes through the pool: take it out of the exceptions"
    ]
    assert compare({"a": PASSED}, {"a": PASSED}, exceptions, complete=True) == [
        "t[*-TEMPORARY-*] is an exception and no test of the suite"
    ]


def test_a_test_has_one_name_on_every_postgresql() -> None:
    """SQLAlchemy's names of driver and server are taken out of the ids."""
    rename = SUITES["sqlalchemy_asyncpg"].rename
    ids = [f"t.py::A_postgresql+asyncpg_async_{version}::test[x_1_2]" for version in ("15_14", "18_6")]
    text = report(ids[0], "teardown", "passed") + report(ids[1], "teardown", "passed")
    assert read_reports(text, rename) == {"t.py::A::test[x_1_2]": PASSED}
