"""`unpoolable = "reject"`: what would tie a client to one server is refused, in sequence."""

from __future__ import annotations

import pytest

from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    PREFIX,
    SELECTED,
    Lease,
    new_client,
    new_server,
)
from tests.support.requests import SYNC, bind, describe_portal, execute, parse, query
from tests.support.threeways import WAYS
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.messages import BIND_COMPLETE, PARSE_COMPLETE, command_complete

NOBODY = PREFIX.decode() + "none"
LOCK = "SELECT pg_advisory_lock(1)"
REFUSAL = messages.error(
    "0A000",
    "session advisory lock cannot be used through this connection pool",
    detail="It would tie the client to one server connection, and the pool is configured with "
    'unpoolable = "reject".',
    hint="Connect to PostgreSQL directly, or use a pool in session mode.",
)
UNKNOWN = messages.error("26000", f'prepared statement "{NOBODY}" does not exist')
REFUSED_QUERY = query(f'EXECUTE "{NOBODY}"')
NAME_1 = PREFIX.decode() + "1"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def lease(way: str) -> Lease:
    return Lease(new_client(rejects=True), way=way)


def test_a_query_is_refused_in_sequence(lease: Lease) -> None:
    """Something that fails goes in its place; its error is ours."""
    sent = lease.asks(query("SELECT 1") + query(LOCK) + query("SELECT 2"))
    assert sent == query("SELECT 1") + REFUSED_QUERY + query("SELECT 2")
    replies = SELECTED + IDLE + UNKNOWN + IDLE + SELECTED + IDLE
    assert lease.answers(replies) == SELECTED + IDLE + REFUSAL + IDLE + SELECTED + IDLE
    assert lease.server.free
    assert not lease.server.must_ask
    assert lease.server.pins == {}


@pytest.mark.parametrize("name", ["", "s"])
def test_the_extended_protocol_is_refused_at_bind(name: str, lease: Lease) -> None:
    """Preparing is harmless, and drivers prepare ahead; the rest of the group is skipped."""
    on_server = NAME_1 if name else ""
    group = bind(name) + describe_portal() + execute() + SYNC
    sent = lease.asks(parse(name, LOCK) + group)
    assert sent == parse(on_server, LOCK) + bind(NOBODY) + describe_portal() + execute() + SYNC
    assert lease.answers(PARSE_COMPLETE + UNKNOWN + IDLE) == PARSE_COMPLETE + REFUSAL + IDLE
    assert lease.server.free
    assert not lease.server.must_ask


def test_a_pipeline_of_groups_goes_on_behind_a_refusal(lease: Lease) -> None:
    """What stands behind it in its group is skipped, the next group runs."""
    run = parse("", "SELECT 1") + bind("") + execute()
    refused = parse("", LOCK) + bind("") + execute()
    lease.asks(run + refused + run + SYNC + run + SYNC)
    ran = PARSE_COMPLETE + BIND_COMPLETE + SELECTED
    replies = ran + PARSE_COMPLETE + UNKNOWN + IDLE + ran + IDLE
    assert lease.answers(replies) == ran + PARSE_COMPLETE + REFUSAL + IDLE + ran + IDLE


def test_an_earlier_error_of_the_group_is_the_clients(lease: Lease) -> None:
    """The refused request is skipped like everything else."""
    lease.asks(bind("unknown") + parse("", LOCK) + bind("") + SYNC)
    assert lease.answers(ERROR + IDLE) == ERROR + IDLE
    lease.asks(query("SELECT 1"))
    assert lease.answers(SELECTED + IDLE) == SELECTED + IDLE


@pytest.mark.parametrize("extended", [False, True])
def test_the_transaction_becomes_a_failed_one(extended: bool, lease: Lease) -> None:
    """PostgreSQL's own: the request that went in its place has failed there."""
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BUSY)
    if extended:
        lease.asks(parse("", LOCK) + bind("") + execute() + SYNC)
        assert lease.answers(PARSE_COMPLETE + UNKNOWN + FAILED) == PARSE_COMPLETE + REFUSAL + FAILED
    else:
        lease.asks(query(LOCK))
        assert lease.answers(UNKNOWN + FAILED) == REFUSAL + FAILED
    assert not lease.server.free


def test_nothing_is_refused_in_a_failed_transaction(lease: Lease) -> None:
    """PostgreSQL refuses it itself, with the words that the client expects there."""
    lease.asks(query("BEGIN") + query("SELECT 1/0"))
    lease.answers(command_complete("BEGIN") + BUSY + ERROR + FAILED)
    requests = query(LOCK) + parse("", LOCK) + bind("") + SYNC
    assert lease.asks(requests) == requests


@pytest.mark.parametrize(
    ("text", "feature"),
    [
        ("CREATE TEMP TABLE t ()", "temporary table"),
        ("DECLARE c CURSOR WITH HOLD FOR SELECT 1", "cursor WITH HOLD"),
        ("LOAD 'auto_explain'", "LOAD"),
        ("SELECT 1; SELECT pg_advisory_lock(1)", "session advisory lock"),
    ],
)
def test_the_refusal_names_the_feature(text: str, feature: str, lease: Lease) -> None:
    """In words that a user can search for."""
    assert lease.asks(query(text)) == REFUSED_QUERY
    assembler = Assembler()
    assembler.feed(lease.answers(UNKNOWN + IDLE))
    message = assembler.message()
    assert message is not None
    error = messages.read_error(message[1])
    assert (error.sqlstate, error.summary) == (
        "0A000",
        f"{feature} cannot be used through this connection pool",
    )


@pytest.mark.parametrize(
    "text",
    [
        "SET work_mem = '4MB'",
        "PREPARE s AS SELECT 1",
        "LISTEN a",
        "CREATE TEMP TABLE t () ON COMMIT DROP",
        "SELECT pg_advisory_xact_lock(1)",
        "DO $$ begin perform 1; end $$",
    ],
)
def test_what_can_be_carried_is_not_refused(text: str, lease: Lease) -> None:
    """Nor what only may tie the client to a server."""
    assert lease.asks(query(text)) == query(text)


def test_executing_a_prepared_text_is_refused_as_the_text_would_be(lease: Lease) -> None:
    """It runs there."""
    lease.asks(query(f"PREPARE s AS {LOCK}"))
    lease.answers(command_complete("PREPARE") + IDLE)
    assert lease.asks(query("EXECUTE s")) == REFUSED_QUERY
    assert lease.answers(UNKNOWN + IDLE) == REFUSAL + IDLE
    lease.moves_to(new_server())
    requests = parse("", "EXECUTE s") + bind("") + execute() + SYNC
    assert lease.asks(requests).endswith(bind(NOBODY) + execute() + SYNC)


def test_a_refused_query_that_would_have_been_skipped_is_skipped(lease: Lease) -> None:
    """Behind an error in the same group: the client's own Sync ends that."""
    assert lease.asks(parse("", "ERROR") + query(LOCK)) == parse("", "ERROR") + REFUSED_QUERY
    assert lease.answers(ERROR) == ERROR
    assert not lease.server.free
    lease.asks(SYNC)
    assert lease.answers(IDLE) == IDLE
    assert lease.server.free
