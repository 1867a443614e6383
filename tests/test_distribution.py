"""Which tests stay together, and which come first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.distribution import FIRST, group, rank

ROOT = Path(__file__).resolve().parent.parent
LABELS = ["embedded18", "system15"]


@pytest.mark.parametrize(
    ("test", "expected"),
    [
        ("tests/a.py::test_b", "tests/a.py"),
        ("tests/a.py::test_b[c]", "tests/a.py"),
        ("tests/a.py::test_b[c-embedded18-d]", "tests/a.py::embedded18"),
        ("tests/a.py::test_other[embedded18]", "tests/a.py::embedded18"),
        ("tests/a.py::test_b[system15]", "tests/a.py::system15"),
        ("tests/a.py::test_b[direct-system15-embedded18]", "tests/a.py::embedded18::system15"),
        ("tests/a.py::test_system15", "tests/a.py"),
    ],
)
def test_a_file_and_a_postgresql_make_a_group(test: str, expected: str) -> None:
    """Tests of a file that use the same PostgreSQL are never separated; those of different ones can be."""
    assert group(test, LABELS) == expected


def test_what_takes_long_comes_first() -> None:
    """The order is that of the list, and the rest comes last."""
    tests = [
        f"{start}test_x.py::test_y" for start in ("tests/wire/", "tests/net/", "tests/e2e/", "tests/daemon/")
    ]
    assert sorted(tests, key=rank) == list(reversed(tests))


@pytest.mark.parametrize("start", FIRST)
def test_the_list_is_of_what_there_is(start: str) -> None:
    """What was renamed is renamed there too."""
    files = [str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")]
    assert [file for file in files if file.startswith(start)] != []
