"""The server machine: when a server is free, and which of its bytes are the client's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.fakepg import COPY_IN_RESPONSE, COPY_OUT_RESPONSE
from tests.support.lease import BUSY, FAILED, IDLE, SELECTED, new_server
from tests.support.threeways import WAYS, fed
from trio_pool.errors import Reason, ServerFault
from trio_pool.protocol.replies import Action, Edit
from trio_pool.protocol.server import MAX_HELD
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete

if TYPE_CHECKING:
    from trio_pool.protocol.server import ServerSession

ERROR = messages.error("22012", "division by zero")
FATAL = messages.error("57P01", "terminating connection", severity="FATAL")
NOTICE = messages.notice("00000", "note")
NOTIFICATION = messages.message(ord("A"), b"\0\0\0\1channel\0\0")
COPY_DATA = messages.message(ord("d"), b"1\n")
COPY_DONE = messages.message(ord("c"))
LONG_ROW = messages.message(ord("D"), b"\0\1\0\1\0\0" + IDLE * 20_000)


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the server's bytes are cut."""
    assert isinstance(request.param, str)
    return request.param


def frees_at(server: ServerSession, data: bytes, way: str) -> int:
    """How many bytes of the data make the server free; they must pass unchanged."""
    assert not server.free
    for size in range(1, len(data) + 1):
        assert server.receive(data[size - 1 : size]) in (b"", data[:size])
        if server.free:
            return size
    return -1


# -- A1: the number of ReadyForQuery -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_server_is_free_when_every_readyforquery_has_come(count: int, way: str) -> None:
    """Not at the first of several that are owed, and not a byte before the last."""
    server = new_server()
    for _ in range(count):
        server.query()
    answer = (SELECTED + IDLE) * count
    assert fed(server.receive, answer[:-1], way) == answer[: -6 if len(answer) > 6 else 0]
    assert not server.free
    assert fed(server.receive, answer[-1:], way) == IDLE
    assert server.free


def test_a_sync_and_a_query_are_both_answered_by_a_readyforquery(way: str) -> None:
    """Pipelines of both protocols are counted alike."""
    server = new_server()
    server.request()
    server.sync()
    server.query()
    first, second = PARSE_COMPLETE + IDLE, SELECTED + IDLE
    assert fed(server.receive, first, way) == first
    assert not server.free
    assert fed(server.receive, second, way) == second
    assert server.free


def test_what_looks_like_a_readyforquery_inside_a_row_is_not_one(way: str) -> None:
    """Framing is exact: a row full of ReadyForQuery frees nothing."""
    server = new_server()
    server.query()
    assert fed(server.receive, LONG_ROW, way) == LONG_ROW
    assert not server.free
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


# -- A2, A3: open groups and transactions --------------------------------------------------------------------


def test_a_group_without_sync_is_open_even_when_all_is_answered(way: str) -> None:
    """An implicit transaction and its portals are there until Sync."""
    server = new_server()
    server.request()
    assert fed(server.receive, PARSE_COMPLETE, way) == PARSE_COMPLETE
    assert not server.free
    server.sync()
    assert not server.free
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


@pytest.mark.parametrize("ready", [BUSY, FAILED])
def test_an_open_transaction_keeps_the_server(ready: bytes, way: str) -> None:
    """A failed one as well, until its ROLLBACK is answered."""
    server = new_server()
    server.query()
    assert fed(server.receive, SELECTED + ready, way) == SELECTED + ready
    assert not server.free
    server.query()
    assert fed(server.receive, command_complete("ROLLBACK") + IDLE, way)
    assert server.free


# -- A4: COPY ------------------------------------------------------------------------------------------------


def test_a_sync_sent_behind_execute_is_not_answered_if_it_copies(way: str) -> None:
    """libpq sends it; the server ignores it. The one behind CopyDone is answered."""
    server = new_server()
    server.request()
    server.sync()
    assert fed(server.receive, COPY_IN_RESPONSE, way) == COPY_IN_RESPONSE
    server.copy_ended()
    assert fed(server.receive, command_complete("COPY 1"), way)
    assert not server.free
    server.sync()
    assert not server.free
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


def test_every_sync_during_copy_is_ignored(way: str) -> None:
    """Sent before CopyInResponse has come or behind it, in either protocol."""
    for simple in (False, True):
        server = new_server()
        if simple:
            server.query()
        else:
            server.request()
            server.sync()
        server.sync()
        assert fed(server.receive, COPY_IN_RESPONSE, way) == COPY_IN_RESPONSE
        server.sync()
        server.copy_ended()
        if not simple:
            server.sync()
        answer = command_complete("COPY 1") + IDLE
        assert fed(server.receive, answer, way) == answer
        assert server.free


def test_copydone_sent_before_copyinresponse_has_come_is_counted_where_it_was_sent(way: str) -> None:
    """A whole COPY in one write: the Sync in front of CopyDone is ignored, those behind it are answered."""
    server = new_server()
    server.request()
    server.sync()
    server.sync()
    server.copy_ended()
    server.sync()
    server.query()
    answer = COPY_IN_RESPONSE + command_complete("COPY 1") + IDLE + SELECTED
    assert fed(server.receive, answer, way) == answer
    assert not server.free
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


def test_two_copies_in_one_pipeline(way: str) -> None:
    """Each has its own CopyDone."""
    server = new_server()
    for _ in range(2):
        server.request()
        server.sync()
        server.copy_ended()
        server.sync()
    answer = (COPY_IN_RESPONSE + command_complete("COPY 1") + IDLE) * 2
    assert fed(server.receive, answer, way) == answer
    assert server.free


def test_requests_of_ours_behind_a_copy_are_still_told_from_the_clients(way: str) -> None:
    """The COPY's Sync is ignored, so a later group's replies come in this one: edits keep their places."""
    server = new_server()
    server.request()
    server.sync()
    server.copy_ended()
    server.swallow()
    server.request()
    server.edited(Edit(0, Action.FAKE, messages.NO_DATA))
    server.sync()
    answer = COPY_IN_RESPONSE + command_complete("COPY 1")
    ours, theirs = PARSE_COMPLETE, BIND_COMPLETE
    expected = answer + theirs + messages.NO_DATA + IDLE
    assert fed(server.receive, answer + ours + theirs + IDLE, way) == expected
    assert server.free


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_query_behind_a_copy_ends_its_group(failing: int, way: str) -> None:
    """CopyDone, requests and a Query without a Sync: an error in front of the Query skips it, its own does
    not.
    """
    server = new_server()
    server.request()
    server.sync()
    server.copy_ended()
    server.request()
    server.query()
    copied = command_complete("COPY 1")
    match failing:
        case 0:
            answer = COPY_IN_RESPONSE + ERROR
        case 1:
            answer = COPY_IN_RESPONSE + copied + ERROR
        case _:
            answer = COPY_IN_RESPONSE + copied + PARSE_COMPLETE + ERROR + IDLE
    assert fed(server.receive, answer, way) == answer
    assert server.free is (failing == 2)
    if failing < 2:
        server.sync()
        assert fed(server.receive, IDLE, way) == IDLE
        assert server.free


def test_a_second_copy_in_a_merged_group(way: str) -> None:
    """Its CopyDone is found behind it, whatever the first COPY's Sync did to the numbers."""
    server = new_server()
    server.request()
    server.sync()
    server.copy_ended()
    server.request()
    server.request()
    server.request()
    server.copy_ended()
    server.sync()
    answer = COPY_IN_RESPONSE + command_complete("COPY 1") + PARSE_COMPLETE + BIND_COMPLETE
    answer += COPY_IN_RESPONSE + command_complete("COPY 2") + IDLE
    assert fed(server.receive, answer, way) == answer
    assert server.free


def test_a_copydone_in_front_of_a_copy_is_not_its_end(way: str) -> None:
    """A late one, in the same group: the Sync behind Execute is ignored all the same."""
    server = new_server()
    server.request()
    server.copy_ended()
    server.request()
    server.sync()
    answer = PARSE_COMPLETE + COPY_IN_RESPONSE
    assert fed(server.receive, answer, way) == answer
    server.copy_ended()
    server.sync()
    assert fed(server.receive, command_complete("COPY 1") + IDLE, way)
    assert server.free


def test_an_error_during_copy_skips_to_the_next_sync(way: str) -> None:
    """The reopened group stays open through a late CopyDone."""
    server = new_server()
    server.request()
    server.sync()
    assert fed(server.receive, COPY_IN_RESPONSE + ERROR, way) == COPY_IN_RESPONSE + ERROR
    server.copy_ended()
    assert not server.free
    server.sync()
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


def test_a_late_copydone_does_not_end_a_later_copy(way: str) -> None:
    """The simple COPY failed before its CopyDone was sent; the Sync of the next, extended one is ignored all
    the same.
    """
    server = new_server()
    server.query()
    assert fed(server.receive, COPY_IN_RESPONSE + ERROR + BUSY, way)
    server.copy_ended()
    server.request()
    server.sync()
    assert fed(server.receive, COPY_IN_RESPONSE, way) == COPY_IN_RESPONSE
    server.copy_ended()
    server.sync()
    assert fed(server.receive, command_complete("COPY 0") + IDLE, way)
    assert server.free


def test_copy_out_is_over_with_its_readyforquery(way: str) -> None:
    """CopyData may look like anything."""
    server = new_server()
    server.query()
    answer = COPY_OUT_RESPONSE + messages.message(ord("d"), IDLE) + COPY_DONE + command_complete("COPY 1")
    assert fed(server.receive, answer, way) == answer
    assert not server.free
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


# -- a Query in an open group --------------------------------------------------------------------------------


def test_a_query_behind_an_open_group_ends_it(way: str) -> None:
    """There is one ReadyForQuery for both."""
    server = new_server()
    server.request()
    server.query()
    answer = PARSE_COMPLETE + SELECTED + IDLE
    assert fed(server.receive, answer, way) == answer
    assert server.free


@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("known", [False, True])
def test_queries_behind_a_failed_request_are_skipped(queries: int, known: bool, way: str) -> None:
    """Whether the error had come when they were sent or not: only the Sync is answered."""
    server = new_server()
    server.request()
    error = fed(server.receive, ERROR, way) if known else b""
    for _ in range(queries):
        server.query()
    server.sync()
    answer = (b"" if known else ERROR) + IDLE
    assert error + fed(server.receive, answer, way) == ERROR + IDLE
    assert server.free


def test_a_query_that_fails_itself_is_answered(way: str) -> None:
    """Its error stands behind the completions of the group in front."""
    server = new_server()
    server.request()
    server.query()
    answer = PARSE_COMPLETE + ERROR + IDLE
    assert fed(server.receive, answer, way) == answer
    assert server.free


# -- A5, A6: halves of messages ------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 5, 20])
def test_half_a_message_keeps_the_server(size: int) -> None:
    """Bytes behind the last ReadyForQuery are the start of something."""
    server = new_server()
    server.query()
    server.receive(SELECTED + IDLE + NOTICE[:size])
    assert not server.free
    server.receive(NOTICE[size:])
    assert server.free


def test_long_rows_pass_in_pieces_and_nothing_is_kept() -> None:
    """A row longer than any buffer is forwarded as it comes."""
    server = new_server()
    server.query()
    for at in range(0, len(LONG_ROW), 1000):
        assert server.receive(LONG_ROW[at : at + 1000]) == LONG_ROW[at : at + 1000]
        assert server.rest == b""
    assert server.receive(IDLE) == IDLE


def test_a_long_error_passes_unread(way: str) -> None:
    """An ErrorResponse beyond what is held is forwarded in pieces."""
    server = new_server()
    server.query()
    error = messages.error("22000", "x" * MAX_HELD)
    assert server.receive(error[:1000]) == error[:1000]
    assert server.receive(error[1000:]) == error[1000:]
    assert server.receive(IDLE) == IDLE
    assert server.free


@pytest.mark.parametrize("tag", [ord("C"), ord("S"), ord("N")])
def test_other_messages_that_must_be_read_are_bounded(tag: int) -> None:
    """A server cannot make us hold more than MAX_HELD."""
    server = new_server()
    if tag == ord("C"):
        server.query()
    with pytest.raises(ServerFault, match="too long"):
        server.receive(messages.message(tag, b"x" * MAX_HELD)[:-1])


# -- A7: what comes unasked ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message", [NOTICE, NOTIFICATION, messages.parameter_status("application_name", "x")]
)
def test_asynchronous_messages_leave_an_idle_server_free(message: bytes, way: str) -> None:
    """They are consumed; a parameter is remembered."""
    server = new_server()
    fed(server.receive, message, way)
    assert server.free
    assert server.reported.get("application_name") == ("x" if message[0] == ord("S") else "")


def test_an_asynchronous_message_is_never_given_out_in_halves() -> None:
    """The lease may begin in its middle: the client gets all of it or nothing."""
    server = new_server()
    assert server.receive(NOTICE[:20]) == b""
    server.query()
    assert server.receive(NOTICE[20:] + SELECTED + IDLE) == NOTICE + SELECTED + IDLE


def test_asynchronous_messages_pass_in_the_middle_of_replies(way: str) -> None:
    """In plain groups and in edited ones."""
    server = new_server()
    server.swallow()
    server.request()
    server.sync()
    answer = NOTICE + PARSE_COMPLETE + NOTIFICATION + BIND_COMPLETE + NOTICE + IDLE
    assert fed(server.receive, answer, way) == NOTICE + NOTIFICATION + BIND_COMPLETE + NOTICE + IDLE


@pytest.mark.parametrize("waiting", [False, True])
def test_a_fatal_error_announces_the_end(waiting: bool, way: str) -> None:
    """It is not the client's (who would take its own connection for ended), and the server is not free."""
    server = new_server()
    if waiting:
        server.query()
    assert fed(server.receive, FATAL, way) == b""
    assert server.failure is not None
    assert server.failure.sqlstate == "57P01"
    assert not server.free


def test_an_error_that_nobody_asked_for_announces_the_end(way: str) -> None:
    """Whatever its severity."""
    server = new_server()
    assert fed(server.receive, ERROR, way) == b""
    assert server.failure is not None


@pytest.mark.parametrize(
    "message",
    [
        IDLE,
        SELECTED,
        PARSE_COMPLETE,
        COPY_IN_RESPONSE,
        messages.message(ord("W"), b"\0\0\0"),
        b"\0\0\0\0\4",
        b"N\0\0\0\3",
        b"R\0\0\0\x08\0\0\0\0",
    ],
)
def test_what_no_server_sends_is_a_violation(message: bytes, way: str) -> None:
    """Nothing unexpected reaches a client: the connection ends."""
    server = new_server()
    with pytest.raises(ServerFault) as caught:
        fed(server.receive, message, way)
    assert caught.value.reason is Reason.SERVER_PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    "message", [b"Z\0\0\0\4", b"Z\0\0\0\6II", b"Z\0\0\0\5X", b"1\0\0\0\3", b"?\0\0\0\4", b"S\0\0\0\5x"]
)
@pytest.mark.parametrize("edited", [False, True])
def test_malformed_replies_are_violations(message: bytes, edited: bool, way: str) -> None:
    """In plain groups and in edited ones."""
    server = new_server()
    if edited:
        server.swallow()
        server.sync()
    else:
        server.query()
    with pytest.raises(ServerFault) as caught:
        fed(server.receive, message + IDLE, way)
    assert caught.value.reason is Reason.SERVER_PROTOCOL_VIOLATION


def test_a_readyforquery_in_front_of_owed_replies_is_a_violation(way: str) -> None:
    """Edits that were never answered would shift everything behind them."""
    server = new_server()
    server.swallow()
    server.sync()
    with pytest.raises(ServerFault, match="before the replies"):
        fed(server.receive, IDLE, way)


# -- edits ---------------------------------------------------------------------------------------------------


def test_replies_to_our_own_requests_are_swallowed(way: str) -> None:
    """And only those."""
    server = new_server()
    server.request()
    server.swallow()
    server.request()
    server.sync()
    answer = PARSE_COMPLETE + CLOSE_COMPLETE + BIND_COMPLETE + IDLE
    assert fed(server.receive, answer, way) == PARSE_COMPLETE + BIND_COMPLETE + IDLE
    assert server.free


def test_fake_replies_stand_where_the_real_ones_would(way: str) -> None:
    """In front, in the middle, at the end, several in a row."""
    server = new_server()
    fake = [Edit(0, Action.FAKE, messages.message(ord("3"), bytes([n]))) for n in range(4)]
    server.query()
    server.edited(fake[0])
    server.request()
    server.edited(fake[1])
    server.edited(fake[2])
    server.request()
    server.edited(fake[3])
    server.sync()
    assert server.fakes_now() == b""
    replies = [edit.payload for edit in fake]
    answer = fed(server.receive, SELECTED + IDLE + PARSE_COMPLETE + BIND_COMPLETE + IDLE, way)
    expected = [SELECTED, IDLE, replies[0], PARSE_COMPLETE, *replies[1:3], BIND_COMPLETE, replies[3], IDLE]
    assert answer == b"".join(expected)


def test_a_fake_reply_waits_for_the_end_of_the_message_in_front() -> None:
    """It is not put into the middle, and not forgotten when the message ends with the chunk."""
    server = new_server()
    server.request()
    description = messages.message(ord("T"), bytes(1000))
    assert server.receive(description[:100]) == description[:100]
    server.edited(Edit(0, Action.FAKE, CLOSE_COMPLETE))
    assert server.fakes_now() == b""
    assert server.receive(description[100:200]) == description[100:200]
    assert server.receive(description[200:]) == description[200:] + CLOSE_COMPLETE


def test_edits_behind_an_error_are_undone_and_say_nothing(way: str) -> None:
    """Whether they were sent before the error came or behind it."""
    undone: list[int] = []
    server = new_server()
    server.request()
    server.edited(Edit(0, Action.FAKE, CLOSE_COMPLETE, undo=lambda: undone.append(1)))
    server.edited(Edit(0, Action.SWALLOW, undo=lambda: undone.append(2)))
    assert fed(server.receive, ERROR, way) == ERROR
    assert undone == [2, 1]
    server.edited(Edit(0, Action.FORWARD, undo=lambda: undone.append(3)))
    server.swallow()
    server.sync()
    assert undone == [2, 1, 3]
    assert fed(server.receive, IDLE, way) == IDLE
    assert server.free


def test_thousands_of_alternating_groups_in_one_chunk() -> None:
    """No recursion: a client's pipeline cannot exhaust the stack."""
    server = new_server()
    for _ in range(4000):
        server.edited(Edit(0, Action.FAKE, CLOSE_COMPLETE))
        server.sync()
        server.sync()
    assert server.receive(IDLE * 8000) == (CLOSE_COMPLETE + IDLE + IDLE) * 4000
    assert server.free
