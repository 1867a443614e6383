"""The client machine: what needs a server, what is sent to it, and what is answered in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakepg import COPY_IN_RESPONSE
from tests.support.fakesql import data_row
from tests.support.lease import PREFIX, REPORTED, Lease, new_client, new_server
from tests.support.requests import (
    COPY_DONE,
    FLUSH,
    SYNC,
    TERMINATE,
    bind,
    close,
    close_portal,
    copy_data,
    copy_fail,
    describe,
    execute,
    function_call,
    parse,
    query,
    read_replies,
)
from tests.support.threeways import WAYS, fed
from trio_pool.protocol.client import MAX_STATEMENT, STREAMED, ClientSession, ClientState
from trio_pool.protocol.settings import NONE, intern
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LARGE, MAX_SMALL
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE, BUSY, FAILED = (messages.READY[s] for s in (Status.IDLE, Status.IN_TRANSACTION, Status.FAILED))
LOST = messages.error("08006", "server connection lost")
ERROR = messages.error("42601", "syntax error")
SELECTED = data_row("a") + command_complete("SELECT 1")
NAME_1, NAME_2 = PREFIX.decode() + "1", PREFIX.decode() + "2"
TEXT_1, TEXT_2 = "SELECT $1::text", "SELECT 'b'"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def lease(way: str) -> Lease:
    return Lease(way=way)


def codes(data: bytes) -> list[str]:
    """Tags of replies, with SQLSTATE or transaction status."""
    return [repr(reply) for reply in read_replies(data)]


# -- without a server ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requests", "replies"),
    [
        (SYNC, IDLE),
        (SYNC + SYNC, IDLE + IDLE),
        (FLUSH + copy_data(b"late") + COPY_DONE + copy_fail("late"), b""),
        (close("s") + close_portal() + SYNC, CLOSE_COMPLETE * 2 + IDLE),
    ],
)
def test_what_needs_no_server_is_answered_at_once(requests: bytes, replies: bytes, way: str) -> None:
    """Sync, Close, Flush, and what is late of a COPY that failed."""
    client = new_client()
    assert fed(client.receive, requests, way) == b""
    assert (client.state, client.replies, client.input) == (ClientState.IDLE, replies, b"")


@pytest.mark.parametrize(
    "request_", [query("SELECT 1"), parse("", "x"), bind("s"), function_call("a"), execute()]
)
def test_anything_else_wants_a_server_once_it_is_whole(request_: bytes, way: str) -> None:
    """A client that stops in the middle of a message holds nothing; what it sends while it waits is kept."""
    client = new_client()
    fed(client.receive, request_[:-1], way)
    assert (client.state, client.replies) == (ClientState.IDLE, b"")
    fed(client.receive, request_[-1:] + SYNC, way)
    assert (client.state, client.replies) == (ClientState.WAITING, b"")
    assert client.link(new_server()) == request_ + SYNC


def test_terminate_ends_the_client(way: str) -> None:
    """Nothing that follows matters."""
    client = new_client()
    fed(client.receive, SYNC + TERMINATE + query("SELECT 1"), way)
    assert (client.state, client.replies) == (ClientState.ENDING, IDLE)


@pytest.mark.parametrize(
    "header",
    [
        b"?\0\0\0\4",
        b"p\0\0\0\4",
        b"\0\0\0\0\4",
        b"Q\0\0\0\3",
        b"S\0\0\0\0",
        b"Q" + (MAX_LARGE + 1).to_bytes(4, "big"),
        b"Q\xff\xff\xff\xff",
        b"E" + (MAX_SMALL + 1).to_bytes(4, "big"),
    ],
)
@pytest.mark.parametrize("linked", [False, True])
def test_messages_that_postgresql_refuses_end_the_client(header: bytes, linked: bool, way: str) -> None:
    """At the header; what came before stands, what comes behind is nothing."""
    lease = Lease(way=way)
    ahead = query("SELECT 1") if linked else b""
    sent = lease.asks(ahead) if linked else fed(lease.client.receive, b"", way)
    sent += fed(lease.client.receive, header + query("SELECT 2"), way)
    assert sent == ahead
    assert lease.client.fault is not None
    assert lease.client.fault.sqlstate == "08P01"
    assert lease.client.state is ClientState.ENDING


# -- refused and lost ----------------------------------------------------------------------------------------


def refused(requests: bytes, way: str) -> tuple[ClientSession, bytes]:
    """A client whose wait was refused, and what it got; the requests go on arriving meanwhile."""
    client = new_client()
    fed(client.receive, requests, way)
    assert client.state is ClientState.WAITING
    client.refuse(LOST)
    replies, client.replies = client.replies, b""
    return client, replies


def test_a_refused_query_is_answered(way: str) -> None:
    """With the error and ReadyForQuery; the client stays."""
    client, replies = refused(query("SELECT 1"), way)
    assert replies == LOST + IDLE
    assert client.state is ClientState.IDLE


def test_a_refused_pipeline_is_skipped_to_its_sync(way: str) -> None:
    """One error for the group, one ReadyForQuery for its Sync, as if PostgreSQL had refused the first
    message.
    """
    group = parse("", "x") + bind("") + execute() + query("skipped") + SYNC
    client, replies = refused(group, way)
    assert replies == LOST + IDLE
    assert client.state is ClientState.IDLE


def test_what_follows_a_refused_request_is_tried_again(way: str) -> None:
    """The next group waits for a server of its own."""
    client, replies = refused(query("SELECT 1") + query("SELECT 2"), way)
    assert replies == LOST + IDLE
    assert client.state is ClientState.WAITING
    assert client.link(new_server()) == query("SELECT 2")


def test_a_refused_pipeline_goes_on_being_skipped(way: str) -> None:
    """Its rest may come later."""
    client, replies = refused(parse("", "x"), way)
    assert replies == LOST
    fed(client.receive, bind("") + execute() + SYNC + query("SELECT 1"), way)
    assert client.replies == IDLE
    assert client.state is ClientState.WAITING


def test_the_rest_of_a_refused_long_message_is_dropped() -> None:
    """It began to stream before it was whole."""
    client = new_client()
    long = query("SELECT '" + "x" * 3 * STREAMED + "'")
    client.receive(long[:STREAMED])
    assert client.state is ClientState.WAITING
    client.refuse(LOST)
    client.receive(long[STREAMED:-1])
    client.receive(long[-1:] + SYNC)
    assert client.replies == LOST + IDLE + IDLE


def test_every_outstanding_request_learns_that_the_server_is_lost(lease: Lease) -> None:
    """One error and one ReadyForQuery for each, in sequence."""
    lease.asks(query("SELECT 1") + parse("", "x") + SYNC + query("SELECT 2"))
    lease.answers(SELECTED + IDLE)
    lease.client.lose(LOST)
    assert lease.own_replies() == (LOST + IDLE) * 2
    assert lease.client.state is ClientState.IDLE


def test_an_open_group_learns_that_the_server_is_lost(lease: Lease) -> None:
    """The error now, ReadyForQuery for its Sync."""
    lease.asks(parse("", "x") + bind(""))
    lease.client.lose(LOST)
    assert lease.own_replies() == LOST
    fed(lease.client.receive, execute() + SYNC, lease.way)
    assert lease.own_replies() == IDLE


def test_a_group_that_had_its_error_gets_no_second_one(lease: Lease) -> None:
    """Only its ReadyForQuery."""
    lease.asks(parse("s", "x") + bind(""))
    lease.answers(ERROR)
    lease.client.lose(LOST)
    assert lease.own_replies() == b""
    fed(lease.client.receive, SYNC, lease.way)
    assert lease.own_replies() == IDLE


@pytest.mark.parametrize("running", [False, True])
def test_a_lost_transaction_is_a_failed_one(running: bool, lease: Lease) -> None:
    """Until the client ends it; without a request to answer, the next one learns why."""
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BUSY)
    if running:
        lease.asks(query("SELECT 1"))
    lease.client.lose(LOST)
    assert lease.own_replies() == (LOST + FAILED if running else b"")
    fed(lease.client.receive, query("SELECT 2") + query("SELECT 3") + query("ROLLBACK"), lease.way)
    first = "E:25P02" if running else "E:08006"
    assert codes(lease.own_replies()) == [first, "Z:E", "E:25P02", "Z:E", "C:ROLLBACK", "Z:I"]
    assert lease.client.state is ClientState.IDLE


def test_a_server_lost_during_copy(lease: Lease) -> None:
    """The COPY fails; what the client still sends of it is ignored."""
    lease.asks(query("COPY sink FROM STDIN"))
    lease.answers(COPY_IN_RESPONSE)
    lease.asks(copy_data(b"1\n"))
    lease.client.lose(LOST)
    fed(lease.client.receive, copy_data(b"2\n") + COPY_DONE + SYNC, lease.way)
    assert lease.own_replies() == LOST + IDLE + IDLE


def test_a_server_lost_while_a_long_message_passes() -> None:
    """Its rest is dropped, and what follows it is understood."""
    lease = Lease()
    long = copy_data(b"x" * 2 * STREAMED)
    lease.asks(query("COPY sink FROM STDIN") + long[: STREAMED + 100])
    lease.client.lose(LOST)
    fed(lease.client.receive, long[STREAMED + 100 :] + SYNC, "halves")
    assert lease.own_replies() == LOST + IDLE + IDLE


# -- with a server -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "requests",
    [
        query("SELECT 1") + query("SELECT 2"),
        parse("", "x") + bind("", "p") + execute() + SYNC,
        bind("unknown") + describe("unknown") + execute("p", 5) + close_portal("p") + SYNC,
        function_call("a") + query("COPY sink FROM STDIN") + copy_data(b"1\n") + COPY_DONE,
    ],
)
def test_requests_without_named_statements_pass_as_they_came(requests: bytes, lease: Lease) -> None:
    """However they are cut."""
    assert lease.asks(requests) == requests


@pytest.mark.parametrize(
    "message",
    [
        b"D\0\0\0\4",
        b"C\0\0\0\4",
        b"C\0\0\0\5S",
        b"B\0\0\0\4",
        b"B\0\0\0\5\0",
        b"B\0\0\0\5p",
        b"P\0\0\0\4",
        b"E\0\0\0\4",
    ],
)
def test_malformed_requests_pass_as_they_came(message: bytes, lease: Lease) -> None:
    """The server says what is wrong with them."""
    assert lease.asks(message + SYNC) == message + SYNC


@pytest.mark.parametrize(
    "long",
    [
        query("SELECT '" + "x" * 5 * STREAMED + "'"),
        bind("", "x" * 5 * STREAMED),
        copy_data(b"x" * 5 * STREAMED),
        parse("", "x" * 5 * STREAMED),
    ],
)
def test_long_messages_are_streamed(long: bytes) -> None:
    """In pieces, as they come, and none of it is kept."""
    lease = Lease()
    lease.asks(query(""))
    sent = b""
    for at in range(0, len(long), 10_000):
        sent += lease.asks(long[at : at + 10_000])
        assert at < STREAMED or sent == long[: at + 10_000]
        assert len(lease.client.input) <= STREAMED
    assert lease.asks(SYNC) == SYNC
    assert sent == long


@pytest.mark.parametrize("size", [5, 6, 7, 8, 9, 100])
def test_a_long_bind_is_renamed_however_it_begins(size: int) -> None:
    """Its names are waited for."""
    lease = Lease()
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    value = "x" * 2 * STREAMED
    long = bind("s1", value)
    sent = lease.asks(long[:size]) + lease.asks(long[size:] + SYNC)
    assert sent == bind(NAME_1, value) + SYNC


@pytest.mark.parametrize("size", [5, 6, 7, 100])
def test_a_long_parse_of_a_named_statement_is_collected(size: int) -> None:
    """Its text must be known; it reaches the server in one piece."""
    lease = Lease()
    text = "SELECT '" + "x" * 3 * STREAMED + "'"
    long = parse("s1", text)
    lease.asks(query(""))
    assert lease.asks(long[:size]) == b""
    assert lease.asks(long[size : STREAMED + size]) == b""
    assert lease.asks(long[STREAMED + size :] + SYNC) == parse(NAME_1, text) + SYNC


def test_a_named_statement_has_a_longest_text() -> None:
    """It is kept for as long as the client lives, so it is bounded."""
    lease = Lease()
    lease.asks(query("") + b"P" + (MAX_STATEMENT + 1).to_bytes(4, "big") + b"s")
    assert lease.client.fault is not None
    assert lease.client.fault.sqlstate == "54000"


def test_a_client_has_a_largest_number_of_statements(way: str) -> None:
    """Hazard E7: names are memory."""
    lease = Lease(client=new_client(max_statements=2), way=way)
    lease.asks(parse("s1", TEXT_1) + parse("s2", TEXT_2) + close("s1") + parse("s3", TEXT_1))
    assert lease.client.fault is None
    lease.asks(parse("s4", TEXT_1))
    assert lease.client.fault is not None
    assert lease.client.fault.sqlstate == "54000"


def test_terminate_behind_requests_ends_the_client_behind_them(lease: Lease) -> None:
    """They are still sent."""
    assert lease.asks(query("SELECT 1") + TERMINATE + query("never") + SYNC) == query("SELECT 1")
    assert lease.client.state is ClientState.ENDING


# -- prepared statements (hazards E1 to E4) ------------------------------------------------------------------


def test_named_statements_are_renamed_by_content(lease: Lease) -> None:
    """Parse, Bind and Describe name what is on the server; replies are the server's."""
    requests = parse("s1", TEXT_1) + bind("s1", "a") + describe("s1") + execute() + SYNC
    assert (
        lease.asks(requests)
        == parse(NAME_1, TEXT_1) + bind(NAME_1, "a") + describe(NAME_1) + execute() + SYNC
    )
    answer = (
        PARSE_COMPLETE
        + BIND_COMPLETE
        + messages.message(ord("t"), b"\0\0")
        + messages.NO_DATA
        + SELECTED
        + IDLE
    )
    assert lease.answers(answer) == answer


def test_the_same_text_with_other_types_is_another_statement(lease: Lease) -> None:
    """E2."""
    requests = parse("s1", TEXT_1, 25) + parse("s2", TEXT_1, 1043) + parse("s3", TEXT_1) + SYNC
    expected = parse(NAME_1, TEXT_1, 25) + parse(NAME_2, TEXT_1, 1043) + parse(f"{PREFIX.decode()}3", TEXT_1)
    assert lease.asks(requests) == expected + SYNC


def test_clients_share_statements(way: str) -> None:
    """What one has prepared the other need not: its Parse is answered in the server's place, without any
    server if it likes.
    """
    registry, server = StatementRegistry(PREFIX), new_server()
    first = Lease(new_client(registry), server, way)
    first.asks(parse("s1", TEXT_1) + SYNC)
    first.answers(PARSE_COMPLETE + IDLE)
    first.ends()
    second = Lease(new_client(registry), server, way)
    fed(second.client.receive, parse("other", TEXT_1) + SYNC, way)
    assert second.own_replies() == PARSE_COMPLETE + IDLE
    assert second.client.state is ClientState.IDLE
    assert second.asks(bind("other", "a") + execute() + SYNC) == bind(NAME_1, "a") + execute() + SYNC


def test_a_server_that_lacks_a_statement_gets_it_first(lease: Lease) -> None:
    """And nobody sees the reply to that."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.moves_to(new_server())
    sent = lease.asks(bind("s1", "a") + execute() + SYNC)
    assert sent == parse(NAME_1, TEXT_1) + bind(NAME_1, "a") + execute() + SYNC
    assert lease.answers(PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE) == BIND_COMPLETE + SELECTED + IDLE
    assert lease.asks(bind("s1", "b") + execute() + SYNC) == bind(NAME_1, "b") + execute() + SYNC


def test_a_failed_parse_removes_the_name(lease: Lease) -> None:
    """E1: from the client and from the server; the next Bind fails as it would directly, the next Parse is
    sent.
    """
    lease.asks(parse("s1", "ERROR") + bind("s1") + SYNC)
    assert lease.answers(ERROR + IDLE) == ERROR + IDLE
    assert lease.asks(bind("s1") + SYNC) == bind("s1") + SYNC
    lease.answers(ERROR + IDLE)
    assert lease.asks(parse("s1", "ERROR") + SYNC) == parse(NAME_1, "ERROR") + SYNC


def test_a_skipped_parse_removes_the_name(lease: Lease) -> None:
    """E1 in a pipeline: whether the Parse was sent before the error came or behind it, and in the server's
    place as well.
    """
    lease.asks(parse("known", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(bind("unknown") + parse("s1", TEXT_1) + parse("s2", TEXT_2))
    lease.answers(ERROR)
    lease.asks(parse("s3", TEXT_1) + parse("s4", TEXT_2) + SYNC)
    assert lease.answers(IDLE) == IDLE
    assert lease.own_replies() == b""
    for name in ("s1", "s2", "s3", "s4"):
        assert lease.asks(bind(name) + SYNC) == bind(name) + SYNC
        lease.answers(ERROR + IDLE)
    assert lease.asks(bind("known", "a") + SYNC) == bind(NAME_1, "a") + SYNC


def test_a_later_group_does_not_suffer_from_an_earlier_one(lease: Lease) -> None:
    """The name was closed and parsed again before the error of the first Parse came: it stands for the
    second.
    """
    lease.asks(parse("s1", "ERROR") + SYNC + close("s1") + parse("s1", TEXT_2) + SYNC)
    assert (
        lease.answers(ERROR + IDLE + PARSE_COMPLETE + IDLE)
        == ERROR + IDLE + CLOSE_COMPLETE + PARSE_COMPLETE + IDLE
    )
    assert lease.asks(bind("s1") + SYNC) == bind(NAME_2) + SYNC


def test_close_is_answered_and_the_statement_kept(lease: Lease) -> None:
    """E3: others may want it; the client's own name is free."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    assert lease.asks(close("s1") + bind("s1") + SYNC) == bind("s1") + SYNC
    assert lease.own_replies() == CLOSE_COMPLETE
    assert lease.answers(ERROR + IDLE) == ERROR + IDLE
    assert lease.asks(parse("s1", TEXT_1) + SYNC) == SYNC
    assert lease.own_replies() + lease.answers(IDLE) == PARSE_COMPLETE + IDLE


def test_a_skipped_close_closes_nothing(lease: Lease) -> None:
    """E3: the name is still there."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(bind("unknown") + close("s1") + SYNC)
    assert lease.answers(ERROR + IDLE) == ERROR + IDLE
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC


def test_a_name_in_use_is_refused_by_the_server_itself(lease: Lease) -> None:
    """E3: in PostgreSQL's words, and the name stands for what it stood for."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    duplicate = parse("s1", TEXT_2)
    assert lease.asks(duplicate + SYNC) == parse("s1", "") + duplicate + SYNC
    taken = messages.error("42P05", 'prepared statement "s1" already exists')
    assert lease.answers(PARSE_COMPLETE + taken + IDLE) == taken + IDLE
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC
    lease.answers(BIND_COMPLETE + IDLE)
    assert lease.asks(close("s1") + SYNC) == close("s1") + SYNC
    assert lease.answers(CLOSE_COMPLETE + IDLE) == CLOSE_COMPLETE + IDLE


def test_a_name_that_was_taken_on_the_server_is_closed_for_the_next_client(lease: Lease) -> None:
    """It would otherwise find a statement that nobody of its kind has made."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(parse("s1", TEXT_2) + SYNC)
    lease.answers(PARSE_COMPLETE + ERROR + IDLE)
    server = lease.server
    lease.ends()
    other = Lease(new_client(), server, lease.way)
    assert other.asks(query("SELECT 1")) == close("s1") + SYNC + query("SELECT 1")
    assert other.answers(CLOSE_COMPLETE + IDLE + SELECTED + IDLE) == SELECTED + IDLE


def test_a_statement_is_not_taken_for_granted_in_a_transaction_that_may_have_failed(lease: Lease) -> None:
    """PostgreSQL refuses even the Parse there, so it has to be asked, and the name stays free."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(query("BEGIN") + query("ERROR"))
    lease.answers(command_complete("BEGIN") + BUSY + ERROR + FAILED)
    assert lease.asks(parse("s2", TEXT_1) + SYNC) == close(NAME_1) + parse(NAME_1, TEXT_1) + SYNC
    refusal = messages.error("25P02", "aborted")
    assert lease.answers(CLOSE_COMPLETE + refusal + FAILED) == refusal + FAILED
    lease.asks(query("ROLLBACK"))
    lease.answers(command_complete("ROLLBACK") + IDLE)
    assert lease.asks(bind("s2", "a") + SYNC) == bind("s2", "a") + SYNC


def test_eviction_in_the_middle_of_a_pipeline(way: str) -> None:
    """E4: the server has room for one; what is evicted is parsed again when the pipeline needs it."""
    lease = Lease(server=new_server(max_statements=1), way=way)
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    sent = lease.asks(bind("s1", "a") + execute() + parse("s2", TEXT_2) + bind("s1", "b") + execute() + SYNC)
    first, second = parse(NAME_1, TEXT_1), parse(NAME_2, TEXT_2)
    again = close(NAME_1) + close(NAME_2) + first if close(NAME_1) + close(NAME_2) in sent else b""
    assert (
        sent
        == bind(NAME_1, "a")
        + execute()
        + close(NAME_1)
        + second
        + again
        + bind(NAME_1, "b")
        + execute()
        + SYNC
    )
    replies = BIND_COMPLETE + SELECTED + CLOSE_COMPLETE + PARSE_COMPLETE + CLOSE_COMPLETE * 2 + PARSE_COMPLETE
    expected = BIND_COMPLETE + SELECTED + PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE
    assert lease.answers(replies + BIND_COMPLETE + SELECTED + IDLE) == expected
    assert [s.name.decode() for s in lease.server.statements.present] == [NAME_1]


def test_an_eviction_behind_an_error_has_not_happened(way: str) -> None:
    """E4: Close and Parse of the pooler's own are skipped like everything else."""
    lease = Lease(server=new_server(max_statements=1), way=way)
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(bind("unknown") + parse("s2", TEXT_2) + SYNC)
    assert lease.answers(ERROR + IDLE) == ERROR + IDLE
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC


def test_an_eviction_in_a_failed_group_comes_to_an_end(way: str) -> None:
    """E4: what is sent there is skipped, and undone at once."""
    lease = Lease(server=new_server(max_statements=1), way=way)
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(bind("unknown"))
    lease.answers(ERROR)
    lease.asks(parse("s2", TEXT_2) + SYNC)
    assert lease.answers(IDLE) == IDLE
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC


def test_what_discard_all_forgets_is_prepared_again(lease: Lease) -> None:
    """On the server; a Parse that was sent behind it counts."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(query("DISCARD ALL") + parse("s2", TEXT_2) + SYNC)
    lease.answers(command_complete("DISCARD ALL") + IDLE + PARSE_COMPLETE + IDLE)
    sent = lease.asks(bind("s1", "a") + bind("s2") + SYNC)
    assert sent == parse(NAME_1, TEXT_1) + bind(NAME_1, "a") + bind(NAME_2) + SYNC


# -- the unnamed statement -----------------------------------------------------------------------------------


def test_the_unnamed_statement_follows_its_client(lease: Lease) -> None:
    """E3: it lives until the next Parse or Query, on whichever server."""
    lease.asks(parse("", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    assert lease.asks(bind("", "a") + execute() + SYNC) == bind("", "a") + execute() + SYNC
    lease.answers(BIND_COMPLETE + SELECTED + IDLE)
    lease.moves_to(new_server())
    assert (
        lease.asks(bind("", "b") + execute() + SYNC) == parse("", TEXT_1) + bind("", "b") + execute() + SYNC
    )
    assert lease.answers(PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE) == BIND_COMPLETE + SELECTED + IDLE


def executes_nothing_of_others(prepare: Callable[[Lease], None], way: str) -> bytes:
    """What a client's Bind of the unnamed statement becomes on a server that has another client's."""
    other = Lease(way=way)
    other.asks(parse("", "SELECT 'secret'") + SYNC)
    other.answers(PARSE_COMPLETE + IDLE)
    other.ends()
    lease = Lease(server=other.server, way=way)
    prepare(lease)
    return lease.asks(bind("") + SYNC)


def nothing(lease: Lease) -> None:
    pass


def skipped_parse(lease: Lease) -> None:
    lease.asks(bind("unknown") + parse("", TEXT_2) + SYNC)
    lease.answers(ERROR + IDLE)


def parse_behind_an_error(lease: Lease) -> None:
    lease.asks(bind("unknown"))
    lease.answers(ERROR)
    lease.asks(parse("", TEXT_2) + SYNC)
    lease.answers(IDLE)


def parse_that_may_be_skipped(lease: Lease) -> None:
    lease.asks(bind("unknown") + parse("", TEXT_2) + SYNC)


def skipped_query(lease: Lease) -> None:
    lease.asks(bind("unknown"))
    lease.answers(ERROR)
    lease.asks(query("SELECT 1") + SYNC)
    lease.answers(IDLE)


def query_that_may_be_skipped(lease: Lease) -> None:
    lease.asks(bind("unknown") + query("SELECT 1") + SYNC)


@pytest.mark.parametrize(
    ("prepare", "ahead"),
    [
        (nothing, close("")),
        (skipped_parse, parse("", TEXT_2)),
        (parse_behind_an_error, parse("", TEXT_2)),
        (parse_that_may_be_skipped, parse("", TEXT_2)),
        (skipped_query, close("")),
        (query_that_may_be_skipped, close("")),
    ],
)
def test_nobody_executes_another_clients_unnamed_statement(
    prepare: Callable[[Lease], None], ahead: bytes, way: str
) -> None:
    """Not even a client that binds it without having parsed it, or whose Parse was skipped."""
    assert executes_nothing_of_others(prepare, way) == ahead + bind("") + SYNC


def test_nobody_executes_our_own_statements(way: str) -> None:
    """Settings are applied through the unnamed statement, which is closed behind them."""
    lease = Lease(client=new_client(settings=intern({"application_name": "x"})), way=way)
    sent = lease.asks(bind("") + SYNC)
    assert sent.endswith(execute() + close("") + SYNC + bind("") + SYNC)


def test_a_query_drops_the_unnamed_statement(lease: Lease) -> None:
    """E3: on the next server as well."""
    lease.asks(parse("", TEXT_1) + SYNC + query(""))
    lease.answers(PARSE_COMPLETE + IDLE + messages.EMPTY_QUERY + IDLE)
    other = new_server()
    other.parse_unnamed(b"another's")
    lease.moves_to(other)
    assert lease.asks(bind("") + SYNC) == close("") + bind("") + SYNC


def test_a_closed_unnamed_statement_is_gone(lease: Lease) -> None:
    """E3."""
    lease.asks(parse("", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    assert lease.asks(close("") + bind("") + SYNC) == close("") + bind("") + SYNC


# -- Flush without Sync --------------------------------------------------------------------------------------


def test_a_lease_ends_at_flush_when_only_statements_were_prepared() -> None:
    """A Sync is sent in its place and its ReadyForQuery swallowed; the client goes on elsewhere."""
    lease = Lease()
    assert (
        lease.asks(parse("s1", TEXT_1) + describe("s1") + FLUSH)
        == parse(NAME_1, TEXT_1) + describe(NAME_1) + SYNC
    )
    answer = PARSE_COMPLETE + messages.message(ord("t"), b"\0\0") + messages.NO_DATA
    assert lease.answers(answer + IDLE) == answer
    lease.moves_to(new_server())
    sent = lease.asks(bind("s1", "a") + execute() + SYNC)
    assert sent == parse(NAME_1, TEXT_1) + bind(NAME_1, "a") + execute() + SYNC


def test_a_failure_in_front_of_such_a_flush_skips_to_the_clients_own_sync() -> None:
    """As if the group had stayed open."""
    lease = Lease()
    lease.asks(parse("s1", "ERROR") + FLUSH)
    assert lease.answers(ERROR + IDLE) == ERROR
    lease.ends()
    fed(lease.client.receive, bind("s1") + query("skipped") + SYNC, lease.way)
    assert lease.own_replies() == IDLE


def test_a_pinned_client_keeps_its_server_at_flush() -> None:
    """The Flush goes through: nobody would end such a lease."""
    lease = Lease()
    lease.asks(query("LISTEN a"))
    lease.answers(command_complete("LISTEN") + IDLE)
    assert lease.asks(parse("s1", TEXT_1) + FLUSH) == parse(NAME_1, TEXT_1) + FLUSH


# -- settings ------------------------------------------------------------------------------------------------


def test_a_clients_settings_are_there_before_its_request(way: str) -> None:
    """In the same write, and taken away again for who has none."""
    lease = Lease(client=new_client(settings=intern({"application_name": "x"})), way=way)
    sent = lease.asks(query("SELECT 1"))
    assert sent.count(b"set_config") == 1
    assert sent.endswith(SYNC + query("SELECT 1"))
    lease.answers(PARSE_COMPLETE + BIND_COMPLETE + SELECTED + CLOSE_COMPLETE + IDLE + SELECTED + IDLE)
    lease.ends()
    assert b'RESET "application_name"' in Lease(server=lease.server, way=way).asks(query("SELECT 2"))


def test_a_setting_changed_by_the_client_is_its_own(lease: Lease) -> None:
    """Learned from ParameterStatus, so that however it was set, the next server gets it too."""
    lease.asks(query("SELECT set_config('application_name', 'x', false)"))
    told = messages.parameter_status("application_name", "x")
    assert lease.answers(SELECTED + told + IDLE) == SELECTED + told + IDLE
    lease.moves_to(new_server())
    assert lease.client.settings is intern({"application_name": "x"})
    assert b"application_name" in lease.asks(query("SELECT 1"))


def test_parameters_that_belong_to_the_server_are_not_learned(lease: Lease) -> None:
    """in_hot_standby changes at a fail-over and is nobody's setting."""
    lease.asks(query("SELECT 1"))
    lease.answers(SELECTED + messages.parameter_status("in_hot_standby", "on") + IDLE)
    lease.ends()
    assert lease.client.settings is NONE


def test_a_client_is_told_when_the_origins_defaults_have_changed(way: str) -> None:
    """Its own settings excepted."""
    defaults = REPORTED.but({"server_version": "19.0", "application_name": "default"})
    client = new_client(settings=intern({"application_name": "x"}))
    server = type(new_server())(defaults, max_statements=10)
    lease = Lease(client, server, way)
    lease.asks(query("SELECT 1"))
    assert lease.own_replies() == messages.parameter_status("server_version", "19.0")
