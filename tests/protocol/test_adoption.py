"""What a server gets ahead of a client's requests, and what becomes of these when it does not take it."""

from __future__ import annotations

import pytest

from tests.support.lease import (
    FAILED,
    IDLE,
    SELECTED,
    Lease,
    adopted,
    adoption,
    new_client,
    new_server,
)
from tests.support.requests import SYNC, bind, execute, parse, query
from tests.support.threeways import WAYS, fed
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.settings import NONE, intern
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, PARSE_COMPLETE, command_complete

X = intern({"application_name": "x"})
REPORTS_X = messages.parameter_status("application_name", "x")
GONE = messages.error("22023", 'role "r" does not exist')
ABORTED = messages.error("25P02", "current transaction is aborted")
BEGUN = PARSE_COMPLETE + BIND_COMPLETE + command_complete("BEGIN")
LOST = messages.error("08006", "lost")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


# -- taken ---------------------------------------------------------------------------------------------------


def test_the_replies_to_what_travels_ahead_go_nowhere(way: str) -> None:
    """One group of ours, then the client's own; what it has set is not asked about."""
    lease = Lease(new_client(settings=X), way=way)
    assert lease.asks(query("SELECT 1")) == adoption("application_name", "x") + query("SELECT 1")
    assert lease.answers(adopted("x", reports=REPORTS_X) + SELECTED + IDLE) == SELECTED + IDLE
    assert lease.server.reported.get("application_name") == "x"
    assert lease.server.expected is lease.server.reported
    assert lease.server.free
    assert not lease.server.must_ask
    assert not lease.server.dirty


def test_the_same_settings_are_not_set_twice(way: str) -> None:
    """The next client that wants them finds them there."""
    lease = Lease(new_client(settings=X), way=way)
    lease.asks(query("SELECT 1"))
    lease.answers(adopted("x", reports=REPORTS_X) + SELECTED + IDLE)
    lease.ends()
    other = Lease(new_client(settings=intern({"application_name": "x"})), lease.server, way)
    assert other.asks(query("SELECT 2")) == query("SELECT 2")
    assert other.own_replies() == b""


def test_settings_that_are_not_reported_are_compared_as_well(way: str) -> None:
    """A client of other settings finds its own, whatever the one before has left."""
    server = new_server()
    for wants, sent in (
        ({"work_mem": "4MB"}, adoption("work_mem", "4MB")),
        ({"work_mem": "4MB"}, b""),
        ({"work_mem": "8MB", "TimeZone": "UTC"}, adoption("work_mem", "8MB", "TimeZone", "UTC")),
        ({}, adoption("work_mem", None, "TimeZone", None)),
        ({}, b""),
    ):
        lease = Lease(new_client(settings=intern(wants)), server, way)
        assert lease.asks(query("SELECT 1")) == sent + query("SELECT 1")
        lease.answers((adopted(*wants.values()) if sent else b"") + SELECTED + IDLE)
        lease.ends()


def test_only_a_difference_to_what_the_client_knows_is_told(way: str) -> None:
    """What its settings change on the way is told at their end, once, as one difference."""
    lease = Lease(new_client(settings=intern({"TimeZone": "UTC"})), way=way)
    lease.asks(query("SELECT 1"))
    there = messages.parameter_status("application_name", "on the way")
    back = messages.parameter_status("application_name", "")
    news = messages.parameter_status("TimeZone", "UTC")
    assert (
        lease.answers(adopted("UTC", reports=there + back + news) + SELECTED + IDLE) == news + SELECTED + IDLE
    )
    assert lease.server.told is lease.server.reported


def test_what_a_group_of_the_clients_reports_passes_where_it_stands(way: str) -> None:
    """It is the client's, who has changed something."""
    lease = Lease(way=way)
    lease.asks(query("SELECT 1"))
    assert lease.answers(REPORTS_X + SELECTED + IDLE) == REPORTS_X + SELECTED + IDLE
    assert lease.server.must_ask
    assert lease.server.told is lease.server.reported


# -- refused -------------------------------------------------------------------------------------------------


def test_settings_that_a_server_refuses_are_not_answered_by_what_follows(way: str) -> None:
    """`refused` is set, and not a byte of what stands behind the refusal is forwarded while somebody has to
    deal with it.
    """
    lease = Lease(new_client(settings=intern({"role": "r"})), way=way)
    assert lease.asks(query("SELECT 1")) == adoption("role", "r") + query("SELECT 1")
    stopped = b""
    for size in range(1, len(BEGUN + GONE) + 1):
        stopped += lease.server.receive((BEGUN + GONE)[size - 1 : size])
    assert stopped == b""
    refused = lease.server.refused
    assert refused is not None
    assert (refused.sqlstate, refused.summary) == ("22023", 'role "r" does not exist')
    assert lease.server.failure is None
    assert lease.server.dirty


def test_the_rest_of_the_chunk_waits_until_the_client_is_told() -> None:
    """Then it is received without a client, and the server is cleaned."""
    lease = Lease(new_client(settings=intern({"role": "r"})))
    lease.asks(query("SELECT 1") + query("SELECT 2"))
    assert lease.server.receive(BEGUN + GONE + FAILED + ABORTED + FAILED + ABORTED + FAILED) == b""
    assert lease.server.refused is not None
    assert len(lease.server.groups) == 3
    lease.server.refused = None
    lease.client.lose(LOST)
    assert lease.own_replies() == (LOST + IDLE) * 2
    assert lease.client.state is ClientState.IDLE
    lease.server.receive(b"")  # what it gives out is nobody's
    assert not lease.server.waiting
    assert lease.server.clean() == query("ROLLBACK")
    assert lease.server.receive(command_complete("ROLLBACK") + IDLE) == b""
    assert lease.server.clean() == query("DISCARD ALL")
    assert lease.server.receive(command_complete("DISCARD ALL") + IDLE) == b""
    assert lease.server.clean() is None
    assert lease.server.settings is NONE


def test_nothing_runs_under_other_settings_than_its_own() -> None:
    """A group without Sync is skipped to the client's Sync: it was sent into a failed transaction."""
    lease = Lease(new_client(settings=intern({"role": "r"})))
    group = parse("", "SELECT 1") + bind("")
    assert lease.asks(group) == adoption("role", "r") + group
    lease.answers(BEGUN + GONE)
    lease.server.refused = None
    lease.client.lose(LOST)
    assert lease.own_replies() == LOST
    fed(lease.client.receive, execute() + SYNC, lease.way)
    assert lease.own_replies() == IDLE


def test_a_server_lost_during_adoption_answers_the_clients_requests_only(way: str) -> None:
    """Not ours."""
    lease = Lease(new_client(settings=X), way=way)
    lease.asks(query("SELECT 1"))
    lease.answers(BEGUN)
    lease.client.lose(LOST)
    assert lease.own_replies() == LOST + IDLE


# -- errors that nobody provides for -------------------------------------------------------------------------


def test_an_error_in_any_other_group_of_ours_ends_the_connection(way: str) -> None:
    """The server is not what it should be: LISTEN for a client."""
    server = new_server()
    server.listen_to(frozenset({b"a"}), server.echoes)
    assert fed(server.receive, GONE, way) == b""
    assert server.failure is not None
    assert server.failure.sqlstate == "22023"
    assert not server.free


def test_close_complete_and_rows_of_ours_are_nobodys(way: str) -> None:
    """However they are cut: rows of ours are held until they are whole."""
    lease = Lease(new_client(settings=intern({"a": "1"})), way=way)
    lease.asks(query("SELECT 1"))
    assert lease.answers(adopted("x" * 1000)) == b""
    assert lease.answers(SELECTED + IDLE) == SELECTED + IDLE
