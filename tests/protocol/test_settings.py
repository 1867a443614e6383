"""Settings that travel with the client."""

from __future__ import annotations

import gc
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.direct import direct
from tests.support.fakepg import FakePostgres
from tests.support.lease import adoption, apart, ours, set_config
from tests.support.requests import SYNC, bind, close, execute, parse, query, read_replies
from trio_pool.protocol.settings import (
    NONE,
    difference,
    intern,
    needs_no_trial,
    read_options,
    restoration,
    spelled,
)

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres


def test_equal_settings_are_identical() -> None:
    """Whatever way they came about, so that "nothing differs" is an identity test."""
    settings = intern({"a": "1", "b": "2"})
    assert intern({"b": "2", "a": "1"}) is settings
    assert intern({"a": "1"}).but({"b": "2"}) is settings
    assert settings.but({}) is settings
    assert intern({}) is NONE
    assert intern({"a": "1", "b": "3"}) is not settings


def test_nobodys_settings_are_forgotten() -> None:
    """Interning keeps none alive."""
    identity = id(intern({"nobody": str(random.random())}))
    gc.collect()
    assert id(NONE) != identity
    assert "nobody" not in NONE


def test_settings_read_like_a_mapping() -> None:
    """By name, with a default, in order."""
    settings = intern({"a": "1"})
    assert (settings["a"], settings.get("a"), settings.get("b"), settings.get("b", "x")) == (
        "1",
        "1",
        None,
        "x",
    )
    assert (list(settings), len(settings), dict(settings.items())) == (["a"], 1, {"a": "1"})


# -- from one client's settings to another's -----------------------------------------------------------------


def test_a_difference_is_what_has_to_change() -> None:
    """One statement, between BEGIN and COMMIT of a level that waits for nothing: values travel as parameters,
    NULL resets what the client has not; nothing of ours stays behind.
    """
    has, wants = intern({"a": "1", "b": "2", "c.d": "3"}), intern({"a": "1", "b": "x';--", "e": ""})
    expected = (
        parse("", "BEGIN ISOLATION LEVEL READ COMMITTED")
        + (bind("") + execute())
        + parse(
            "",
            "SELECT pg_catalog.set_config($1, $2, false), pg_catalog.set_config($3, $4, false), "
            "pg_catalog.set_config($5, $6, false)",
        )
        + (bind("", "c.d", None, "b", "x';--", "e", "") + execute())
        + parse("", "COMMIT")
        + (bind("") + execute() + close("") + SYNC)
    )
    assert difference(has, wants, NONE) == expected


def test_an_unguarded_difference_is_the_statement_alone() -> None:
    """Its failure leaves no failed transaction."""
    requests = difference(NONE, intern({"a": "1"}), NONE, guarded=False)
    assert requests == set_config("a", "1") + close("") + SYNC


@pytest.mark.parametrize("guarded", [True, False])
def test_no_difference_is_no_request(guarded: bool) -> None:
    """Not even a Sync."""
    settings = intern({"a": "1"})
    assert difference(settings, settings, NONE, guarded=guarded) == b""


def test_what_the_server_reports_already_is_left_alone() -> None:
    """Every driver asks for client_encoding UTF8, which is what nearly every server has."""
    reported = intern({"client_encoding": "UTF8", "TimeZone": "UTC"})
    wants = intern({"client_encoding": "UTF8", "TimeZone": "CET", "work_mem": "4MB"})
    assert difference(NONE, wants, reported) == adoption("TimeZone", "CET", "work_mem", "4MB")
    assert difference(NONE, intern({"client_encoding": "UTF8"}), reported) == b""


def test_what_the_server_has_otherwise_is_set_whatever_it_reports() -> None:
    """What it has was set for the client before, and is more than what it reports."""
    reported = intern({"a": "1"})
    assert difference(intern({"a": "2"}), intern({"a": "1"}), reported) == adoption("a", "1")


ROLE, USER = "role", "session_authorization"


@pytest.mark.parametrize(
    ("has", "wants", "changes"),
    [
        ({}, {ROLE: "r", "a": "1", USER: "u"}, ["a", "1", USER, "u", ROLE, "r"]),
        ({USER: "u", ROLE: "r"}, {"a": "1"}, [USER, None, ROLE, None, "a", "1"]),
        ({USER: "u", ROLE: "r"}, {}, [USER, None, ROLE, None]),
        ({ROLE: "r", "a": "1"}, {ROLE: "r", "a": "2"}, [ROLE, None, "a", "2", ROLE, "r"]),
        ({ROLE: "r"}, {ROLE: "s"}, [ROLE, None, ROLE, "s"]),
        ({USER: "u"}, {USER: "u", ROLE: "r"}, [USER, None, USER, "u", ROLE, "r"]),
        ({USER: "u", ROLE: "r"}, {USER: "u"}, [USER, None, ROLE, None, USER, "u"]),
    ],
)
def test_identity_is_laid_aside_first_and_put_on_last(
    has: dict[str, str], wants: dict[str, str], changes: list[str | None]
) -> None:
    """Who may set a parameter is the user that has logged in; and setting session_authorization resets the
    role.
    """
    assert difference(intern(has), intern(wants), NONE) == adoption(*changes)


def test_values_are_understood_whatever_the_encoding() -> None:
    """The requests are UTF-8, so a server that takes texts for another encoding is told first."""
    latin = intern({"client_encoding": "LATIN1"})
    begin, commit = ours("BEGIN ISOLATION LEVEL READ COMMITTED"), ours("COMMIT")
    first = set_config("client_encoding", "UTF8")
    rest = close("") + SYNC
    expected = begin + first + set_config("a", "\xe9", "client_encoding", "LATIN1") + commit + rest
    assert difference(latin, intern({"a": "\xe9", "client_encoding": "LATIN1"}), latin) == expected
    expected = begin + first + set_config("a", "\xe9", "client_encoding", None) + commit + rest
    assert difference(latin, intern({"a": "\xe9"}), latin) == expected
    assert difference(latin, latin.but({"a": "e"}), latin) == adoption("a", "e")


@given(*[st.dictionaries(st.just("application_name"), st.text("ab'$\\", min_size=1))] * 2)
def test_a_difference_makes_the_server_what_the_client_wants(
    has: dict[str, str], wants: dict[str, str]
) -> None:
    """From any settings to any other, in one group that leaves no unnamed statement."""
    backend = FakePostgres()
    for before, after in ((NONE, intern(has)), (intern(has), intern(wants))):
        requests = difference(before, after, intern(backend.settings))
        backend.receive(requests)
        replies = [reply.tag for reply in read_replies(backend.deliver())]
        assert replies.count("Z") == bool(requests)
        assert "E" not in replies
    assert backend.settings["application_name"] == wants.get("application_name", "")
    assert backend.statements == {}
    assert backend.at_rest


# -- back to StartupMessage ----------------------------------------------------------------------------------


def test_a_restoration_is_one_statement_of_apart() -> None:
    """Its values travel as parameters, and it leaves no unnamed statement behind; an
    unnamed portal of the client's stays as it is.
    """
    requests = restoration(intern({"a": "1", "role": "r", "b.c": "\xe9"}))
    sql = requests[6:].partition(b"\0")[0].decode()
    assert requests == apart(sql, "a", "1", "role", "r", "b.c", "\xe9") + close("") + SYNC


def test_a_restoration_sets_what_has_been_reset_and_nothing_else(postgres: LocalPostgres) -> None:
    """What the client has set otherwise since stays, an empty value and parameters with a dot included."""
    base = intern(
        {"work_mem": "1MB", "application_name": "x", "a.reset": "1", "a.kept": "2", "DateStyle": "SQL, DMY"}
    )
    shown = "concat_ws('|', current_setting('work_mem'), current_setting('application_name'), "
    shown += "current_setting('a.reset'), current_setting('a.kept'), current_setting('DateStyle'))"
    data = (
        difference(NONE, base, NONE)
        + query("SET work_mem = '2MB'; SET application_name = ''; SET a.kept = '3'; SET DateStyle = 'ISO'")
        + query("RESET a.reset; RESET DateStyle")
        + restoration(base)
        + query(f"SELECT {shown}")
        + query("SELECT 'the end'")
    )
    replies = direct(postgres, data)
    assert [reply.content for reply in replies if reply.tag == "D"][-2] == "2MB||1|3|SQL, DMY"
    assert [reply for reply in replies if reply.tag == "E"] == []


# -- what changes the meaning of texts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "search_path",
        ROLE,
        USER,
        "client_encoding",
        "standard_conforming_strings",
        "backslash_quote",
        "transform_null_equals",
    ],
)
def test_settings_that_change_what_texts_mean_are_told_apart(name: str) -> None:
    """By name and value; others do not count."""
    settings = intern({name: "x", "work_mem": "4MB"})
    assert settings.meaning == intern({name: "x", "TimeZone": "UTC"}).meaning
    assert len({settings.meaning, intern({name: "y"}).meaning, NONE.meaning, intern({"b": "x"}).meaning}) == 3


def test_no_two_meanings_are_the_same_key() -> None:
    """However their values look: a value cannot hold a null byte."""
    one = intern({"search_path": "a", ROLE: "b"})
    other = intern({"search_path": "a\nrole=b"})
    assert one.meaning != other.meaning
    assert NONE.meaning == intern({"work_mem": "1MB"}).meaning == b""


# -- start-up ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("application_name", "my app", True),
        ("application_name", "x" * 63, True),
        ("application_name", "x" * 64, False),
        ("application_name", "é", False),
        ("application_name", "a\nb", False),
        ("search_path", "public", False),
    ],
)
def test_only_what_every_server_takes_unchanged_needs_no_trial(name: str, value: str, expected: bool) -> None:
    """An application name that no server truncates or escapes."""
    assert needs_no_trial(name, value) is expected


@pytest.mark.parametrize(
    ("value", "server_encoding", "expected"),
    [
        ("UTF8", "LATIN1", True),
        ("'utf-8'", "SQL_ASCII", True),
        ("Unicode", "UTF8", True),
        ("UTF8", "MULE_INTERNAL", False),
        ("UTF8", None, False),
        ("LATIN1", "UTF8", False),
        ("UTF16", "UTF8", False),
    ],
)
def test_utf8_needs_no_trial(value: str, server_encoding: str | None, expected: bool) -> None:
    """However a driver spells it, where PostgreSQL has a conversion."""
    spelling = spelled("client_encoding", value)
    assert needs_no_trial("client_encoding", spelling, server_encoding) is expected


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("", {}),
        ("-c a=1", {"a": "1"}),
        ("-ca=1  -c b=2", {"a": "1", "b": "2"}),
        ("--work-mem=4MB", {"work_mem": "4MB"}),
        (r"-c a=x\ y\\z", {"a": r"x y\z"}),
        ("-c a=b=c", {"a": "b=c"}),
        ("-c a=", {"a": ""}),
        ("-c a=1 -c a=2", {"a": "2"}),
        ("\t-c\na=1", {"a": "1"}),
    ],
)
def test_startup_options_are_read_as_postgresql_does(options: str, expected: dict[str, str]) -> None:
    """The three spellings, the backslash, and the last one counts (pg_split_opts in postinit.c)."""
    assert read_options(options) == expected


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ("-c", "-c  requires a value"),
        ("-c a", "-c a requires a value"),
        ("-ca", "-ca requires a value"),
        ("-c =1", "-c =1 requires a value"),
        ("--a", "--a requires a value"),
        ("-d 5", "unsupported startup option '-d': "),
        ("a=1", "unsupported startup option 'a=1': "),
        ("-c a=1 x", "unsupported startup option 'x': "),
    ],
)
def test_other_startup_options_are_refused(options: str, problem: str) -> None:
    """With a text that names them, PostgreSQL's own where it has one: what cannot be carried along must not
    be lost.
    """
    with pytest.raises(ValueError, match=r"option|value") as caught:
        read_options(options)
    assert str(caught.value).startswith(problem)
