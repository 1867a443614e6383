"""PgBouncer's dialect, as PgBouncer 1.24.1 reads it."""

from __future__ import annotations

import pytest

from tests.migration.imports import Texts
from trio_pool.migration.ini import Entry, parse_connection_string, parse_ini
from trio_pool.migration.problems import CannotImport, Place


def entries(text: str, **files: str) -> dict[tuple[str, str], str]:
    found = parse_ini(text, "p.ini", Texts(files)).entries
    return {at: entry.value for at, entry in found.items()}


def pairs(value: str) -> dict[str, str]:
    entry = Entry("databases", "app", value, Place("p.ini", 1))
    return {key: pair.value for key, pair in parse_connection_string(entry).items()}


def test_comments_are_lines() -> None:
    """ ";" and "#" begin a comment at the start of a line and are text anywhere else."""
    text = "; one\n  # two\n[pgbouncer]\nlogfile = a;b #c\n"
    assert entries(text) == {("pgbouncer", "logfile"): "a;b #c"}


def test_an_included_file_goes_on_where_it_is_included() -> None:
    """The section holds on into the file, and out of it."""
    found = entries("[pgbouncer]\n%include other\nuser = u\n", other="verbose = 1\n[users]\n")
    assert found == {("pgbouncer", "verbose"): "1", ("users", "user"): "u"}


def test_a_second_section_pgbouncer_forgets_the_first() -> None:
    """PgBouncer begins each [pgbouncer] with its defaults; other sections add up."""
    text = "[pgbouncer]\nverbose = 1\n[users]\na = x=1\n[pgbouncer]\nuser = u\n[users]\nb = x=1\n"
    assert entries(text) == {("users", "a"): "x=1", ("pgbouncer", "user"): "u", ("users", "b"): "x=1"}


def test_a_later_value_replaces_an_earlier() -> None:
    """As in PgBouncer, where the last one counts."""
    assert entries("[users]\na = x=1\na = x=2\n") == {("users", "a"): "x=2"}


def test_names_may_be_quoted() -> None:
    """As identifiers of SQL."""
    assert entries('[databases]\n"we ""ird" = host=h\n* =\n') == {
        ("databases", 'we "ird'): "host=h",
        ("databases", "*"): "",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[pgbouncer]\nnonsense\n", "p.ini:2: is neither a section nor key = value"),
        ("user = u\n", "p.ini:1: user: stands before any section"),
        ("[pgbouncer]\n\n%include missing\n", 'p.ini:3: %include: the file "missing" cannot be read'),
        ("%include p\n", "p:1: %include: includes too deeply"),
    ],
)
def test_what_pgbouncer_cannot_read_names_its_place(text: str, message: str) -> None:
    """File, line and key."""
    with pytest.raises(CannotImport) as caught:
        entries(text, p="%include p\n")
    assert str(caught.value).startswith(message)


def test_only_spaces_separate_pairs() -> None:
    """A tab is part of a value, as PgBouncer has it."""
    assert pairs("host=a\tb port = 1  user= 'it''s me' dbname=x") == {
        "host": "a\tb",
        "port": "1",
        "user": "it's me",
        "dbname": "x",
    }


@pytest.mark.parametrize("value", ["host", "host=", "host=''", "=a", "password='secret", "a=b secret"])
def test_a_broken_connection_string_is_refused_without_quoting_it(value: str) -> None:
    """One of its values may be a password."""
    with pytest.raises(CannotImport) as caught:
        pairs(value)
    assert "secret" not in str(caught.value)
