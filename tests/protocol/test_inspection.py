"""Asking PostgreSQL what a session holds: the question, the answer, and when it is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.direct import direct_bytes
from tests.support.fakesql import data_row
from tests.support.lease import (
    BUSY,
    ERROR,
    FAILED,
    IDLE,
    SELECTED,
    Lease,
    adopted,
    adoption,
    apart,
    new_client,
    new_server,
    ours,
    told,
)
from tests.support.requests import SYNC, bind, close, execute, parse, query
from tests.support.threeways import WAYS
from trio_pool.errors import ServerFault
from trio_pool.protocol.backend import UNREADABLE
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.inspection import Inspection, request
from trio_pool.protocol.settings import NONE, intern
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

KINDS = [Ask.SETTINGS, Ask.TEMPORARY, Ask.LOCKS, Ask.CURSORS, Ask.CHANNELS]
IDENTITY = "session_authorization\nrole"


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


def sql(asks: Ask) -> str:
    """The text of a question."""
    return request(asks, ())[6:].partition(b"\0")[0].decode()


# -- the question --------------------------------------------------------------------------------------------


def test_a_question_is_one_query_of_ours() -> None:
    """Through the unnamed statement, which is closed behind it; names to ask for travel as one parameter."""
    text = sql(Ask.SETTINGS)
    assert request(Ask.SETTINGS, ["my.b", "my.a"]) == (
        ours(text, f"{IDENTITY}\nmy.a\nmy.b") + close("") + SYNC
    )
    text = sql(Ask.LOCKS)
    assert request(Ask.LOCKS, ["my.a"]) == ours(text) + close("") + SYNC


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_may_have_changed_is_asked(kind: Ask) -> None:
    """The parts of a question are the questions of its kinds, in one order whatever is asked."""
    for other in KINDS:
        if other is kind:
            continue
        first, second = sorted([kind, other], key=KINDS.index)
        assert sql(kind | other) == f"{sql(first)} UNION ALL {sql(second)}"


def test_when_everything_is_asked_so_are_prepared_statements() -> None:
    """SQL that is built at run time can say PREPARE, and nobody would have seen it."""
    every = " UNION ALL ".join(map(sql, KINDS))
    assert sql(Ask.ALL).startswith(f"{every} UNION ALL SELECT 'prepared', ")


def test_no_question_depends_on_the_clients_search_path() -> None:
    """Every relation, function and operator is PostgreSQL's own."""
    text = sql(Ask.ALL)
    for word in ("pg_settings", "pg_locks", "pg_cursors", "pg_depend", "encode(", "convert_to(", "unnest("):
        assert text.count(word) == text.count(f"pg_catalog.{word}") > 0
    assert " = " not in text
    assert " <> " not in text


# -- what real servers answer --------------------------------------------------------------------------------


def asked(postgres: LocalPostgres, before: str, asks: Ask, *names: str) -> Inspection:
    """What a real PostgreSQL answers behind some statements."""
    data = query(before) + request(asks, names) + query("SELECT 'the end'")
    assembler, answer = Assembler(), Inspection(asks, laid={})
    assembler.feed(direct_bytes(postgres, data))
    groups, rows = 0, []
    while (message := assembler.message()) is not None:
        assert message[0] != ord("E"), messages.read_error(message[1])
        groups += message[0] == ord("Z")
        if message[0] == ord("D") and groups == 1:
            rows.append(message[1])
    for row in rows:
        answer.row(row)
    return answer


def test_settings_are_read(postgres: LocalPostgres) -> None:
    """Those of the session, in any client_encoding; not what is local, nor what the next transaction will
    be; those with a dot if their names are known; who the session is, if it is not who it was.
    """
    before = (
        "SET client_encoding = 'LATIN1'; SET my.a = 'a'; SET my.b = 'b'; SET work_mem = '3MB'; BEGIN; "
        "SET LOCAL statement_timeout = '5s'; SET TRANSACTION ISOLATION LEVEL SERIALIZABLE; COMMIT; "
        "SELECT set_config('application_name', 'x y''', false); SET ROLE pg_monitor"
    )
    found = asked(postgres, before, Ask.SETTINGS, "my.a", "my.never_set").settings(postgres.superuser)
    expected = {
        "client_encoding": "LATIN1",
        "my.a": "a",
        "work_mem": "3072",
        "application_name": "x y'",
        "role": "pg_monitor",
    }
    assert dict(found.items()) == expected


def test_a_session_that_has_set_nothing_has_no_settings(postgres: LocalPostgres) -> None:
    """Not even its own name; RESET leaves nothing."""
    assert asked(postgres, "SELECT 1", Ask.SETTINGS).settings(postgres.superuser) is NONE
    reset = "SET work_mem = '3MB'; SET ROLE pg_monitor; RESET work_mem; RESET ROLE"
    assert asked(postgres, reset, Ask.SETTINGS).settings(postgres.superuser) is NONE


def test_who_the_session_is_is_read(postgres: LocalPostgres) -> None:
    """SET SESSION AUTHORIZATION, in the same way."""
    found = asked(postgres, "SET SESSION AUTHORIZATION app", Ask.SETTINGS).settings(postgres.superuser)
    assert dict(found.items()) == {"session_authorization": "app"}


@pytest.mark.parametrize(
    ("kind", "before", "pins"),
    [
        (Ask.TEMPORARY, "CREATE TEMP TABLE t (n int)", {"temporary object"}),
        (Ask.TEMPORARY, "CREATE TEMP TABLE t (n int); DROP TABLE t", set()),
        (
            Ask.TEMPORARY,
            "CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql RETURN 1",
            {"temporary object"},
        ),
        (Ask.TEMPORARY, "CREATE TYPE pg_temp.e AS ENUM ('a')", {"temporary object"}),
        (Ask.TEMPORARY, "BEGIN; CREATE TEMP TABLE t () ON COMMIT DROP; COMMIT", set()),
        (Ask.LOCKS, "SELECT pg_advisory_lock(1)", {"session advisory lock"}),
        (Ask.LOCKS, "SELECT pg_advisory_lock(1), pg_advisory_unlock(1)", set()),
        (Ask.LOCKS, "BEGIN; SELECT pg_advisory_xact_lock(1); COMMIT", set()),
        (Ask.CURSORS, "DECLARE c CURSOR WITH HOLD FOR SELECT 1", {"cursor WITH HOLD"}),
        (Ask.CURSORS, "DECLARE c CURSOR WITH HOLD FOR SELECT 1; CLOSE c", set()),
    ],
)
def test_pins_are_found_and_vanish(kind: Ask, before: str, pins: set[str], postgres: LocalPostgres) -> None:
    """What cannot be carried, as long as it is there."""
    answer = asked(postgres, before, kind)
    assert answer.pins == pins
    assert (
        answer.pins_asked
        == {
            Ask.TEMPORARY: {"temporary object"},
            Ask.LOCKS: {"session advisory lock"},
            Ask.CURSORS: {"cursor WITH HOLD"},
        }[kind]
    )


def test_channels_and_prepared_statements_are_found(postgres: LocalPostgres) -> None:
    """By their names, as bytes of UTF-8; only what SQL has prepared."""
    before = 'LISTEN a; LISTEN "b c"; LISTEN d; UNLISTEN d; PREPARE s AS SELECT 1'
    answer = asked(postgres, before, Ask.ALL)
    assert answer.channels == {b"a", b"b c"}
    assert answer.prepared == {b"s": before.encode()}
    assert answer.pins_asked == {"temporary object", "session advisory lock", "cursor WITH HOLD"}


# -- rows ----------------------------------------------------------------------------------------------------


def body(*values: str) -> bytes:
    """A DataRow's."""
    return data_row(*values)[5:]


def test_rows_are_read() -> None:
    """Names and values travel in hexadecimal UTF-8."""
    answer = Inspection(Ask.ALL, laid={})
    for row in (
        ("setting", b"a".hex(), "\xe9".encode().hex()),
        ("setting", b"role".hex(), b"none".hex()),
        ("setting", b"session_authorization".hex(), b"me".hex()),
        ("setting", b"transaction_read_only".hex(), b"on".hex()),
        ("pin", "LOCKS", ""),
        ("channel", b"c".hex(), ""),
        ("prepared", b"s".hex(), b"PREPARE s AS SELECT 1".hex()),
    ):
        answer.row(body(*row))
    assert answer.settings("me") is intern({"a": "\xe9"})
    assert answer.settings("you") is intern({"a": "\xe9", "session_authorization": "me"})
    assert (answer.pins, answer.channels) == ({"session advisory lock"}, {b"c"})
    assert answer.prepared == {b"s": b"PREPARE s AS SELECT 1"}


@pytest.mark.parametrize(
    "row",
    [body("pin", "NONSENSE", ""), body("setting", "not hex", ""), body("pin", "LOCKS"), b"\0\1\0\0\0\5"],
)
def test_what_is_no_answer_to_the_question_ends_the_connection(row: bytes, way: str) -> None:
    """Whoever answers so cannot be trusted with the next client."""
    lease = Lease(way=way)
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.inspects()
    with pytest.raises(ServerFault, match="no answer to our question"):
        lease.answers(PARSE_COMPLETE + BIND_COMPLETE + messages.message(ord("D"), row))


# -- when it is asked ----------------------------------------------------------------------------------------


def test_settings_are_learned_before_the_lease_ends(way: str) -> None:
    """The client gets nothing of the question, and its next server the settings."""
    lease = Lease(way=way)
    lease.asks(query("SET work_mem = '4MB'"))
    assert lease.answers(command_complete("SET") + IDLE) == command_complete("SET") + IDLE
    assert lease.inspects() == request(Ask.SETTINGS, ())
    assert not lease.server.free
    assert lease.answers(told(("setting", "work_mem", "4096"))) == b""
    assert lease.client.settings is intern({"work_mem": "4096"})
    lease.moves_to(new_server())
    assert lease.asks(query("SELECT 1")) == adoption("work_mem", "4096") + query("SELECT 1")


def test_nothing_is_asked_before_the_transaction_is_over(way: str) -> None:
    """A rollback may undo it; then it is asked all the same, since it may not have undone all."""
    lease = Lease(way=way)
    lease.asks(query("BEGIN"))
    lease.answers(command_complete("BEGIN") + BUSY)
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + BUSY)
    assert not lease.server.free
    lease.asks(query("ROLLBACK"))
    lease.answers(command_complete("ROLLBACK") + IDLE)
    assert lease.inspects() == request(Ask.SETTINGS, ())
    assert lease.answers(told()) == b""
    assert lease.client.settings is NONE


@pytest.mark.parametrize("extended", [False, True])
def test_names_that_no_view_lists_are_asked_for(extended: bool, way: str) -> None:
    """Those of the text, or of its parameters, and from then on as long as the client has them."""
    lease = Lease(way=way)
    if extended:
        lease.asks(parse("", "SELECT set_config($1, $2, false)") + bind("", "My.A", "x") + execute() + SYNC)
        lease.answers(PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE)
    else:
        lease.asks(query("SET My.A = 'x'"))
        lease.answers(command_complete("SET") + IDLE)
    assert lease.inspects() == request(Ask.SETTINGS, ["my.a"])
    assert lease.answers(told(("setting", "my.a", "x"))) == b""
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    assert lease.inspects() == request(Ask.SETTINGS, ["my.a"])
    assert lease.answers(told(("setting", "my.a", "y"), ("setting", "work_mem", "4MB"))) == b""
    assert lease.client.settings is intern({"my.a": "y", "work_mem": "4MB"})


def test_a_set_that_is_sent_while_the_question_is_asked_is_asked_about_again(way: str) -> None:
    """It stands behind the question, whose answer cannot know of it."""
    lease = Lease(way=way)
    lease.asks(query("SET my.a = '1'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.inspects()
    assert lease.asks(query("SET my.b = '2'")) == query("SET my.b = '2'")
    assert lease.answers(told(("setting", "my.a", "1"))) == b""
    assert lease.answers(command_complete("SET") + IDLE) == command_complete("SET") + IDLE
    assert lease.server.must_ask
    assert lease.inspects() == request(Ask.SETTINGS, ["my.a", "my.b"])
    lease.answers(told(("setting", "my.a", "1"), ("setting", "my.b", "2")))
    assert not lease.server.must_ask
    assert lease.client.settings is intern({"my.a": "1", "my.b": "2"})


def test_a_pipeline_behind_the_question_gets_its_own_replies(way: str) -> None:
    """In both protocols."""
    lease = Lease(way=way)
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.inspects()
    requests = query("SELECT 1") + parse("", "SELECT 2") + bind("") + execute() + SYNC
    assert lease.asks(requests) == requests
    replies = SELECTED + IDLE + PARSE_COMPLETE + BIND_COMPLETE + SELECTED + IDLE
    assert lease.answers(told(("setting", "work_mem", "4096")) + replies) == replies
    assert lease.server.free


def test_a_pin_appears_and_vanishes(way: str) -> None:
    """It is asked for when a text may have made it, and when one may have taken it away; the lease goes on
    meanwhile.
    """
    lease = Lease(way=way)
    lease.asks(query("SELECT pg_advisory_lock(1)"))
    lease.answers(SELECTED + IDLE)
    assert lease.inspects() == request(Ask.LOCKS, ())
    lease.answers(told(("pin", "LOCKS", "")))
    assert list(lease.server.pins) == ["session advisory lock"]
    assert lease.asks(query("SELECT 1")) == query("SELECT 1")
    lease.answers(SELECTED + IDLE)
    assert not lease.server.must_ask
    assert list(lease.server.pins) == ["session advisory lock"]
    lease.asks(query("SELECT pg_advisory_unlock(1)"))
    lease.answers(SELECTED + IDLE)
    lease.is_told()
    assert lease.server.pins == {}


def test_other_pins_than_those_asked_for_stay() -> None:
    """The answer tells nothing of them."""
    lease = Lease()
    lease.asks(query("SELECT pg_advisory_lock(1)") + query("CREATE TEMP TABLE t ()"))
    lease.answers(SELECTED + IDLE + command_complete("CREATE TABLE") + IDLE)
    assert lease.server.asks == Ask.LOCKS | Ask.TEMPORARY
    lease.is_told(("pin", "LOCKS", ""), ("pin", "TEMPORARY", ""))
    lease.asks(query("DROP TABLE t"))
    lease.answers(command_complete("DROP TABLE") + IDLE)
    assert lease.inspects() == request(Ask.TEMPORARY, ())
    lease.answers(told())
    assert list(lease.server.pins) == ["session advisory lock"]


def test_what_nobody_has_is_not_asked_for_when_it_is_taken_away() -> None:
    """DROP TABLE, CLOSE and UNLOCK cost nothing for who has no pin."""
    lease = Lease()
    lease.asks(query("DROP TABLE t") + query("CLOSE c") + query("SELECT pg_advisory_unlock(1)"))
    tags = (command_complete("DROP TABLE"), command_complete("CLOSE CURSOR"), SELECTED)
    lease.answers(b"".join(tag + IDLE for tag in tags))
    assert not lease.server.must_ask


@pytest.mark.parametrize("answer", [ERROR, PARSE_COMPLETE + ERROR, PARSE_COMPLETE + BIND_COMPLETE + ERROR])
def test_a_question_that_fails_pins(answer: bytes, way: str) -> None:
    """With a reason of its own, until one is answered; the client gets nothing of it."""
    lease = Lease(way=way)
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.inspects()
    assert lease.answers(answer + IDLE) == b""
    assert list(lease.server.pins) == [UNREADABLE]
    assert lease.client.settings is NONE
    assert not lease.server.must_ask
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.is_told(("setting", "work_mem", "4096"))
    assert lease.server.pins == {}
    assert lease.client.settings is intern({"work_mem": "4096"})


def test_a_question_in_a_transaction_that_a_pipeline_has_begun_is_answered_there(way: str) -> None:
    """The question goes when the server is at rest, so nothing of the client's is in front of it."""
    lease = Lease(way=way)
    lease.asks(query("SET work_mem = '4MB'"))
    lease.answers(command_complete("SET") + IDLE)
    lease.inspects()
    lease.asks(query("BEGIN"))
    assert lease.answers(told() + command_complete("BEGIN") + BUSY) == command_complete("BEGIN") + BUSY
    lease.asks(query("ERROR"))
    assert lease.answers(ERROR + FAILED) == ERROR + FAILED


def test_the_unnamed_statement_of_the_client_survives_the_question(way: str) -> None:
    """Ours goes through the server's unnamed one, so the client's is parsed again."""
    lease = Lease(way=way)
    lease.asks(parse("", "SET work_mem = '4MB'") + bind("") + execute() + SYNC)
    lease.answers(PARSE_COMPLETE + BIND_COMPLETE + command_complete("SET") + IDLE)
    lease.is_told(("setting", "work_mem", "4096"))
    again = parse("", "SET work_mem = '4MB'")
    assert lease.asks(bind("") + execute() + SYNC) == again + bind("") + execute() + SYNC


def test_prepared_statements_that_sql_made_unseen_are_carried(way: str) -> None:
    """EXECUTE 'PREPARE ...' in a DO block: PostgreSQL lists what it made."""
    lease = Lease(way=way)
    lease.asks(query("DO $$ begin execute 'prepare s as select 1'; end $$"))
    lease.answers(command_complete("DO") + IDLE)
    assert lease.inspects() == request(Ask.ALL, ())
    lease.answers(told(("prepared", "s", "prepare s as select 1")))
    assert lease.server.pins == {}
    lease.moves_to(new_server())
    laid = apart("prepare s as select 1") + SYNC
    assert lease.asks(query("EXECUTE s")) == laid + query("EXECUTE s")
    laid_out = PARSE_COMPLETE + BIND_COMPLETE + command_complete("PREPARE") + CLOSE_COMPLETE + IDLE
    assert lease.answers(laid_out + SELECTED + IDLE) == SELECTED + IDLE


def test_prepared_statements_that_sql_deallocated_unseen_are_gone(way: str) -> None:
    """For the client, on any server."""
    lease = Lease(way=way)
    lease.asks(query("PREPARE s AS SELECT 1"))
    lease.answers(command_complete("PREPARE") + IDLE)
    lease.asks(query("DO $$ begin execute 'deallocate s'; end $$"))
    lease.answers(command_complete("DO") + IDLE)
    lease.is_told()
    lease.moves_to(new_server())
    assert lease.asks(query("EXECUTE s")) == query("EXECUTE s")


def test_parameters_of_startup_are_asked_for_by_name_as_well(way: str) -> None:
    """If no view lists them."""
    lease = Lease(new_client(settings=intern({"my.a": "x", "work_mem": "4MB"})), way=way)
    lease.asks(query("SET TimeZone = 'UTC'"))
    lease.answers(adopted("x", "4MB") + command_complete("SET") + IDLE)
    assert lease.inspects() == request(Ask.SETTINGS, ["my.a"])
