"""A transaction that failed without a server, compared with one that failed on a PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakepg import FakePostgres
from tests.support.lease import Lease
from tests.support.requests import (
    FLUSH,
    SYNC,
    Reply,
    bind,
    close,
    describe,
    describe_portal,
    execute,
    function_call,
    parse,
    query,
    read_replies,
)
from tests.support.threeways import WAYS, fed
from trio_pool.protocol.client import ClientSession, ClientState
from trio_pool.protocol.failed import FailedTransaction
from trio_pool.protocol.sql import Ending, ending
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

LOST = messages.error(
    "25P02", "lost"
)  # a code that PostgreSQL itself would use, so that replies can be compared
PREPARED = parse("c", "COMMIT") + parse("s", "SELECT 'a'") + parse("e", "") + SYNC
CASES = {
    "query": query("SELECT 'a'") + query("ERROR") + query(""),
    "commit": query("COMMIT"),
    "rollback": query("ROLLBACK"),
    "function call": function_call("a"),
    "sync": SYNC + SYNC,
    "unnamed": parse("", "ROLLBACK") + bind("") + describe_portal() + execute() + SYNC,
    "unnamed, group by group": parse("", "ROLLBACK")
    + (SYNC + describe("") + SYNC + bind("") + execute() + SYNC),
    "named": parse("r", "ROLLBACK") + describe("r") + bind("r") + execute() + SYNC,
    "prepared before": describe("c") + bind("c") + execute() + SYNC,
    "refused": parse("", "SELECT 'a'") + bind("") + execute() + query("skipped") + FLUSH + SYNC,
    "prepared before and refused": bind("s") + SYNC + describe("s") + SYNC + bind("e") + SYNC,
    "empty": parse("", "") + describe("") + SYNC + bind("") + SYNC,
    "duplicate": parse("c", "SELECT 'a'") + SYNC,
    "unknown portal": execute("p") + SYNC,
    "close": close("s") + close("unknown") + SYNC,
    "goes on in the same group": parse("", "ROLLBACK") + bind("") + execute() + SYNC,
}


def failed_client(prepared: bytes = b"", *, told: bool = True) -> tuple[ClientSession, FakePostgres]:
    """A client whose transaction was lost with its server, and a PostgreSQL whose transaction failed. The
    client has been told so, as that of a PostgreSQL always has.
    """
    backend = FakePostgres()
    lease = Lease()
    backend.receive(lease.asks(prepared + query("BEGIN")))
    lease.answers(backend.deliver())
    lease.client.lose(LOST)
    assert lease.client.state is ClientState.FAILED
    if told:
        lease.client.receive(query("SELECT 'lost'"))
        lease.client.replies = b""
    direct = FakePostgres()
    direct.receive(prepared + query("BEGIN") + query("SELECT 1/0"))
    direct.deliver()
    return lease.client, direct


def coarse(replies: Iterable[Reply]) -> list[Reply]:
    """Without what only a server can tell apart: why a request was refused."""
    return [Reply("E") if reply.tag == "E" else reply for reply in replies]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_replies_are_those_of_an_aborted_transaction(name: str, way: str) -> None:
    """Everything is refused until the transaction is ended, in both protocols, however it is cut."""
    client, direct = failed_client(PREPARED)
    direct.receive(CASES[name])
    assert fed(client.receive, CASES[name], way) == b""
    replies = read_replies(client.replies)
    assert coarse(replies) == coarse(read_replies(direct.deliver()))
    assert {reply.content for reply in replies if reply.tag == "E"} <= {"25P02"}
    assert client.input == b""


@pytest.mark.parametrize(
    "end", ["END", "ABORT", "rollback work;", "/* x */ COMMIT -- y", "PREPARE TRANSACTION 'x'"]
)
def test_every_way_of_ending_a_transaction_is_known(end: str) -> None:
    """By PostgreSQL's own parser; the answer is ROLLBACK."""
    client, _ = failed_client()
    client.receive(query(end))
    assert read_replies(client.replies) == [Reply("C", "ROLLBACK"), Reply("Z", "I")]
    assert client.state is ClientState.IDLE


@pytest.mark.parametrize(
    "text", ["ROLLBACK AND CHAIN", "ROLLBACK TO a", "SAVEPOINT a", "COMMIT PREPARED 'x'", "SELECT 'ROLLBACK'"]
)
def test_what_does_not_end_it_is_refused(text: str) -> None:
    """However alike it looks."""
    client, _ = failed_client()
    client.receive(query(text))
    assert [reply.tag for reply in read_replies(client.replies)] == ["E", "Z"]
    assert client.state is ClientState.FAILED


def test_what_follows_rollback_in_the_same_text_needs_a_server() -> None:
    """The whole text goes there: its ROLLBACK finds no transaction, which is a warning."""
    client, _ = failed_client()
    client.receive(query("ROLLBACK; SELECT 'a'"))
    assert (client.state, client.replies) == (ClientState.WAITING, b"")


def test_what_follows_rollback_in_the_same_group_needs_a_server() -> None:
    """Its Sync goes there as well."""
    client, _ = failed_client()
    client.receive(parse("", "ROLLBACK") + bind("") + execute() + parse("", "SELECT 'a'") + SYNC)
    assert client.state is ClientState.WAITING
    assert [reply.tag for reply in read_replies(client.replies)] == ["1", "2", "C"]
    assert client.input == parse("", "SELECT 'a'") + SYNC


def test_a_statement_prepared_in_the_failed_transaction_outlives_it() -> None:
    """Drivers prepare ROLLBACK once and execute it for ever."""
    client, _ = failed_client()
    client.receive(parse("r", "ROLLBACK") + bind("r") + execute() + SYNC)
    lease = Lease(client)
    sent = lease.asks(bind("r") + execute() + SYNC)
    assert sent == parse("_pool_1", "ROLLBACK") + bind("_pool_1") + execute() + SYNC


@pytest.mark.parametrize("end", ["COMMIT", "END WORK", "PREPARE TRANSACTION 'x'", "COMMIT; SELECT 'a'"])
def test_a_commit_that_nobody_was_told_of_is_an_error(end: str) -> None:
    """A client that learns of its loss by COMMIT gets the error, for few look at a command tag; then it is
    out of the transaction, in both protocols. ROLLBACK is what has happened already.
    """
    client, _ = failed_client(told=False)
    client.receive(query(end))
    assert read_replies(client.replies) == [Reply("E", "25P02"), Reply("Z", "I")]
    assert client.state is ClientState.IDLE
    client, _ = failed_client(told=False)
    client.receive(query("ROLLBACK"))
    assert read_replies(client.replies) == [Reply("C", "ROLLBACK"), Reply("Z", "I")]


def test_an_executed_commit_that_nobody_was_told_of_is_an_error() -> None:
    """Whatever follows in its group is skipped."""
    client, _ = failed_client(parse("c", "COMMIT") + SYNC, told=False)
    client.receive(bind("c") + execute() + bind("c") + execute() + SYNC)
    assert read_replies(client.replies) == [Reply("2"), Reply("E", "25P02"), Reply("Z", "I")]
    assert client.state is ClientState.IDLE


def test_the_first_refusal_says_why() -> None:
    """And only the first."""
    failed = FailedTransaction(cause=LOST)
    assert failed.refuse() == LOST
    assert read_replies(failed.refuse()) == [Reply("E", "25P02")]


@pytest.mark.parametrize("tag", "PBDEC")
@pytest.mark.parametrize("body", [b"", b"\0", b"x", b"S", b"\0\0", b"\xff\0\xff\0"])
def test_malformed_requests_are_refused(tag: str, body: bytes) -> None:
    """Like everything else: nothing that a client sends raises."""
    client, _ = failed_client()
    client.receive(messages.message(ord(tag), body) + SYNC)
    assert client.replies.endswith(messages.READY[ord("E")])
    assert client.state is ClientState.FAILED


@pytest.mark.parametrize(
    "text", [b"select 1" + b"+1" * 40_000, b"select 1" + b"+1" * 200, b"rollback" + b" " * 20_000]
)
def test_what_the_parser_cannot_take_does_not_end_the_transaction(text: bytes) -> None:
    """Neither does it end the process, whose C stack a deep expression would use up."""
    assert ending(text) is Ending.NONE
