from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.config.durations import format_duration, format_size, parse_duration, parse_size
from trio_pool.config.problems import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

SECONDS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}

HUNDRED_YEARS = 36_500 * 86_400 * 1_000_000
LARGEST = 2**53 - 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("500ms", 0.5),
        ("15s", 15.0),
        ("10min", 600.0),
        ("1h", 3600.0),
        ("1d", 86400.0),
        ("250us", 0.00025),
        ("1.5h", 5400.0),
        (".5s", 0.5),
        (" 15 s ", 15.0),
        ("0", math.inf),
        ("0s", math.inf),
        ("-0", math.inf),
    ],
)
def test_duration_is_read_as_postgresql_reads_it(text: str, seconds: float) -> None:
    """A duration means what PostgreSQL takes it for, and 0 in any unit is off."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", '"" is not a duration'),
        ("soon", '"soon" is not a duration'),
        ("15", '"15" has no unit'),
        ("-1s", '"-1s" is negative'),
        ("10m", '"10m" has the unknown unit "m"'),
        ("10Min", '"10Min" has the unknown unit "Min"'),
        ("1h 30min", '"1h 30min" is not a duration'),
        ("1e3s", '"1e3s" is not a duration'),
        ("0.1us", '"0.1us" is less than 1us'),
        ("0.0000005s", "is less than 1us"),
        ("36501d", '"36501d" is longer than 36500d'),
        ("9" * 400 + "d", "is longer than 36500d"),
        ("\u0661s", "is not a duration"),
    ],
)
def test_what_is_no_duration_is_refused_with_the_reason(text: str, what: str) -> None:
    """Nothing is guessed: a missing unit, an unknown one and a negative time each say what is wrong."""
    with pytest.raises(Refused) as caught:
        parse_duration(text)
    assert what in caught.value.faults[0].what


@given(st.integers(1, HUNDRED_YEARS))
def test_every_duration_survives_being_written_and_read(microseconds: int) -> None:
    """Formatting loses nothing, to the microsecond and up to a hundred years."""
    seconds = microseconds / 1_000_000
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(1, 1000), st.sampled_from(sorted(SECONDS)))
def test_a_duration_is_its_number_times_its_unit(number: int, unit: str) -> None:
    """The value of a unit is PostgreSQL's."""
    assert parse_duration(f"{number}{unit}") == pytest.approx(number * SECONDS[unit], rel=1e-15)


@pytest.mark.parametrize(("seconds", "text"), [(math.inf, "0"), (0.0, "0"), (90.0, "90s"), (3600.0, "1h")])
def test_formatting_a_duration(seconds: float, text: str) -> None:
    """Off is "0", and units are not mixed."""
    assert format_duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50MB", 50 * 1024**2),
        ("512kB", 524288),
        ("1B", 1),
        ("1.5GB", 1610612736),
        ("2TB", 2 * 1024**4),
        ("0", 0),
    ],
)
def test_size_is_read_as_postgresql_reads_it(text: str, size: int) -> None:
    """Units of sizes are powers of 1024."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "50", "50mb", "50Mb", "50 megabytes", "-1MB", "0.1B", "8192TB", "50M"])
def test_what_is_no_size_is_refused(text: str) -> None:
    """Units are case-sensitive as in PostgreSQL, and a size is never less than a byte."""
    with pytest.raises(Refused):
        parse_size(text)


@given(st.integers(0, LARGEST))
def test_every_size_survives_being_written_and_read(size: int) -> None:
    """Formatting loses nothing."""
    assert parse_size(format_size(size)) == size


@given(st.integers(1, 1000), st.sampled_from(sorted(BYTES)))
def test_a_size_is_its_number_times_its_unit(number: int, unit: str) -> None:
    """The value of a unit is PostgreSQL's."""
    assert parse_size(f"{number}{unit}") == number * BYTES[unit]


@pytest.mark.parametrize("parse", [parse_duration, parse_size])
@given(text=st.text())
def test_no_text_makes_the_parsers_fail_otherwise(parse: Callable[[str], float], text: str) -> None:
    """Whatever is written, the answer is a value or a refusal."""
    with contextlib.suppress(Refused):
        assert parse(text) >= 0
