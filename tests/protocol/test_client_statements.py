"""The client machine: prepared statements that work on whichever server is leased."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    PREFIX,
    SELECTED,
    Lease,
    adopted,
    adoption,
    apart,
    new_client,
    new_server,
)
from tests.support.requests import (
    FLUSH,
    SYNC,
    bind,
    close,
    describe,
    execute,
    function_call,
    parse,
    query,
)
from tests.support.threeways import WAYS, fed
from trio_pool.protocol.client import ClientState
from trio_pool.protocol.settings import NONE, intern
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.protocol.settings import Settings

NAME_1, NAME_2, NAME_3 = (f"{PREFIX.decode()}{number}" for number in (1, 2, 3))
TEXT_1, TEXT_2 = "SELECT $1::text", "SELECT 'b'"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def lease(way: str) -> Lease:
    return Lease(way=way)


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
    expected = parse(NAME_1, TEXT_1, 25) + parse(NAME_2, TEXT_1, 1043) + parse(NAME_3, TEXT_1)
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
    """E3: in PostgreSQL's words, and the name stands for what it stood for; what was made under it to be
    refused is nobody's, and stays.
    """
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    duplicate = parse("s1", TEXT_2)
    assert lease.asks(duplicate + SYNC) == close("s1") + parse("s1", "") + duplicate + SYNC
    taken = messages.error("42P05", 'prepared statement "s1" already exists')
    assert lease.answers(CLOSE_COMPLETE + PARSE_COMPLETE + taken + IDLE) == taken + IDLE
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC
    lease.answers(BIND_COMPLETE + IDLE)
    assert lease.asks(close("s1") + SYNC) == SYNC
    assert lease.own_replies() + lease.answers(IDLE) == CLOSE_COMPLETE + IDLE
    assert lease.asks(bind("s1") + SYNC) == close("s1") + SYNC + bind("s1") + SYNC
    assert lease.answers(CLOSE_COMPLETE + IDLE + ERROR + IDLE) == ERROR + IDLE


def test_a_name_that_was_taken_on_the_server_is_closed_for_who_uses_it(lease: Lease) -> None:
    """The next client would otherwise find a statement that nobody of its kind has made; who does not use the
    name pays nothing.
    """
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(parse("s1", TEXT_2) + SYNC)
    lease.answers(CLOSE_COMPLETE + PARSE_COMPLETE + ERROR + IDLE)
    server = lease.server
    lease.ends()
    other = Lease(new_client(), server, lease.way)
    assert other.asks(query("SELECT 1")) == query("SELECT 1")
    assert other.answers(SELECTED + IDLE) == SELECTED + IDLE
    assert other.asks(describe("s1") + SYNC) == close("s1") + SYNC + describe("s1") + SYNC
    assert other.answers(CLOSE_COMPLETE + IDLE + ERROR + IDLE) == ERROR + IDLE
    assert other.asks(bind("s1") + SYNC) == bind("s1") + SYNC


def test_a_statement_is_not_taken_for_granted_in_a_transaction_that_may_have_failed(lease: Lease) -> None:
    """PostgreSQL refuses even the Parse there, so it has to be asked, and the name stays free; the statement
    itself is left alone.
    """
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(query("BEGIN") + query("ERROR"))
    lease.answers(command_complete("BEGIN") + BUSY + ERROR + FAILED)
    assert lease.asks(parse("s2", TEXT_1) + SYNC) == parse("", TEXT_1) + SYNC
    refusal = messages.error("25P02", "aborted")
    assert lease.answers(refusal + FAILED) == refusal + FAILED
    lease.asks(query("ROLLBACK"))
    lease.answers(command_complete("ROLLBACK") + IDLE)
    assert lease.asks(bind("s2", "a") + SYNC) == bind("s2", "a") + SYNC
    lease.answers(ERROR + IDLE)
    assert lease.asks(bind("s1", "a") + SYNC) == bind(NAME_1, "a") + SYNC


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


def test_discard_all_forgets_the_clients_statements(lease: Lease) -> None:
    """As on a connection of its own; a Parse that was sent behind it counts."""
    lease.asks(parse("s1", TEXT_1) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    elsewhere = lease.client.registry.get(messages.text(TEXT_1) + b"\0\0")
    lease.asks(query("DISCARD ALL") + parse("s2", TEXT_2) + SYNC)
    lease.answers(command_complete("DISCARD ALL") + IDLE + PARSE_COMPLETE + IDLE)
    assert lease.asks(bind("s2") + SYNC) == bind(NAME_2) + SYNC
    lease.answers(BIND_COMPLETE + IDLE)
    assert lease.asks(bind("s1", "a") + SYNC) == bind("s1", "a") + SYNC
    lease.answers(ERROR + IDLE)
    assert lease.asks(parse("s1", TEXT_1) + SYNC) == parse(elsewhere.name.decode(), TEXT_1) + SYNC


@pytest.mark.parametrize("text", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_what_one_client_discards_another_gets_again(text: str, way: str) -> None:
    """The server has lost the statements of all of them."""
    registry, server = StatementRegistry(PREFIX), new_server()
    first, second = (Lease(new_client(registry), server, way) for _ in range(2))
    first.asks(parse("s1", TEXT_1) + SYNC)
    first.answers(PARSE_COMPLETE + IDLE)
    first.ends()
    second.asks(query(text))
    second.answers(command_complete(text) + IDLE)
    if text == "DISCARD ALL":
        second.is_told()
    second.ends()
    assert first.asks(bind("s1", "a") + SYNC) == parse(NAME_1, TEXT_1) + bind(NAME_1, "a") + SYNC


# -- what a text means ---------------------------------------------------------------------------------------


def prepares(lease: Lease, settings: Settings, ready: bytes = IDLE) -> str:
    """The client, on a new server, prepares a text; returns our name of it."""
    parsed = parse("s", TEXT_1) + SYNC
    sent = lease.asks(parsed)
    ahead = adoption(*[text for pair in settings.items() for text in pair]) if settings else b""
    assert sent.startswith(ahead)
    name = sent.removeprefix(ahead)[5:].partition(b"\0")[0].decode()
    assert sent == ahead + parse(name, TEXT_1) + SYNC
    replies = (adopted(*dict(settings.items()).values()) if settings else b"") + PARSE_COMPLETE + ready
    assert lease.answers(replies) == PARSE_COMPLETE + ready
    return name


def test_a_text_is_shared_by_those_for_whom_it_means_the_same(way: str) -> None:
    """Where names are looked for and who looks is part of the content; other settings are not."""
    registry = StatementRegistry(PREFIX)
    leases, found = [], []
    for values in (
        {},
        {"search_path": "a"},
        {"search_path": "a", "work_mem": "4MB"},
        {"work_mem": "4MB"},
        {"search_path": "b"},
        {"role": "r"},
    ):
        settings = intern(values)
        leases.append(Lease(new_client(registry, settings), way=way))
        found.append(prepares(leases[-1], settings))
    assert found == [f"{PREFIX.decode()}{number}" for number in (1, 2, 2, 1, 3, 4)]


@pytest.mark.parametrize("ahead", ["SET LOCAL search_path = a", "SET search_path = a", "SET LOCAL ROLE r"])
def test_while_the_meaning_is_not_known_a_statement_is_private(ahead: str, way: str) -> None:
    """It was read under settings that nobody has been asked about: another client does not get it, and it is
    the client's own as long as it has the name.
    """
    registry, server = StatementRegistry(PREFIX), new_server()
    lease = Lease(new_client(registry), server, way)
    lease.asks(query("BEGIN") + query(ahead))
    lease.answers(command_complete("BEGIN") + BUSY + command_complete("SET") + BUSY)
    assert prepares(lease, NONE, BUSY) == NAME_1
    lease.asks(query("ROLLBACK"))
    lease.answers(command_complete("ROLLBACK") + IDLE)
    if lease.server.must_ask:
        lease.is_told()
    lease.ends()
    other = Lease(new_client(registry), server, way)
    assert prepares(other, NONE) == NAME_2
    other.ends()
    assert lease.asks(bind("s", "a") + SYNC) == bind(NAME_1, "a") + SYNC


def test_with_the_answer_the_meaning_is_known_again(way: str) -> None:
    """A pinned client goes on sharing."""
    registry, server = StatementRegistry(PREFIX), new_server()
    lease = Lease(new_client(registry), server, way)
    lease.asks(query("SET search_path = a"))
    lease.answers(command_complete("SET") + IDLE)
    lease.is_told(("setting", "search_path", "a"))
    assert prepares(lease, NONE) == NAME_1
    a = intern({"search_path": "a"})
    assert prepares(Lease(new_client(registry, a), way=way), a) == NAME_1


def test_statements_that_name_sql_prepared_ones_are_private(way: str) -> None:
    """The same words execute what each client has prepared."""
    registry, names = StatementRegistry(PREFIX), []
    for _ in range(2):
        lease = Lease(new_client(registry), way=way)
        lease.asks(query("PREPARE p AS SELECT 1"))
        lease.answers(command_complete("PREPARE") + IDLE)
        sent = lease.asks(parse("s", "EXECUTE p") + SYNC)
        names.append(sent[5:].partition(b"\0")[0])
        assert sent == parse(names[-1].decode(), "EXECUTE p") + SYNC
    assert len({*names}) == 2


def test_a_text_is_read_again_as_it_was_read_first(way: str) -> None:
    """On a server that lacks it: how strings are read then is set for a moment, within the client's group."""
    strings = "standard_conforming_strings"
    lease = Lease(new_client(settings=intern({strings: "off"})), way=way)
    prepares(lease, intern({strings: "off"}))
    lease.asks(query(f"SET {strings} = on; SET client_encoding = 'LATIN1'"))
    lease.answers(command_complete("SET") * 2 + IDLE)
    lease.is_told(("setting", strings, "on"), ("setting", "client_encoding", "LATIN1"))
    lease.moves_to(new_server())
    there = apart("SET client_encoding TO DEFAULT") + apart(f"SET {strings} TO 'off'")
    back = apart("SET client_encoding TO 'LATIN1'") + apart(f"SET {strings} TO 'on'")
    sent = lease.asks(bind("s", "a") + execute() + SYNC)
    run = bind(NAME_1, "a") + execute() + SYNC
    assert (
        sent
        == adoption(strings, "on", "client_encoding", "LATIN1") + there + parse(NAME_1, TEXT_1) + back + run
    )
    passed = (PARSE_COMPLETE + BIND_COMPLETE + command_complete("SET") + CLOSE_COMPLETE) * 2
    replies = adopted("on", "LATIN1") + passed + PARSE_COMPLETE + passed
    answer = BIND_COMPLETE + SELECTED + IDLE
    assert lease.answers(replies + answer) == answer


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


def function_called(lease: Lease) -> None:
    lease.asks(function_call("a"))
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
        (function_called, close("")),
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
    assert lease.asks(bind("") + SYNC) == adoption("application_name", "x") + bind("") + SYNC
    assert adoption("application_name", "x").endswith(execute() + close("") + SYNC)


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


@pytest.mark.parametrize("text", ["LISTEN a", "SELECT pg_advisory_lock(1)", "CREATE TEMP TABLE t ()"])
def test_a_client_that_may_keep_its_server_does_so_at_flush(text: str) -> None:
    """The Flush goes through: nobody would end such a lease."""
    lease = Lease()
    lease.asks(query(text))
    lease.answers(command_complete(text.partition(" ")[0]) + IDLE)
    assert lease.asks(parse("s1", TEXT_1) + FLUSH) == parse(NAME_1, TEXT_1) + FLUSH
