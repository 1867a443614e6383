"""The server machine: what a client has left, and how the connection becomes spotless again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakepg import COPY_IN_RESPONSE
from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    SELECTED,
    Lease,
    adopted,
    new_client,
    new_server,
)
from tests.support.requests import SYNC, bind, execute, function_call, parse, query
from tests.support.threeways import WAYS, fed
from trio_pool.protocol.backend import UNREADABLE
from trio_pool.protocol.facts import LONGEST, Ask
from trio_pool.protocol.settings import NONE, intern
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, PARSE_COMPLETE, command_complete

if TYPE_CHECKING:
    from trio_pool.protocol.server import ServerSession

DISCARD = {query("DISCARD ALL"): command_complete("DISCARD ALL") + IDLE}
UNLISTEN = {query("UNLISTEN *"): command_complete("UNLISTEN") + IDLE}
ENDING = messages.message(ord("B"), messages.spoiled(1)) + messages.SYNC
ROLLBACK = {query("ROLLBACK"): command_complete("ROLLBACK") + IDLE}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the server's bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


def cleaned(server: ServerSession, conversation: dict[bytes, bytes]) -> list[bytes]:
    """The steps of the clean-up, each answered as the conversation says."""
    steps = []
    while (step := server.clean()) is not None:
        assert step, "waits for something that nobody will send"
        steps.append(step)
        assert server.receive(conversation[step]) == b""
    assert server.free
    assert not server.must_ask
    return steps


# -- what has to be asked ------------------------------------------------------------------------------------


@pytest.mark.parametrize("edited", [False, True])
@pytest.mark.parametrize(
    ("tag", "asks"),
    [
        ("SELECT 1", Ask.NOTHING),
        ("COPY 3", Ask.NOTHING),
        ("COMMIT", Ask.NOTHING),
        ("SET", Ask.ALL),
        ("LISTEN", Ask.ALL),
        ("DO", Ask.ALL),
        ("CREATE TABLE", Ask.ALL),
        ("SOMETHING NEW", Ask.ALL),
    ],
)
def test_commands_that_may_outlive_their_transaction_are_asked_about(
    tag: str, asks: Ask, edited: bool, way: str
) -> None:
    """By their command tag if their text is not known, in either walk."""
    server = new_server()
    if edited:
        server.swallow()
        server.request()
        server.sync()
        fed(server.receive, PARSE_COMPLETE + command_complete(tag) + IDLE, way)
    else:
        server.query()
        fed(server.receive, command_complete(tag) + IDLE, way)
    assert server.asks == asks
    assert server.must_ask is (asks != Ask.NOTHING)
    assert server.free
    assert not server.dirty


@pytest.mark.parametrize("tag", ["SET", "LISTEN", "DO", "SOMETHING NEW"])
def test_a_text_that_is_known_has_told_already(tag: str, way: str) -> None:
    """Its command tags say nothing new."""
    server = new_server()
    server.explained_query()
    fed(server.receive, command_complete(tag) + IDLE, way)
    assert server.asks == Ask.NOTHING


@pytest.mark.parametrize(("tag", "reason"), [("PREPARE", "SQL PREPARE"), ("LOAD", "LOAD")])
def test_what_a_long_text_prepares_and_loads_pins_for_good(tag: str, reason: str, way: str) -> None:
    """A text that is too long to be known could not be carried; only the end of the connection removes it."""
    lease = Lease(way=way)
    text = query("SELECT '" + LONGEST * "x" + "' from set_config('a', 'b', false)")
    assert lease.asks(text) == text
    lease.answers(SELECTED + command_complete(tag) + IDLE)
    assert (lease.server.asks, list(lease.server.pins), lease.server.keeps) == (Ask.ALL, [reason], {reason})
    lease.is_told()
    assert list(lease.server.pins) == [reason]
    assert not lease.server.must_ask


@pytest.mark.parametrize("extended", [False, True])
def test_after_a_text_that_is_too_long_everything_is_asked(extended: bool) -> None:
    """In either protocol; a plain one is plain at any length that is not streamed."""
    lease = Lease()
    text = "SELECT set_config('a', '" + LONGEST * "x" + "', false)"
    requests = parse("", text) + bind("") + execute() + SYNC if extended else query(text)
    assert lease.asks(requests) == requests
    ahead = PARSE_COMPLETE + BIND_COMPLETE if extended else b""
    assert lease.answers(ahead + SELECTED + IDLE) == ahead + SELECTED + IDLE
    assert lease.server.asks == Ask.ALL


def test_a_function_call_may_be_any_function(way: str) -> None:
    """Everything is asked behind it."""
    lease = Lease(way=way)
    assert lease.asks(function_call("a")) == function_call("a")
    answer = messages.message(ord("V"), b"\0\0\0\1a") + IDLE
    assert lease.answers(answer) == answer
    assert lease.server.asks == Ask.ALL


# -- sequences, strictness -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "pins"), [("INSERT 0 1", True), ("UPDATE 0", True), ("COPY 1", True), ("SELECT 1", False)]
)
@pytest.mark.parametrize("counts", [False, True])
def test_commands_that_may_move_a_sequence_pin_where_they_are_counted(
    tag: str, pins: bool, counts: bool, way: str
) -> None:
    """The default of a column may, unseen; nobody pays for that before a client asks for currval."""
    server = new_server()
    if counts:
        server.count_sequences()
    server.query()
    fed(server.receive, command_complete(tag) + IDLE, way)
    assert list(server.pins) == (["sequence values"] if counts and pins else [])
    assert not server.must_ask


def test_nextval_pins_until_the_sequences_are_discarded(way: str) -> None:
    """Its value belongs to the session."""
    lease = Lease(way=way)
    lease.asks(query("SELECT nextval('s')"))
    lease.answers(SELECTED + IDLE)
    assert list(lease.server.pins) == ["sequence values"]
    lease.asks(query("DISCARD SEQUENCES"))
    assert list(lease.server.pins) == ["sequence values"]
    lease.answers(command_complete("DISCARD SEQUENCES") + IDLE)
    assert lease.server.pins == {}


def test_a_discard_that_fails_has_discarded_nothing(way: str) -> None:
    """Its command tag never comes."""
    lease = Lease(way=way)
    lease.asks(query("SELECT nextval('s')"))
    lease.answers(SELECTED + IDLE)
    lease.asks(query("SELECT 1/0; DISCARD SEQUENCES"))
    lease.answers(ERROR + IDLE)
    assert list(lease.server.pins) == ["sequence values"]


def test_the_registry_learns_that_somebody_asks_for_currval() -> None:
    """So that sequences are counted from then on."""
    lease = Lease()
    heard: list[str] = []
    lease.client.registry.on_sequences_read = lambda: heard.append("read")
    lease.asks(query("SELECT currval('s')"))
    assert heard == ["read"]


def test_a_distrusted_server_is_asked_and_then_discarded() -> None:
    """In strict mode whatever the client runs may do anything: PostgreSQL tells what it keeps, DISCARD ALL
    takes the rest.
    """
    lease = Lease()
    lease.server.distrust()
    assert lease.asks(query("SELECT 1")) == query("SELECT 1")
    lease.answers(SELECTED + IDLE)
    assert lease.server.asks == Ask.ALL
    lease.is_told(("setting", "application_name", "x"))
    assert lease.client.settings is intern({"application_name": "x"})
    server = lease.server
    lease.ends()
    assert server.dirty
    assert cleaned(server, DISCARD) == [query("DISCARD ALL")]
    assert not server.dirty
    assert server.settings is NONE


# -- the clean-up --------------------------------------------------------------------------------------------


def test_an_orphaned_transaction_is_rolled_back_and_forgotten() -> None:
    """Step by step: Sync, ROLLBACK, DISCARD ALL; none of the replies is anybody's."""
    server = new_server()
    server.query()
    server.receive(command_complete("SET") + BUSY)
    server.request()
    server.sync()
    assert server.clean() == b""
    server.receive(PARSE_COMPLETE + BUSY)
    assert cleaned(server, ROLLBACK | DISCARD) == [query("ROLLBACK"), query("DISCARD ALL")]
    assert not server.dirty


def test_a_failed_transaction_of_nothing_is_only_rolled_back() -> None:
    """What has left nothing need not be discarded."""
    server = new_server()
    server.query()
    server.receive(ERROR + FAILED)
    assert cleaned(server, ROLLBACK) == [query("ROLLBACK")]


def test_an_orphaned_group_is_ended_by_a_sync_of_ours() -> None:
    """The client left before its own; and by a request that fails, since Sync alone would commit."""
    server = new_server()
    server.request()
    assert server.clean() == ENDING
    assert server.clean() == b""
    server.receive(PARSE_COMPLETE + ERROR + IDLE)
    assert server.clean() is None


@pytest.mark.parametrize("simple", [True, False])
def test_an_orphaned_copy_is_given_up(simple: bool) -> None:
    """With a CopyFail, and the Sync that the extended protocol needs behind it."""
    server = new_server()
    if simple:
        server.query()
    else:
        server.request()
        server.sync()
    server.receive(COPY_IN_RESPONSE)
    step = server.clean()
    assert step == messages.copy_fail("client is gone") + (b"" if simple else ENDING)
    assert server.clean() == b""
    server.receive(ERROR + IDLE)
    assert server.clean() is None


def test_a_client_that_has_gone_unasked_leaves_nothing() -> None:
    """Settings, prepared statements of both kinds and pins are gone after DISCARD ALL."""
    lease = Lease(new_client(settings=intern({"application_name": "x"})))
    lease.asks(query("SELECT 1"))
    lease.answers(adopted("x") + SELECTED + IDLE)
    lease.asks(query("PREPARE s AS SELECT 1"))
    lease.answers(command_complete("PREPARE") + IDLE)
    lease.asks(parse("t", "SELECT 1") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(query("SELECT pg_advisory_lock(1)"))
    lease.answers(SELECTED + IDLE)
    lease.is_told(("setting", "application_name", "x"), ("pin", "LOCKS", ""))
    server = lease.server
    assert server.pins
    assert server.laid
    assert cleaned(server, DISCARD) == [query("DISCARD ALL")]
    assert (server.settings, server.laid, server.pins) == (NONE, {}, {})
    assert len(server.statements) == 0


def test_what_a_client_listened_to_is_unlistened() -> None:
    """When nothing else is left, UNLISTEN is enough, and statements stay for the next client."""
    server = new_server()
    server.listen_to(frozenset({b"a"}), server.echoes)
    server.receive(command_complete("LISTEN") + IDLE)
    assert cleaned(server, UNLISTEN) == [query("UNLISTEN *")]
    assert not server.listening
    assert server.silenced == frozenset()


def test_what_only_the_end_of_the_connection_removes_is_not_discarded_for_ever() -> None:
    """Who cleans the server has to end it: `keeps` says so."""
    server = new_server()
    server.keep({"LOAD"})
    assert server.clean() is None
    server.pins[UNREADABLE] = None
    assert cleaned(server, DISCARD) == [query("DISCARD ALL")]
    assert (server.keeps, list(server.pins)) == ({"LOAD"}, ["LOAD"])
