"""The client machine: what needs a server, what is sent to it, and what is answered in its place."""

from __future__ import annotations

import pytest

from tests.support.fakepg import COPY_IN_RESPONSE
from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    PREFIX,
    REPORTED,
    SELECTED,
    Lease,
    adopted,
    adoption,
    new_client,
    new_server,
)
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
from trio_pool.protocol.carried import MAX_STATEMENT
from trio_pool.protocol.client import STREAMED, ClientSession, ClientState
from trio_pool.protocol.settings import NONE, intern
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LARGE, MAX_SMALL
from trio_pool.wire.messages import CLOSE_COMPLETE, PARSE_COMPLETE, command_complete

LOST = messages.error("08006", "server connection lost")
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


# -- settings ------------------------------------------------------------------------------------------------


def test_a_clients_settings_are_there_before_its_request(way: str) -> None:
    """In the same write, and taken away again for who has none."""
    lease = Lease(client=new_client(settings=intern({"application_name": "x"})), way=way)
    assert lease.asks(query("SELECT 1")) == adoption("application_name", "x") + query("SELECT 1")
    reports = messages.parameter_status("application_name", "x")
    assert lease.answers(adopted("x", reports=reports) + SELECTED + IDLE) == SELECTED + IDLE
    lease.ends()
    other = Lease(server=lease.server, way=way)
    assert other.asks(query("SELECT 2")) == adoption("application_name", None) + query("SELECT 2")
    reports = messages.parameter_status("application_name", "")
    assert other.answers(adopted("", reports=reports) + SELECTED + IDLE) == SELECTED + IDLE
    assert lease.own_replies() + other.own_replies() == b""


def test_a_setting_changed_by_the_client_is_its_own(lease: Lease) -> None:
    """PostgreSQL is asked for it, so that however it was set, the next server gets it too."""
    text = query("SELECT set_config('application_name', 'x', false)")
    assert lease.asks(text) == text
    report = messages.parameter_status("application_name", "x")
    assert lease.answers(SELECTED + report + IDLE) == SELECTED + report + IDLE
    lease.is_told(("setting", "application_name", "x"))
    lease.moves_to(new_server())
    assert lease.client.settings is intern({"application_name": "x"})
    assert lease.asks(query("SELECT 1")) == adoption("application_name", "x") + query("SELECT 1")
    assert lease.answers(adopted("x", reports=report) + SELECTED + IDLE) == SELECTED + IDLE


def test_a_setting_changed_behind_our_back_is_found(lease: Lease) -> None:
    """A function may set one: the server reports it, and is asked for all of them before the lease ends."""
    lease.asks(query("SELECT f()"))
    report = messages.parameter_status("application_name", "x")
    assert lease.answers(SELECTED + report + IDLE) == SELECTED + report + IDLE
    assert lease.server.must_ask
    lease.is_told(("setting", "application_name", "x"), ("setting", "work_mem", "4MB"))
    assert not lease.server.must_ask
    assert lease.client.settings is intern({"application_name": "x", "work_mem": "4MB"})


def test_parameters_that_belong_to_the_server_are_not_learned(lease: Lease) -> None:
    """in_hot_standby changes at a fail-over and is nobody's setting."""
    lease.asks(query("SELECT 1"))
    lease.answers(SELECTED + messages.parameter_status("in_hot_standby", "on") + IDLE)
    lease.is_told()
    lease.ends()
    assert lease.client.settings is NONE


def test_a_client_is_told_when_the_origins_defaults_have_changed(way: str) -> None:
    """Its own settings excepted, at the end of the group that has set them."""
    defaults = REPORTED.but({"server_version": "19.0", "application_name": "default"})
    client = new_client(settings=intern({"application_name": "x"}))
    lease = Lease(client, new_server(reported=defaults), way)
    assert lease.asks(query("SELECT 1")) == adoption("application_name", "x") + query("SELECT 1")
    assert lease.own_replies() == b""
    reports = messages.parameter_status("application_name", "x")
    news = messages.parameter_status("server_version", "19.0")
    assert lease.answers(adopted("x", reports=reports) + SELECTED + IDLE) == news + SELECTED + IDLE


def test_a_client_without_settings_is_told_at_once(way: str) -> None:
    """In front of the reply to its request."""
    defaults = REPORTED.but({"server_version": "19.0"})
    lease = Lease(new_client(), new_server(reported=defaults), way)
    assert lease.asks(query("SELECT 1")) == query("SELECT 1")
    assert lease.own_replies() == messages.parameter_status("server_version", "19.0")
    lease.answers(SELECTED + IDLE)
    lease.moves_to(new_server(reported=defaults))
    lease.asks(query("SELECT 1"))
    assert lease.own_replies() == b""
