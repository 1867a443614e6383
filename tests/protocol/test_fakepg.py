"""The scripted PostgreSQL against real ones: what the other tests of this directory believe must be true."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.direct import direct
from tests.support.fakepg import FakePostgres
from tests.support.pipelines import Request, pipelines, rendered
from tests.support.requests import (
    COPY_DONE,
    FLUSH,
    SYNC,
    Reply,
    bind,
    close,
    copy_data,
    copy_fail,
    describe,
    describe_portal,
    execute,
    function_call,
    parse,
    query,
    read_replies,
)

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

COPY = "COPY sink FROM STDIN"
FAILED_TRANSACTION = query("BEGIN") + query("SELECT 1/0")
TRANSCRIPTS = {
    "simple": query("SELECT 'a'") + query("SELECT 'b' FROM generate_series(1,3)") + query(""),
    "several statements": query("SELECT 'a'; SELECT 'b'") + query("SELECT 'a'; SELECT 1/0; SELECT 'b'"),
    "transaction": query("BEGIN") + query("SELECT 'a'") + query("COMMIT") + query("COMMIT"),
    "failed transaction": FAILED_TRANSACTION + query("SELECT 'a'") + query("COMMIT") + query("ROLLBACK"),
    "extended": parse("", "SELECT $1::text") + bind("", "a") + describe_portal() + execute() + SYNC,
    "row limit": parse("", "SELECT 'a' FROM generate_series(1,3)")
    + (bind("") + execute("", 2) + execute("", 2) + bind("") + execute("", 3) + execute("", 3) + SYNC),
    "error skips to Sync": parse("", "ERROR") + bind("") + execute() + FLUSH + query("SELECT 'a'") + SYNC,
    "duplicate name": parse("s", "SELECT 'a'")
    + SYNC
    + parse("s", "SELECT 'b'")
    + SYNC
    + describe("s")
    + SYNC,
    "unknown names": b"".join(
        request + SYNC
        for request in (bind("x"), describe("x"), execute("x"), describe_portal("x"), close("x"))
    ),
    "a Query drops the unnamed statement": parse("", "SELECT 'a'") + SYNC + query("") + bind("") + SYNC,
    "a failed Parse drops the unnamed statement": parse("", "SELECT 'a'")
    + SYNC
    + parse("", "ERROR")
    + (SYNC + bind("") + SYNC),
    "a skipped Parse does not": parse("", "SELECT 'a'")
    + SYNC
    + bind("x")
    + parse("", "SELECT 'b'")
    + (SYNC + bind("") + execute() + SYNC),
    "portals end with the transaction": parse("", "SELECT 'a'") + bind("") + SYNC + execute() + SYNC,
    "portals outlive Sync in a transaction": query("BEGIN")
    + parse("s", "SELECT 'a' FROM generate_series(1,3)")
    + bind("s", portal="p")
    + (execute("p", 1) + SYNC + execute("p") + SYNC + bind("s", portal="p") + SYNC + execute("p") + SYNC),
    "extended in a failed transaction": parse("c", "COMMIT")
    + parse("e", "")
    + parse("s", "SELECT 'a'")
    + SYNC
    + FAILED_TRANSACTION
    + b"".join(
        request + SYNC
        for request in (
            parse("", "SELECT 'a'"),
            parse("", "ERROR"),
            parse("", ""),
            parse("e", ""),
            bind("e"),
            bind("s"),
            describe("s"),
            describe("c"),
            close("s"),
            function_call("a"),
            bind("c") + describe_portal() + execute(),
        )
    ),
    "BEGIN in a pipeline": parse("", "BEGIN") + bind("") + execute() + SYNC + query("ROLLBACK"),
    "COMMIT in a pipeline": query("BEGIN")
    + (parse("", "COMMIT") + bind("") + execute() + parse("", "SELECT 'a'") + bind("") + execute() + SYNC),
    "Query behind a group without Sync": parse("s", "SELECT 'a'")
    + bind("s")
    + query("SELECT 'b'")
    + execute(),
    "FunctionCall": function_call("abc") + parse("", "SELECT 'a'") + function_call("d"),
    "COPY": query(COPY) + copy_data(b"1\n2\n") + COPY_DONE + query("SELECT 'a'"),
    "COPY fails": query(COPY) + copy_data(b"bad\n") + copy_data(b"1\n") + COPY_DONE + query("SELECT 'a'"),
    "COPY given up": query(COPY) + copy_data(b"1\n") + copy_fail("no") + SYNC,
    "COPY ignores Sync and Flush": parse("", COPY)
    + (bind("") + execute() + SYNC + SYNC + FLUSH + copy_data(b"1\n") + SYNC + COPY_DONE + bind("") + SYNC),
    "COPY fails behind a Sync": parse("", COPY)
    + (bind("") + execute() + SYNC + copy_data(b"bad\n") + COPY_DONE + query("SELECT 'a'") + SYNC),
    "a simple COPY ignores Sync": query(COPY) + SYNC + copy_data(b"1\n") + SYNC + COPY_DONE + SYNC,
    "a Query during COPY ends the connection": query(COPY) + query("SELECT 'a'"),
    "a Parse during COPY ends the connection": parse("", COPY) + bind("") + execute() + parse("", "") + SYNC,
    "COPY out": query("COPY (SELECT 'a' FROM generate_series(1,2)) TO STDOUT"),
    "settings": query("SET application_name = 'a'")
    + parse("", "SELECT pg_catalog.set_config($1, $2, false)")
    + (bind("", "application_name", "b") + execute() + SYNC + query("SHOW application_name"))
    + (
        query("BEGIN")
        + query("SET application_name = 'c'")
        + query("ROLLBACK")
        + query("SHOW application_name")
    )
    + (query("RESET application_name") + query("SHOW application_name"))
    + (query("SET application_name = 'd'") + query("RESET ALL") + query("SHOW application_name")),
    "PREPARE and EXECUTE": query("PREPARE s AS SELECT 'a' FROM generate_series(1,3)")
    + query("PREPARE s AS SELECT 'b'")
    + query("EXECUTE s; EXECUTE s")
    + (
        parse("", "EXECUTE s")
        + describe("")
        + bind("")
        + describe_portal()
        + execute("", 2)
        + execute()
        + SYNC
    )
    + (parse("", "EXECUTE s") + bind("") + execute() + execute() + SYNC)
    + query("DEALLOCATE s; DEALLOCATE s")
    + query("EXECUTE s"),
    "EXECUTE of what is not there": query("EXECUTE s")
    + (parse("", "EXECUTE s") + describe("") + bind("") + describe_portal() + execute() + SYNC)
    + (parse("", "DEALLOCATE s") + bind("") + execute() + SYNC + query("DEALLOCATE ALL")),
    "PREPARE behind a Bind of EXECUTE": parse("p", "PREPARE s AS SELECT 'a'")
    + (parse("", "EXECUTE s") + describe("") + bind("", portal="x") + describe_portal("x"))
    + (bind("p") + execute() + execute("x") + execute("x") + SYNC),
    "DEALLOCATE behind a Bind of EXECUTE": query("PREPARE s AS SELECT 'a'")
    + (parse("p", "DEALLOCATE s") + parse("", "EXECUTE s") + bind("", portal="x"))
    + (bind("p") + execute() + describe("") + SYNC),
    "both protocols' statements have the same names": parse("s", "SELECT $1::text")
    + (parse("t", "SHOW application_name") + parse("e", "") + parse("d", "SELECT 1/0") + SYNC)
    + b"".join(
        query(f"EXECUTE {name}")
        + parse("", f"EXECUTE {name}")
        + bind("")
        + describe_portal()
        + execute()
        + SYNC
        for name in "sted"
    )
    + query("PREPARE q AS SELECT 'a'")
    + (describe("q") + bind("q") + describe_portal() + execute() + close("q") + SYNC)
    + (query("EXECUTE q") + query("DEALLOCATE t") + bind("t") + SYNC + query("DEALLOCATE ALL"))
    + (bind("s") + SYNC),
    "EXECUTE of BEGIN and COMMIT": parse("b", "BEGIN")
    + (parse("c", "COMMIT") + SYNC + query("EXECUTE b") + query("SELECT 'a'") + query("EXECUTE c"))
    + (query("EXECUTE b") + query("SELECT 1/0") + query("EXECUTE c") + query("ROLLBACK")),
    "PREPARE is not undone": query("PREPARE s AS SELECT 'a'; SELECT 1/0")
    + (query("BEGIN") + query("DEALLOCATE s") + query("PREPARE t AS SELECT 'b'") + query("SELECT 1/0"))
    + (query("PREPARE u AS SELECT 'c'") + parse("", "EXECUTE t") + SYNC + query("ROLLBACK"))
    + (query("EXECUTE s") + query("EXECUTE t") + query("EXECUTE u")),
    "PREPARE of what is wrong": query("PREPARE s AS SELECT 1/0")
    + query("EXECUTE s")
    + (parse("", "EXECUTE s") + bind("") + execute() + SYNC),
    "DISCARD ALL": parse("s", "SELECT 'a'")
    + (
        SYNC
        + query("BEGIN")
        + query("DISCARD ALL")
        + query("ROLLBACK")
        + query("DISCARD ALL")
        + bind("s")
        + SYNC
    ),
}
END = SYNC + query("ROLLBACK") + query("SELECT 'the end'")


@pytest.fixture(scope="session")
def with_sink(postgres: LocalPostgres) -> LocalPostgres:
    """A PostgreSQL with the table that the texts copy into."""
    postgres.run_sql("set client_min_messages = error; create table if not exists sink (n int)")
    return postgres


def faked(data: bytes, *, noise: random.Random | None = None) -> list[Reply]:
    backend = FakePostgres(noise=noise)
    backend.receive(data)
    return read_replies(backend.deliver())


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_replies_are_those_of_postgresql(name: str, with_sink: LocalPostgres) -> None:
    """Every transcript gets the same messages, rows, error codes and transaction states from both."""
    data = TRANSCRIPTS[name] + END
    assert faked(data) == direct(with_sink, data)


@given(pipeline=pipelines())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_pipelines_get_the_replies_of_postgresql(
    pipeline: list[Request], with_sink: LocalPostgres
) -> None:
    """What hypothesis sends through the pooler means the same to the scripted PostgreSQL as to a real one."""
    numbers = itertools.count()
    data = END
    for request in reversed(pipeline):
        # PostgreSQL 18 gets its transaction state wrong when a Query follows an Execute without a Sync.
        ahead = SYNC if request[0] in ("query", "call") else b""
        data = ahead + rendered(request, lambda: f"n{next(numbers)}") + data
    assert faked(data) == direct(with_sink, data)


def test_noise_is_only_asynchronous_messages() -> None:
    """Notices and notifications change nothing else."""
    data = b"".join(TRANSCRIPTS.values())
    seen = FakePostgres(noise=random.Random(1))
    seen.receive(data)
    replies = read_replies(seen.deliver(), asynchronous=True)
    assert {"N", "A"} <= {reply.tag for reply in replies}
    assert [reply for reply in replies if reply.tag not in "NAS"] == faked(data)
