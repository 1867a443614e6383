"""What is one statement with a ReadyForQuery of its own, byte by byte."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import requests
from trio_pool.protocol.lone import lone_statement
from trio_pool.protocol.settings import NONE
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages

SQL = "select $1::text"
SYNC = requests.SYNC
RUN = requests.execute() + SYNC
SHOWN = requests.describe_portal() + RUN
PARSED = requests.parse("", SQL)
BOUND = requests.bind("", "x")
NAMED = requests.bind("s", "x")

STATEMENT = StatementRegistry(b"_t").get(SQL.encode() + b"\0\0\0", NONE)
NAMES = {b"s": STATEMENT}

WHOLE = {
    "query": requests.query("select 1"),
    "query with a semicolon": requests.query("select 1;"),
    "parse": PARSED + BOUND + RUN,
    "parse with types": requests.parse("", SQL, 25) + BOUND + RUN,
    "parse with an undecided type": requests.parse("", SQL, 0) + BOUND + RUN,
    "parse and describe": PARSED + requests.describe("") + BOUND + RUN,
    "parse and describe the portal": PARSED + BOUND + SHOWN,
    "parse and describe both": PARSED + requests.describe("") + BOUND + SHOWN,
    "bind": NAMED + RUN,
    "bind and describe": NAMED + SHOWN,
    "bind NULL": requests.bind("s", None) + RUN,
    "bind what looks like messages": requests.bind("s", RUN.decode("latin-1").replace("\0", "x")) + RUN,
}
NOT_WHOLE = {
    "nothing": b"",
    "sync": SYNC,
    "flush": requests.FLUSH,
    "terminate": requests.TERMINATE,
    "two queries": WHOLE["query"] * 2,
    "two pipelines": WHOLE["parse"] * 2,
    "query behind": WHOLE["bind"] + WHOLE["query"],
    "sync behind": WHOLE["bind"] + SYNC,
    "terminate behind": WHOLE["query"] + requests.TERMINATE,
    "flush instead": PARSED + BOUND + requests.execute() + requests.FLUSH,
    "flush before": PARSED + BOUND + requests.FLUSH + RUN,
    "no run": PARSED + BOUND + SYNC,
    "run twice": PARSED + BOUND + requests.execute() + RUN,
    "bound twice": PARSED + BOUND + BOUND + RUN,
    "parsed twice": PARSED + PARSED + BOUND + RUN,
    "described twice": PARSED + requests.describe("") * 2 + BOUND + RUN,
    "described before": requests.describe("") + BOUND + RUN,
    "another described": PARSED + requests.describe("s") + BOUND + RUN,
    "another portal described": PARSED + BOUND + requests.describe_portal("p") + RUN,
    "row limit": PARSED + BOUND + requests.execute("", 1) + SYNC,
    "largest row limit": PARSED + BOUND + requests.execute("", 0xFFFFFFFF) + SYNC,
    "another portal": PARSED + BOUND + requests.execute("p") + SYNC,
    "a named portal": PARSED + requests.bind("", "x", portal="p") + requests.execute("p") + SYNC,
    "another statement": PARSED + NAMED + RUN,
    "a named parse": requests.parse("s", SQL) + NAMED + RUN,
    "a name nobody knows": requests.bind("t", "x") + RUN,
    "the unnamed, parsed before": BOUND + RUN,
    "a user's type": requests.parse("", SQL, 16384) + BOUND + RUN,
    "a user's type behind others": requests.parse("", SQL, 25, 23, 99999) + BOUND + RUN,
    "the largest type": requests.parse("", SQL, 0xFFFFFFFF) + BOUND + RUN,
    "closed": PARSED + BOUND + requests.close("") + RUN,
    "copy data": requests.copy_data(b"x"),
    "function call": requests.function_call("x"),
    "set": requests.query("set a = 1"),
    "two statements": requests.query("select 1; select 2"),
    "set_config": requests.query("select set_config('a', 'b', false)"),
    "parsed set_config": requests.parse("", "select set_config('a', 'b', false)") + BOUND + RUN,
    "pg_ function": requests.query("select pg_sleep(1)"),
}


@pytest.mark.parametrize("what", WHOLE)
def test_one_statement(what: str) -> None:
    """All rows of one statement: its text, as `reading` takes it."""
    text = lone_statement(WHOLE[what], NAMES)
    assert text is not None
    expected = {"query": b"select 1", "query with a semicolon": b"select 1;"}.get(what, SQL.encode())
    assert text.rstrip(b"\0") == expected


@pytest.mark.parametrize("what", NOT_WHOLE)
def test_anything_else(what: str) -> None:
    """What is more, less or other than that."""
    assert lone_statement(NOT_WHOLE[what], NAMES) is None


@pytest.mark.parametrize("what", WHOLE)
def test_every_cut_and_everything_behind(what: str) -> None:
    """A beginning of it, an end of it, and anything behind it are something else."""
    data = WHOLE[what]
    for cut in range(len(data)):
        assert lone_statement(data[:cut], NAMES) is None
    for byte in range(256):
        assert lone_statement(data + bytes([byte]), NAMES) is None
    for cut in range(1, len(data)):
        assert lone_statement(data[cut:], NAMES) is None or data[cut:] in WHOLE.values()


@pytest.mark.parametrize("what", WHOLE)
def test_wrong_lengths(what: str) -> None:
    """Every message in it with another length."""
    data = WHOLE[what]
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        for wrong in {0, 1, 3, 4, length - 1, length + 1, length + 5, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF}:
            if wrong != length:
                changed = data[: at + 1] + struct.pack("!I", wrong) + data[at + 5 :]
                assert lone_statement(changed, NAMES) is None, (at, wrong)
        at += 1 + length


def test_without_statements() -> None:
    """A client that has prepared nothing."""
    assert lone_statement(WHOLE["bind"], None) is None
    assert lone_statement(WHOLE["bind"], {}) is None
    assert lone_statement(WHOLE["query"], None) is not None


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    """It never raises."""
    for tag in (b"Q", b"P", b"B", b""):
        lone_statement(tag + data, NAMES)
        lone_statement(tag + struct.pack("!I", len(data) + 4) + data, NAMES)


@given(st.sampled_from(sorted(WHOLE)), st.data())
def test_one_byte_changed(what: str, data: st.DataObject) -> None:
    """It never raises, and what comes out is a text that was in it or was prepared."""
    raw = bytearray(WHOLE[what])
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    text = lone_statement(bytes(raw), NAMES)
    assert text is None or text.rstrip(b"\0") in bytes(raw) or text.rstrip(b"\0") == SQL.encode()


def test_a_query_holds_its_nul() -> None:
    """A Query whose text does not end is refused by PostgreSQL, and none of ours."""
    assert lone_statement(messages.message(ord("Q"), b"select 1"), NAMES) in (None, b"select ")
