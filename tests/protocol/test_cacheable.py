"""What may be kept, by verdicts made by hand; real databases decide in tests/e2e/test_touch.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from trio_pool.protocol.cacheable import Reason, may_be_momentary, why_not
from trio_pool.protocol.catalog import Doubt, Verdict, Volatility
from trio_pool.protocol.reading import Reading, Why, read
from trio_pool.protocol.reading_kinds import Unkept
from trio_pool.protocol.touch import Reach
from trio_pool.protocol.writing import Cause

ALWAYS = Verdict(True, Volatility.IMMUTABLE)
RULES = Path(__file__).parents[2] / "docs" / "cache-rules.md"


def reading(text: str) -> Reading:
    found = read(text.encode())
    assert isinstance(found, Reading), found
    return found


@pytest.mark.parametrize(
    ("text", "verdict", "expected"),
    [
        ("SELECT 1", ALWAYS, None),
        ("SELECT 1", Verdict(False, doubt=Doubt.FOREIGN), Reason.UNPROVEN),
        ("SELECT 1", Verdict(True, Volatility.STABLE), Reason.STABLE),
        ("SELECT 1", Verdict(True, Volatility.IMMUTABLE, catalog_tables=True), Reason.CATALOGS),
        ("SELECT 1", Verdict(True, Volatility.STABLE, catalog_tables=True), Reason.CATALOGS),
        ("SELECT 1", Verdict(True, Volatility.STABLE, unkept=Unkept.TIME), Reason.TIME),
        ("SELECT pg_has_role('a', 'b')", Verdict(True, Volatility.STABLE), Reason.PRIVILEGES),
    ],
)
def test_why_not(text: str, verdict: Verdict, expected: Reason | None) -> None:
    """The most telling reason is given."""
    assert why_not(reading(text), verdict) is expected


@pytest.mark.parametrize("unkept", Unkept)
def test_what_a_text_says_has_a_reason(unkept: Unkept) -> None:
    """Nothing that a text depends on is without one."""
    assert why_not(reading("SELECT 1"), Verdict(True, Volatility.STABLE, unkept=unkept)) == unkept.value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"now", True),
        (b"\0\0\0\x05Today\0\0", True),
        (b"{2020-01-01,tomorrow}", True),
        (b"now5", True),
        (b"unknown", False),
        (b"2020-01-01", False),
        (b"nowhere", False),
    ],
)
def test_parameters_that_may_become_the_time(value: bytes, expected: bool) -> None:
    """As PostgreSQL's input of times takes them: a run of letters that is one of the four words."""
    assert may_be_momentary(value) is expected


def test_every_reason_is_documented() -> None:
    """Whatever SHOW CACHE may say stands in the documentation, word for word."""
    text = RULES.read_text()
    reasons = [reason.value for kind in (Why, Doubt, Reason, Cause, Reach) for reason in kind]
    assert [reason for reason in reasons if reason not in text] == []
