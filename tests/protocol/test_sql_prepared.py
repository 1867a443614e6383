"""SQL PREPARE, EXECUTE and DEALLOCATE: what a client has prepared follows it, under its own names, and nobody
else finds it.
"""

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
    apart,
    new_client,
    new_server,
)
from tests.support.requests import SYNC, bind, close, describe, execute, parse, query
from tests.support.threeways import WAYS
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete

NAME_1, NAME_2 = (f"{PREFIX.decode()}{number}" for number in (1, 2))
PREPARE = "PREPARE s AS SELECT 'a'"
PREPARED, DEALLOCATED = command_complete("PREPARE"), command_complete("DEALLOCATE")
LAID = PARSE_COMPLETE + BIND_COMPLETE + PREPARED + CLOSE_COMPLETE
UNKNOWN = messages.error("26000", 'prepared statement "s" does not exist')
TAKEN = messages.error("42P05", 'prepared statement "s" already exists')
NO_TABLE = messages.error("42P01", 'relation "t" does not exist')
ABORTED = messages.error("25P02", "current transaction is aborted")
EXECUTED = PARSE_COMPLETE + BIND_COMPLETE + SELECTED


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


@pytest.fixture
def lease(way: str) -> Lease:
    return Lease(way=way)


def has_prepared(lease: Lease, text: str = PREPARE) -> Lease:
    """A client that has run PREPARE."""
    assert lease.asks(query(text)) == query(text)
    assert lease.answers(PREPARED + IDLE) == PREPARED + IDLE
    return lease


def names(lease: Lease) -> list[bytes]:
    """What the client has prepared."""
    return [*(lease.client.statements or {})]


# -- counted by command tags ---------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_what_is_prepared_follows_the_client(extended: bool, lease: Lease) -> None:
    """In either protocol, and is executed in either."""
    if extended:
        lease.asks(parse("", PREPARE) + bind("") + execute() + SYNC)
        lease.answers(PARSE_COMPLETE + BIND_COMPLETE + PREPARED + IDLE)
    else:
        has_prepared(lease)
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")
    lease.answers(SELECTED + IDLE)
    lease.moves_to(new_server())
    assert lease.asks(query("EXECUTE s")) == apart(PREPARE) + SYNC + query("EXECUTE s")
    assert lease.answers(LAID + IDLE + SELECTED + IDLE) == SELECTED + IDLE
    lease.moves_to(new_server())
    requests = parse("", "EXECUTE s") + bind("") + execute() + SYNC
    assert lease.asks(requests) == apart(PREPARE) + SYNC + requests
    assert lease.answers(LAID + IDLE + EXECUTED + IDLE) == EXECUTED + IDLE


def test_a_prepare_that_fails_has_prepared_nothing(lease: Lease) -> None:
    """Its command tag never comes, whether its own error or an earlier one prevented it."""
    for text in (PREPARE, f"SELECT 1/0; {PREPARE}"):
        lease.asks(query(text))
        lease.answers(ERROR + IDLE)
        assert names(lease) == []
    lease.asks(parse("", PREPARE) + bind("") + execute() + SYNC)
    lease.answers(PARSE_COMPLETE + ERROR + IDLE)
    assert names(lease) == []


def test_what_ran_before_an_error_counts(lease: Lease) -> None:
    """A text is an implicit transaction, but PREPARE and DEALLOCATE are not undone with it."""
    lease.asks(
        query("PREPARE a AS SELECT 1; PREPARE b AS SELECT 2; DEALLOCATE a; SELECT 1/0; PREPARE c AS SELECT 3")
    )
    lease.answers(PREPARED + PREPARED + DEALLOCATED + ERROR + IDLE)
    assert names(lease) == [b"b"]
    lease.moves_to(new_server())
    assert lease.asks(query("EXECUTE b")) == apart("PREPARE b AS SELECT 2") + SYNC + query("EXECUTE b")


def test_tags_of_other_commands_count_nothing(lease: Lease) -> None:
    """EXECUTE completes with the tag of what it executes."""
    lease.asks(query(f"SELECT 1; {PREPARE}; EXECUTE s; DEALLOCATE s"))
    lease.answers(SELECTED + PREPARED + SELECTED + ERROR + IDLE)
    assert names(lease) == [b"s"]


@pytest.mark.parametrize("text", ["DEALLOCATE s", "DEALLOCATE PREPARE s", "DEALLOCATE ALL", "DISCARD ALL"])
def test_what_is_deallocated_is_gone_everywhere(text: str, lease: Lease) -> None:
    """On the next server, too."""
    has_prepared(lease)
    assert lease.asks(query(text)) == query(text)
    assert names(lease) == [b"s"]
    tag = "DEALLOCATE" if " s" in text or "PREPARE" in text else text
    lease.answers(command_complete(tag) + IDLE)
    assert names(lease) == []
    if text == "DISCARD ALL":
        lease.is_told()
    lease.moves_to(new_server())
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")
    assert lease.answers(UNKNOWN + IDLE) == UNKNOWN + IDLE


@pytest.mark.parametrize("before", [query(PREPARE), parse("s", "SELECT * FROM t") + SYNC])
def test_deallocating_on_another_server_finds_something_to_deallocate(before: bytes, lease: Lease) -> None:
    """Otherwise it would fail there. What it finds is nothing that could not be prepared any more."""
    lease.asks(before)
    lease.answers((PREPARED if before == query(PREPARE) else PARSE_COMPLETE) + IDLE)
    lease.moves_to(new_server())
    assert lease.asks(query("DEALLOCATE s")) == parse("s", "") + SYNC + query("DEALLOCATE s")
    assert lease.answers(PARSE_COMPLETE + IDLE + DEALLOCATED + IDLE) == DEALLOCATED + IDLE
    assert names(lease) == []
    assert b"s" not in lease.server.laid


def test_a_name_in_use_is_in_use_on_another_server(lease: Lease) -> None:
    """PREPARE of it fails in PostgreSQL's words, and EXECUTE finds the first one."""
    has_prepared(lease)
    lease.moves_to(new_server())
    text = query("PREPARE s AS SELECT 'b'")
    assert lease.asks(text) == parse("s", "") + SYNC + text
    assert lease.answers(PARSE_COMPLETE + IDLE + TAKEN + IDLE) == TAKEN + IDLE
    assert lease.asks(query("EXECUTE s")) == close("s") + apart(PREPARE) + SYNC + query("EXECUTE s")


def test_names_are_folded_and_quoted_as_postgresql_does(lease: Lease) -> None:
    """S is s, and "S" is not."""
    has_prepared(lease, "PREPARE S AS SELECT 1")
    assert names(lease) == [b"s"]
    lease.moves_to(new_server())
    assert lease.asks(query('EXECUTE "S"')) == query('EXECUTE "S"')
    lease.answers(UNKNOWN + IDLE)
    assert lease.asks(query('EXECUTE "s"')) == apart("PREPARE S AS SELECT 1") + SYNC + query('EXECUTE "s"')


def test_a_pipeline_that_prepares_and_executes_passes_as_it_came(lease: Lease) -> None:
    """Nothing has been counted yet, and nothing needs to be."""
    pipeline = query(PREPARE) + query("EXECUTE s") + query("DEALLOCATE s") + query("PREPARE s AS SELECT 2")
    assert lease.asks(pipeline + query("EXECUTE s")) == pipeline + query("EXECUTE s")
    replies = PREPARED + IDLE + SELECTED + IDLE + DEALLOCATED + IDLE + PREPARED + IDLE + SELECTED + IDLE
    assert lease.answers(replies) == replies
    lease.moves_to(new_server())
    laid = apart("PREPARE s AS SELECT 2") + SYNC
    assert lease.asks(query("EXECUTE s")) == laid + query("EXECUTE s")


# -- nobody else's -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        query("EXECUTE s"),
        query("DEALLOCATE s"),
        bind("s") + execute() + SYNC,
        describe("s") + SYNC,
        parse("", "EXECUTE s") + bind("") + execute() + SYNC,
    ],
)
def test_a_name_of_another_client_is_unknown(request_: bytes, way: str) -> None:
    """It is closed before the request that would have found it, once."""
    other = has_prepared(Lease(way=way))
    other.ends()
    lease = Lease(new_client(), other.server, way)
    assert lease.asks(request_) == close("s") + SYNC + request_
    error = UNKNOWN + IDLE
    assert lease.answers(CLOSE_COMPLETE + IDLE + error) == error
    assert lease.asks(request_) == request_


def test_a_prepare_does_not_find_another_clients_name_taken(way: str) -> None:
    """The other one's is closed, and laid out again when its client comes back."""
    registry = StatementRegistry(PREFIX)
    first, second = (Lease(new_client(registry), way=way) for _ in range(2))
    second.server = first.server
    has_prepared(first)
    first.ends()
    text = query("PREPARE s AS SELECT 'b'")
    assert second.asks(text) == close("s") + SYNC + text
    assert second.answers(CLOSE_COMPLETE + IDLE + PREPARED + IDLE) == PREPARED + IDLE
    second.ends()
    assert first.asks(query("EXECUTE s")) == close("s") + apart(PREPARE) + SYNC + query("EXECUTE s")
    assert first.answers(CLOSE_COMPLETE + LAID + IDLE + SELECTED + IDLE) == SELECTED + IDLE
    first.ends()
    assert second.asks(query("EXECUTE s")) == (
        close("s") + apart("PREPARE s AS SELECT 'b'") + SYNC + query("EXECUTE s")
    )


def test_a_text_that_runs_others_may_find_any_name(lease: Lease) -> None:
    """DO can build an EXECUTE: all that the client has is laid out, and what others have is closed."""
    has_prepared(lease)
    lease.moves_to(new_server())
    other = has_prepared(Lease(server=lease.server, way=lease.way), "PREPARE t AS SELECT 'b'")
    other.ends()
    text = query("DO $$ begin execute 'execute ' || 's'; end $$")
    assert lease.asks(text) == close("t") + SYNC + apart(PREPARE) + SYNC + text
    done = command_complete("DO") + IDLE
    assert lease.answers(CLOSE_COMPLETE + IDLE + LAID + IDLE + done) == done


def test_who_lists_prepared_statements_finds_its_own_and_no_others(way: str) -> None:
    """pg_prepared_statements: everything else is closed, ours by content included, and what the client has
    stands under the client's names.
    """
    registry = StatementRegistry(PREFIX)
    other = has_prepared(Lease(new_client(registry), way=way), "PREPARE o AS SELECT 'o'")
    other.ends()
    lease = Lease(new_client(registry), other.server, way)
    lease.asks(parse("p", "SELECT 1") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    has_prepared(lease)
    text = query("SELECT name FROM pg_prepared_statements")
    expected = close(NAME_1) + SYNC + close("o") + SYNC + parse("p", "SELECT 1") + SYNC + text
    assert lease.asks(text) == expected
    replies = (CLOSE_COMPLETE + IDLE) * 2 + PARSE_COMPLETE + IDLE
    assert lease.answers(replies + SELECTED + IDLE) == SELECTED + IDLE
    assert lease.asks(text) == text
    lease.answers(SELECTED + IDLE)
    assert (
        lease.asks(bind("p") + execute() + SYNC)
        == parse(NAME_1, "SELECT 1") + bind(NAME_1) + execute() + SYNC
    )


# -- both protocols' names -----------------------------------------------------------------------------------


def test_sql_executes_what_the_protocol_has_prepared(lease: Lease) -> None:
    """Under the client's own name, which is made just before."""
    lease.asks(parse("s", "SELECT 1") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    assert lease.asks(query("EXECUTE s")) == parse("s", "SELECT 1") + SYNC + query("EXECUTE s")
    assert lease.answers(PARSE_COMPLETE + IDLE + SELECTED + IDLE) == SELECTED + IDLE
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")
    assert lease.answers(SELECTED + IDLE) == SELECTED + IDLE
    assert lease.asks(query("DEALLOCATE s")) == query("DEALLOCATE s")
    lease.answers(DEALLOCATED + IDLE)
    assert lease.asks(bind("s") + SYNC) == bind("s") + SYNC


def test_the_protocol_executes_what_sql_has_prepared(lease: Lease) -> None:
    """Bind, Describe and Close of its name; Parse of it fails in PostgreSQL's words."""
    has_prepared(lease)
    lease.moves_to(new_server())
    requests = bind("s") + execute() + SYNC
    assert lease.asks(requests) == apart(PREPARE) + SYNC + requests
    answer = BIND_COMPLETE + SELECTED + IDLE
    assert lease.answers(LAID + IDLE + answer) == answer
    assert lease.asks(describe("s") + SYNC) == describe("s") + SYNC
    answer = messages.message(ord("t"), b"\0\0") + messages.NO_DATA + IDLE
    assert lease.answers(answer) == answer
    duplicate = parse("s", "SELECT 2") + SYNC
    assert lease.asks(duplicate) == close("s") + parse("s", "") + duplicate
    assert lease.answers(CLOSE_COMPLETE + PARSE_COMPLETE + TAKEN + IDLE) == TAKEN + IDLE
    assert lease.asks(query("EXECUTE s")) == close("s") + apart(PREPARE) + SYNC + query("EXECUTE s")
    assert lease.answers(CLOSE_COMPLETE + LAID + IDLE + SELECTED + IDLE) == SELECTED + IDLE
    assert lease.asks(close("s") + SYNC) == SYNC
    assert lease.own_replies() + lease.answers(IDLE) == CLOSE_COMPLETE + IDLE
    assert lease.asks(query("EXECUTE s")) == close("s") + SYNC + query("EXECUTE s")


def test_within_a_group_the_replies_to_what_is_laid_out_are_swallowed(lease: Lease) -> None:
    """Where no group of ours can stand."""
    has_prepared(lease)
    lease.moves_to(new_server())
    group = parse("", "SELECT 1") + bind("") + execute()
    sent = lease.asks(group + parse("", "EXECUTE s") + bind("") + execute() + SYNC)
    again = parse("", "EXECUTE s")
    assert sent == group + apart(PREPARE) + again + bind("") + execute() + SYNC
    assert lease.answers(EXECUTED + LAID + EXECUTED + IDLE) == EXECUTED + EXECUTED + IDLE


def test_the_clients_unnamed_portal_outlives_what_is_laid_out(lease: Lease) -> None:
    """It may have been bound ahead, and not be executed yet."""
    has_prepared(lease)
    lease.moves_to(new_server())
    sent = lease.asks(parse("", "SELECT 1") + bind("") + describe("s") + execute() + SYNC)
    assert sent == parse("", "SELECT 1") + bind("") + apart(PREPARE) + describe("s") + execute() + SYNC
    assert bind("") not in apart(PREPARE)


def test_a_statement_that_executes_another_gets_it_when_it_is_prepared(lease: Lease) -> None:
    """Its result is described by what it executes."""
    has_prepared(lease)
    lease.asks(parse("e", "EXECUTE s") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.moves_to(new_server())
    prepared = parse(NAME_2, "EXECUTE s")
    sent = lease.asks(describe("e") + SYNC)
    assert sent == apart(PREPARE) + SYNC + prepared + describe(NAME_2) + SYNC


def test_a_description_of_what_executes_another_finds_it(way: str) -> None:
    """Also where the statement itself is there already, and the name stands for somebody else's."""
    registry, server = StatementRegistry(PREFIX), new_server()
    lease = has_prepared(Lease(new_client(registry), server, way))
    lease.asks(parse("e", "EXECUTE s") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.ends()
    other = Lease(new_client(registry), server, way)
    other.asks(query("PREPARE s AS SELECT 1"))
    other.answers(CLOSE_COMPLETE + IDLE + PREPARED + IDLE)
    other.ends()
    assert lease.asks(describe("e") + SYNC) == close("s") + apart(PREPARE) + SYNC + describe(NAME_2) + SYNC


def test_executing_a_prepare_is_asked_about(lease: Lease) -> None:
    """The protocol can prepare it, and nobody counts what it makes under which name."""
    lease.asks(parse("p", PREPARE) + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.asks(query("EXECUTE p"))
    assert lease.answers(PARSE_COMPLETE + IDLE + PREPARED + IDLE) == PREPARED + IDLE
    assert lease.server.asks == Ask.ALL
    assert lease.server.keeps == {"SQL PREPARE"}


def test_laid_out_names_are_bounded(way: str) -> None:
    """Whoever has laid out the oldest makes room."""
    lease = Lease(server=new_server(max_statements=2), way=way)
    for number in range(3):
        has_prepared(lease, f"PREPARE s{number} AS SELECT 1")
    lease.moves_to(new_server(max_statements=2))
    for number in range(3):
        text = query(f"EXECUTE s{number}")
        first = close("s0") if number == 2 else b""
        assert lease.asks(text) == first + apart(f"PREPARE s{number} AS SELECT 1") + SYNC + text
        lease.answers((CLOSE_COMPLETE if first else b"") + LAID + IDLE + SELECTED + IDLE)
    assert [*lease.server.laid] == [b"s1", b"s2"]


# -- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_what_cannot_be_laid_out_any_more_fails_for_its_own_reason(extended: bool, lease: Lease) -> None:
    """A direct connection would say that the table is gone, not that the statement does not exist."""
    has_prepared(lease, "PREPARE s AS SELECT * FROM t")
    lease.moves_to(new_server())
    text = parse("", "EXECUTE s") + bind("") + execute() + SYNC if extended else query("EXECUTE s")
    laid = apart("PREPARE s AS SELECT * FROM t") + SYNC
    assert lease.asks(text) == laid + text
    ahead = PARSE_COMPLETE + BIND_COMPLETE if extended else b""
    failed = PARSE_COMPLETE + BIND_COMPLETE + NO_TABLE + IDLE
    assert lease.answers(failed + ahead + UNKNOWN + IDLE) == ahead + NO_TABLE + IDLE
    assert lease.asks(text) == close("s") + laid + text, "it is tried again"


def test_in_a_failed_transaction_the_error_is_its_own(lease: Lease) -> None:
    """What is laid out fails as the client's own request does; afterwards it is laid out again."""
    has_prepared(lease)
    lease.moves_to(new_server())
    lease.asks(query("BEGIN") + query("SELECT 1/0"))
    lease.answers(command_complete("BEGIN") + BUSY + ERROR + FAILED)
    assert lease.asks(query("EXECUTE s")) == apart(PREPARE) + SYNC + query("EXECUTE s")
    assert lease.answers(ABORTED + FAILED + ABORTED + FAILED) == ABORTED + FAILED
    lease.asks(query("ROLLBACK"))
    lease.answers(command_complete("ROLLBACK") + IDLE)
    assert lease.asks(query("EXECUTE s")) == close("s") + apart(PREPARE) + SYNC + query("EXECUTE s")


def test_error_texts_have_the_clients_names(lease: Lease) -> None:
    """Ours are nobody's business."""
    lease.asks(parse("mine", "SELECT $1::text") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    assert lease.asks(bind("mine") + SYNC) == bind(NAME_1) + SYNC
    text = 'bind message supplies 0 parameters, but prepared statement "{}" requires 1'
    error = messages.error("08P01", text.format(NAME_1))
    assert lease.answers(error + IDLE) == messages.error("08P01", text.format("mine")) + IDLE


def test_error_texts_of_other_names_pass_as_they_are(lease: Lease) -> None:
    """Also those that look alike: another client's name is not in this client's words."""
    lease.asks(parse("mine", "SELECT 1") + query("SELECT 1"))
    error = messages.error("26000", f'prepared statement "{NAME_1}0" does not exist')
    assert lease.answers(PARSE_COMPLETE + error + IDLE) == PARSE_COMPLETE + error + IDLE


# -- facts of what is executed -------------------------------------------------------------------------------


def test_executing_does_what_the_prepared_text_does(lease: Lease) -> None:
    """It may lock, and is asked about; the same if another server has to get it first."""
    has_prepared(lease, "PREPARE s AS SELECT pg_advisory_lock(1)")
    assert not lease.server.must_ask
    lease.asks(query("EXECUTE s"))
    lease.answers(SELECTED + IDLE)
    assert lease.server.must_ask
    lease.is_told()
    lease.asks(query("PREPARE t AS SELECT pg_advisory_lock(1); EXECUTE t"))
    lease.answers(PREPARED + SELECTED + IDLE)
    assert lease.server.must_ask


def test_executing_what_a_pipeline_has_just_prepared_does_so_too(lease: Lease) -> None:
    """Before PREPARE has been answered, in the same group or in an earlier one."""
    prepare = "PREPARE s AS SELECT pg_advisory_lock(1)"
    lease.asks(query(prepare) + query("EXECUTE s"))
    lease.answers(PREPARED + IDLE + SELECTED + IDLE)
    assert lease.server.must_ask
    lease.is_told()
    lease.asks(query("DEALLOCATE s"))
    lease.answers(DEALLOCATED + IDLE)
    run = parse("", "EXECUTE s") + bind("") + execute()
    lease.asks(parse("", prepare) + bind("") + execute() + run + SYNC)
    lease.answers(PARSE_COMPLETE + BIND_COMPLETE + PREPARED + EXECUTED + IDLE)
    assert lease.server.must_ask


# -- pipelines -----------------------------------------------------------------------------------------------


def test_what_a_pipeline_changes_is_not_laid_out_over(lease: Lease) -> None:
    """A name that is deallocated and prepared again, unanswered, is what the pipeline has made of it."""
    has_prepared(lease)
    lease.moves_to(new_server())
    again = query("DEALLOCATE s") + query("PREPARE s AS SELECT 'b'") + query("EXECUTE s")
    assert lease.asks(again) == parse("s", "") + SYNC + again
    replies = DEALLOCATED + IDLE + PREPARED + IDLE + SELECTED + IDLE
    assert lease.answers(PARSE_COMPLETE + IDLE + replies) == replies
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")


def test_a_group_does_not_rely_on_what_an_earlier_one_lays_out(lease: Lease) -> None:
    """That may have been skipped behind an error."""
    has_prepared(lease)
    lease.moves_to(new_server())
    failing = bind("unknown") + parse("", "EXECUTE s") + bind("") + execute() + SYNC
    run = parse("", "EXECUTE s") + bind("") + execute() + SYNC
    sent = lease.asks(failing + run)
    skipped = bind("unknown") + apart(PREPARE) + parse("", "EXECUTE s") + bind("") + execute() + SYNC
    assert sent == skipped + close("s") + apart(PREPARE) + SYNC + run
    replies = CLOSE_COMPLETE + LAID + IDLE
    assert lease.answers(UNKNOWN + IDLE + replies + EXECUTED + IDLE) == UNKNOWN + IDLE + EXECUTED + IDLE
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")


def test_what_is_laid_out_in_a_transaction_that_fails_is_laid_out_again(lease: Lease) -> None:
    """In a pipeline that ends the transaction and goes on."""
    has_prepared(lease)
    lease.moves_to(new_server())
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BUSY)
    run, laid = query("EXECUTE s"), apart(PREPARE) + SYNC
    sent = lease.asks(query("SELECT 1/0") + run + query("ROLLBACK") + run)
    assert sent == query("SELECT 1/0") + laid + run + query("ROLLBACK") + close("s") + laid + run
    failed = ERROR + FAILED + (ABORTED + FAILED) * 2 + command_complete("ROLLBACK") + IDLE
    expected = ERROR + FAILED + ABORTED + FAILED + command_complete("ROLLBACK") + IDLE + SELECTED + IDLE
    assert lease.answers(failed + CLOSE_COMPLETE + LAID + IDLE + SELECTED + IDLE) == expected


def test_what_was_laid_out_behind_deallocate_all_is_not_forgotten(way: str) -> None:
    """Somebody else would find it."""
    lease = has_prepared(Lease(way=way))
    lease.moves_to(new_server())
    pipeline = query("DEALLOCATE ALL") + parse("t", "SELECT 1") + SYNC + query("EXECUTE t")
    sent = lease.asks(pipeline)
    laid = parse("t", "SELECT 1") + SYNC
    assert sent == query("DEALLOCATE ALL") + parse(NAME_1, "SELECT 1") + SYNC + laid + query("EXECUTE t")
    replies = command_complete("DEALLOCATE ALL") + IDLE + PARSE_COMPLETE + IDLE
    assert lease.answers(replies + PARSE_COMPLETE + IDLE + SELECTED + IDLE) == replies + SELECTED + IDLE
    lease.ends()
    other = Lease(new_client(), lease.server, way)
    assert other.asks(query("EXECUTE t")) == close("t") + SYNC + query("EXECUTE t")


def test_a_close_of_somebody_elses_that_is_skipped_is_sent_again(way: str) -> None:
    """Room was to be made in a group that failed; the name is still there."""
    server = new_server(max_statements=1)
    other = has_prepared(Lease(server=server, way=way), "PREPARE o AS SELECT 'o'")
    other.ends()
    lease = has_prepared(Lease(new_client(), new_server(), way))
    lease.moves_to(server)
    sent = lease.asks(bind("unknown") + parse("", "EXECUTE s") + SYNC)
    assert sent == bind("unknown") + close("o") + apart(PREPARE) + parse("", "EXECUTE s") + SYNC
    assert lease.answers(UNKNOWN + IDLE) == UNKNOWN + IDLE
    assert lease.asks(query("EXECUTE o")) == close("o") + SYNC + query("EXECUTE o")


def test_a_statement_that_executes_itself_is_postgresqls_problem(lease: Lease) -> None:
    """Its stack is limited, and so is ours."""
    assert lease.asks(parse("e", "EXECUTE e") + SYNC) == parse(NAME_2, "EXECUTE e") + SYNC
    lease.answers(PARSE_COMPLETE + IDLE)
    run = bind(NAME_2) + execute() + SYNC
    assert lease.asks(bind("e") + execute() + SYNC) == parse("e", "EXECUTE e") + SYNC + run


def test_names_of_what_is_executed_are_laid_out_as_well(lease: Lease) -> None:
    """A statement of the protocol may be an EXECUTE itself; what it needs goes first."""
    has_prepared(lease)
    lease.asks(parse("e", "EXECUTE s") + SYNC)
    lease.answers(PARSE_COMPLETE + IDLE)
    lease.moves_to(new_server())
    laid = apart(PREPARE) + SYNC + parse("e", "EXECUTE s") + SYNC
    assert lease.asks(query("EXECUTE e")) == laid + query("EXECUTE e")


def test_a_query_that_may_be_skipped_is_not_ended_by_a_sync_of_ours(lease: Lease) -> None:
    """The client sends a Query in an open group: if something in front of it fails, everything is skipped to
    the client's own Sync. Nor does anything precede it that can fail, and would skip it.
    """
    has_prepared(lease)
    lease.moves_to(new_server())
    sent = lease.asks(parse("", "ERROR") + query("SELECT 1") + query("EXECUTE s"))
    assert sent == parse("", "ERROR") + query("SELECT 1") + query("EXECUTE s")
    assert lease.answers(ERROR) == ERROR
    assert not lease.server.free
    assert lease.asks(SYNC) == SYNC
    assert lease.answers(IDLE) == IDLE
    assert lease.server.free


def test_a_query_in_an_open_group_is_not_preceded_by_what_can_fail(way: str) -> None:
    """It would be skipped, its ReadyForQuery included; but another client's name is closed."""
    other = has_prepared(Lease(way=way))
    other.ends()
    lease = has_prepared(Lease(new_client(), new_server(), way), "PREPARE s AS SELECT 'b'")
    lease.moves_to(other.server)
    sent = lease.asks(parse("", "SELECT 1") + query("EXECUTE s"))
    assert sent == parse("", "SELECT 1") + close("s") + query("EXECUTE s")
    replies = PARSE_COMPLETE + CLOSE_COMPLETE + UNKNOWN + IDLE
    assert lease.answers(replies) == PARSE_COMPLETE + UNKNOWN + IDLE


RUNS_PREPARE = parse("", "PREPARE s AS SELECT 'b'") + bind("") + execute()


def test_a_prepare_that_may_be_skipped_does_not_hide_another_clients_name(way: str) -> None:
    """The Close in front of it may be skipped as well; what follows in a pipeline does not rely on it."""
    other = has_prepared(Lease(way=way))
    other.ends()
    lease = Lease(new_client(), other.server, way)
    sent = lease.asks(bind("unknown") + RUNS_PREPARE + SYNC + query("EXECUTE s"))
    laid = close("s") + apart("PREPARE s AS SELECT 'b'") + SYNC
    assert sent == bind("unknown") + close("s") + RUNS_PREPARE + SYNC + laid + query("EXECUTE s")
    assert lease.answers(UNKNOWN + IDLE + CLOSE_COMPLETE + LAID + IDLE + SELECTED + IDLE) == (
        UNKNOWN + IDLE + SELECTED + IDLE
    )
    assert names(lease) == []
    assert lease.asks(query("EXECUTE s")) == close("s") + SYNC + query("EXECUTE s")


def test_a_prepare_that_was_skipped_does_not_hide_another_clients_name(way: str) -> None:
    """Nor when that is known before the group ends."""
    other = has_prepared(Lease(way=way))
    other.ends()
    lease = Lease(new_client(), other.server, way)
    lease.asks(bind("unknown") + RUNS_PREPARE)
    assert lease.answers(UNKNOWN) == UNKNOWN
    assert lease.asks(SYNC + query("EXECUTE s")) == SYNC + close("s") + SYNC + query("EXECUTE s")
    assert lease.answers(IDLE + CLOSE_COMPLETE + IDLE + UNKNOWN + IDLE) == IDLE + UNKNOWN + IDLE


def test_what_is_skipped_is_not_counted(lease: Lease) -> None:
    """A text in a group that has failed already changes nothing, and nothing waits for it."""
    has_prepared(lease)
    lease.asks(bind("unknown"))
    lease.answers(UNKNOWN)
    lease.asks(parse("", "DEALLOCATE ALL") + bind("") + execute() + query("DEALLOCATE s") + SYNC)
    assert lease.answers(IDLE) == IDLE
    assert names(lease) == [b"s"]
    lease.moves_to(new_server())
    assert lease.asks(query("EXECUTE s")) == apart(PREPARE) + SYNC + query("EXECUTE s")


def test_a_prepare_of_a_name_in_use_changes_nothing_for_what_follows(lease: Lease) -> None:
    """It fails; EXECUTE in the same pipeline finds what was there."""
    has_prepared(lease)
    lease.moves_to(new_server())
    again, run = query("PREPARE s AS SELECT 'b'"), query("EXECUTE s")
    assert lease.asks(again + run) == parse("s", "") + SYNC + again + close("s") + apart(PREPARE) + SYNC + run
    replies = PARSE_COMPLETE + IDLE + TAKEN + IDLE + CLOSE_COMPLETE + LAID + IDLE + SELECTED + IDLE
    assert lease.answers(replies) == TAKEN + IDLE + SELECTED + IDLE


def test_a_text_that_is_only_suspected_to_need_a_name_fails_for_its_own_reason(lease: Lease) -> None:
    """What was laid out for it in vain is not the reason."""
    has_prepared(lease, "PREPARE s AS SELECT * FROM t")
    lease.moves_to(new_server())
    assert lease.asks(query("NONSENSE")) == apart("PREPARE s AS SELECT * FROM t") + SYNC + query("NONSENSE")
    laid = PARSE_COMPLETE + BIND_COMPLETE + NO_TABLE + IDLE
    assert lease.answers(laid + ERROR + IDLE) == ERROR + IDLE
