"""Settings that travel with the client."""

from __future__ import annotations

import gc
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fakepg import FakePostgres
from tests.support.requests import read_replies
from trio_pool.protocol.settings import (
    NONE,
    canonical,
    difference,
    intern,
    needs_no_trial,
    quote_setting,
    read_options,
)
from trio_pool.wire.frames import Assembler


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


def statements(data: bytes) -> list[str]:
    """Texts and parameters of the requests."""
    assembler = Assembler()
    assembler.feed(data)
    found = []
    while (message := assembler.message()) is not None:
        tag, body = message
        if tag == ord("P"):
            found.append(body.split(b"\0")[1].decode())
        elif tag == ord("B"):
            found[-1] += f" {body[6:-2]!r}"
        else:
            found.append(chr(tag))
    return found


def test_a_difference_is_what_has_to_change() -> None:
    """Values travel as parameters; what the client has not is reset; nothing of ours stays behind."""
    requests = difference(intern({"a": "1", "b": "2", "c.d": "3"}), intern({"a": "1", "b": "x'\0"[:2]}))
    assert statements(requests) == [
        r"""RESET "c"."d" b'' """.strip(),
        "E",
        r"""SELECT pg_catalog.set_config($1, $2, false) b"\x00\x00\x00\x01b\x00\x00\x00\x02x'" """.strip(),
        "E",
        "C",
        "S",
    ]


def test_no_difference_is_no_request() -> None:
    """Not even a Sync."""
    settings = intern({"a": "1"})
    assert difference(settings, settings) == b""


@given(*[st.dictionaries(st.just("application_name"), st.text("ab'$\\", min_size=1))] * 2)
def test_a_difference_makes_the_server_what_the_client_wants(
    has: dict[str, str], wants: dict[str, str]
) -> None:
    """From any settings to any other, in one group that leaves no unnamed statement."""
    backend = FakePostgres()
    for before, after in ((NONE, intern(has)), (intern(has), intern(wants))):
        requests = difference(before, after)
        backend.receive(requests)
        replies = [reply.tag for reply in read_replies(backend.deliver())]
        assert replies.count("Z") == bool(requests)
        assert "E" not in replies
    assert backend.settings["application_name"] == wants.get("application_name", "")
    assert backend.statements == {}


@pytest.mark.parametrize(
    ("name", "quoted"),
    [("work_mem", '"work_mem"'), ("a.b", '"a"."b"'), ('x"; DROP', '"x""; DROP"'), ("TimeZone", '"TimeZone"')],
)
def test_names_are_quoted(name: str, quoted: str) -> None:
    """Names cannot travel as parameters of RESET."""
    assert quote_setting(name) == quoted


def test_settings_are_spelled_as_the_server_does() -> None:
    """Where it reports them; what it does not report stays as it is."""
    reported = intern({"TimeZone": "UTC", "DateStyle": "ISO, MDY"})
    assert canonical(intern({"timezone": "utc", "work_mem": "4096"}), reported) is intern(
        {"TimeZone": "UTC", "work_mem": "4096"}
    )


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


@pytest.mark.parametrize("options", ["-c", "-c a", "-c =1", "--a", "-d 5", "a=1", "-c a=1 x"])
def test_other_startup_options_are_refused(options: str) -> None:
    """With a text that names them: what cannot be carried along must not be lost."""
    with pytest.raises(ValueError, match="startup option"):
        read_options(options)
