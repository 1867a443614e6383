"""Parse and Describe of what is known are answered without a server, and only as long as that is right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support.lease import IDLE, PREFIX, SELECTED, Lease, new_client, new_server
from tests.support.requests import FLUSH, SYNC, bind, close, describe, execute, parse, query
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.descriptions import LONGEST, MOST_BYTES, Descriptions
from trio_pool.protocol.settings import intern
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from trio_pool.protocol.server import ServerSession

TEXT = "SELECT $1::text"
DESCRIPTION = messages.message(Backend.PARAMETER_DESCRIPTION, b"\0\1\0\0\0\x19") + messages.message(
    Backend.ROW_DESCRIPTION, b"\0\0"
)
BEGUN = messages.READY[ord("T")]
AGE = 60.0


@attrs.define
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(clock: Clock) -> StatementRegistry:
    registry = StatementRegistry(PREFIX)
    registry.descriptions = Descriptions(clock, AGE)
    return registry


def server_of(registry: StatementRegistry) -> ServerSession:
    """One that tells when the schema has changed."""
    server = new_server()
    server.on_plans_changed = registry.renew
    return server


def learnt(registry: StatementRegistry, name: str = "s1") -> Lease:
    """Some client has prepared the statement, and a server has described it."""
    lease = Lease(new_client(registry), server_of(registry))
    lease.asks(parse(name, TEXT) + describe(name) + SYNC)
    answer = PARSE_COMPLETE + DESCRIPTION + IDLE
    assert lease.answers(answer) == answer
    lease.ends()
    return lease


@pytest.mark.parametrize("name", ["", "other"])
@pytest.mark.parametrize("learnt_as", ["", "s1"])
def test_a_known_statement_is_described_without_a_server(
    registry: StatementRegistry, learnt_as: str, name: str
) -> None:
    """Whoever has prepared it before, by whichever name; the server gets it with its first Bind."""
    learnt(registry, learnt_as)
    client = new_client(registry)
    client.receive(parse(name, TEXT) + describe(name) + FLUSH)
    assert client.replies == PARSE_COMPLETE + DESCRIPTION
    assert client.state is ClientState.IDLE
    client.replies = b""
    lease = Lease(client, new_server())
    sent = lease.asks(bind(name, "a") + execute() + SYNC)
    own = "" if not name else sent[5 : sent.index(b"\0", 5)].decode()
    assert sent == parse(own, TEXT) + bind(own, "a") + execute() + SYNC
    answer = PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE
    assert lease.answers(answer) == BIND_COMPLETE + SELECTED + IDLE


def test_what_belongs_to_it_is_answered_too(registry: StatementRegistry) -> None:
    """Sync by ReadyForQuery, in several writes as well as in one."""
    learnt(registry)
    client = new_client(registry)
    client.receive(parse("a", TEXT) + SYNC)
    client.receive(describe("a") + SYNC)
    client.receive(close("a") + SYNC)
    assert client.replies == PARSE_COMPLETE + IDLE + DESCRIPTION + IDLE + CLOSE_COMPLETE + IDLE
    assert client.state is ClientState.IDLE


def test_within_a_transaction(registry: StatementRegistry) -> None:
    """On a leased server at rest nothing is sent either; what is sent next is right."""
    learnt(registry)
    lease = Lease(new_client(registry), new_server())
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BEGUN)
    assert lease.asks(parse("a", TEXT) + describe("a") + SYNC) == b""
    assert lease.own_replies() == PARSE_COMPLETE + DESCRIPTION + BEGUN
    assert lease.asks(describe("a") + FLUSH + bind("a", "x") + execute() + SYNC).startswith(b"P")
    assert lease.own_replies() == DESCRIPTION
    answer = PARSE_COMPLETE + BIND_COMPLETE + SELECTED + BEGUN
    assert lease.answers(answer) == BIND_COMPLETE + SELECTED + BEGUN


def test_a_failed_transaction_is_postgresqls(registry: StatementRegistry) -> None:
    """There even a Parse fails, so it is sent."""
    learnt(registry)
    lease = Lease(new_client(registry), new_server())
    lease.asks(query("BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT 1/0"))
    lease.answers(command_complete("BEGIN") + messages.error("22012", "no") + messages.READY[ord("E")])
    assert lease.asks(parse("a", TEXT) + describe("a") + SYNC) != b""


def test_behind_what_is_under_way_it_is_sent(registry: StatementRegistry) -> None:
    """In a pipeline the answers come in order."""
    learnt(registry)
    lease = Lease(new_client(registry), new_server())
    sent = lease.asks(query("SELECT 1") + parse("a", TEXT) + describe("a") + SYNC)
    assert sent.startswith(query("SELECT 1") + b"P")
    assert lease.own_replies() == b""
    answer = PARSE_COMPLETE + DESCRIPTION + IDLE
    assert lease.answers(SELECTED + IDLE + answer) == SELECTED + IDLE + answer


def test_it_gets_old(registry: StatementRegistry, clock: Clock) -> None:
    """Others may have changed the schema: after its age a server is asked again, and what it says holds."""
    learnt(registry)
    clock.now = AGE + 0.1
    lease = Lease(new_client(registry), new_server())
    assert lease.asks(parse("", TEXT) + describe("") + SYNC) != b""
    lease.answers(PARSE_COMPLETE + DESCRIPTION + IDLE)
    lease.ends()
    client = new_client(registry)
    client.receive(parse("", TEXT) + describe("") + SYNC)
    assert client.replies == PARSE_COMPLETE + DESCRIPTION + IDLE


def test_a_changed_schema_ends_it(registry: StatementRegistry) -> None:
    """What passes through the pool is noticed at once: when the command completes, when it is committed."""
    learnt(registry)
    changing = Lease(new_client(registry), server_of(registry))
    changing.asks(query("ALTER TABLE t ADD b int"))
    changing.answers(command_complete("ALTER TABLE") + IDLE)
    client = new_client(registry)
    client.receive(parse("a", TEXT) + describe("a") + SYNC)
    assert client.state is ClientState.WAITING
    assert client.replies == b""


def test_an_answer_that_a_change_has_overtaken_is_not_kept(registry: StatementRegistry) -> None:
    """It may have been given before the change, or, by the session that makes it, too early."""
    lease = Lease(new_client(registry), new_server())
    lease.asks(parse("s1", TEXT) + describe("s1") + SYNC)
    registry.renew()
    lease.answers(PARSE_COMPLETE + DESCRIPTION + IDLE)
    assert len(registry.descriptions) == 0

    within = Lease(new_client(registry), server_of(registry))
    within.asks(query("BEGIN ISOLATION LEVEL SERIALIZABLE; CREATE TABLE t ()"))
    within.answers(command_complete("BEGIN") + command_complete("CREATE TABLE") + BEGUN)
    within.asks(parse("s2", TEXT) + describe("s2") + SYNC)
    within.answers(PARSE_COMPLETE + DESCRIPTION + BEGUN)
    assert len(registry.descriptions) == 0


def test_other_settings_are_another_statement(registry: StatementRegistry) -> None:
    """The same text with another search_path may mean another table."""
    learnt(registry)
    client = new_client(registry)
    client.settings = intern({"search_path": "elsewhere"})
    client.receive(parse("a", TEXT) + describe("a") + SYNC)
    assert client.state is ClientState.WAITING


def test_a_pinned_session_is_its_own(registry: StatementRegistry) -> None:
    """Its temporary tables hide others, so its descriptions are nobody else's."""
    server = new_server()
    server.pins["a temporary table"] = None
    lease = Lease(new_client(registry), server)
    lease.asks(parse("s1", TEXT) + describe("s1") + SYNC)
    lease.answers(PARSE_COMPLETE + DESCRIPTION + IDLE)
    assert len(registry.descriptions) == 0


def test_an_error_is_no_description(registry: StatementRegistry) -> None:
    """What fails is asked again."""
    lease = Lease(new_client(registry), new_server())
    lease.asks(parse("", TEXT) + describe("") + SYNC)
    lease.answers(messages.error("42P01", "no such table") + IDLE)
    assert len(registry.descriptions) == 0


def test_without_an_age_nothing_is_kept() -> None:
    """On a direct connection a client can tell: so a server is always asked, unless it is configured."""
    registry = StatementRegistry(PREFIX)
    learnt(registry)
    assert len(registry.descriptions) == 0
    client = new_client(registry)
    client.receive(parse("a", TEXT) + describe("a") + SYNC)
    assert client.state is ClientState.WAITING


def test_memory_is_bounded() -> None:
    """The oldest goes first, and what is very long is not kept at all."""
    descriptions = Descriptions(lambda: 0.0, AGE)
    descriptions.keep(b"long", bytes(LONGEST))
    assert len(descriptions) == 0
    size = LONGEST // 2
    for number in range(2 * MOST_BYTES // size):
        descriptions.keep(b"%10d" % number, bytes(size))
    assert descriptions.size <= MOST_BYTES
    assert descriptions.find(b"%10d" % 0) is None
    assert descriptions.find(b"%10d" % number) is not None
    descriptions.clear()
    assert descriptions.size == len(descriptions) == 0
