"""What passes as an answer that may be kept: one whole result, and nothing beside it."""

from __future__ import annotations

import pytest

from trio_pool.cache.flight import Flight
from trio_pool.cache.plan import Plan
from trio_pool.cache.shelf import Shelf
from trio_pool.protocol.settings import NONE
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend, Status

ROW = messages.message(Backend.DATA_ROW, b"\0\1\0\0\0\1x")
DESCRIPTION = messages.message(Backend.ROW_DESCRIPTION, b"\0\0")
DONE = messages.command_complete("SELECT 1")
READY = messages.READY[Status.IDLE]
RESULT = DESCRIPTION + ROW + DONE + READY


def flight(limit: int = 1000) -> Flight:
    return Flight(Shelf(NONE, NONE), b"key", Plan(None), 0, 0.0, limit=limit, statement=None)


@pytest.mark.parametrize("cut", range(len(RESULT)))
def test_an_answer_is_whole_however_it_comes(cut: int) -> None:
    """In one piece or in two, cut anywhere."""
    passing = flight()
    if cut:
        passing.took(RESULT[:cut])
        assert passing.reply == b""
    passing.took(RESULT[cut:])
    assert passing.reply == RESULT


def test_an_answer_is_whole_byte_by_byte() -> None:
    """As from the slowest of networks."""
    passing = flight()
    for byte in RESULT:
        assert passing.reply == b""
        passing.took(bytes([byte]))
    assert passing.reply == RESULT


@pytest.mark.parametrize(
    "answer",
    [
        messages.error("22012", "division by zero") + READY,
        messages.notice("00000", "beware") + RESULT,
        RESULT[: -len(READY)] + messages.READY[Status.IN_TRANSACTION],
        RESULT + RESULT,
        RESULT + messages.parameter_status("TimeZone", "UTC"),
        messages.parameter_status("TimeZone", "UTC") + RESULT,
        messages.message(Backend.NOTIFICATION_RESPONSE, b"\0\0\0\1c\0p\0") + RESULT,
        DESCRIPTION + ROW + messages.message(Backend.PORTAL_SUSPENDED) + READY,
        messages.message(Backend.EMPTY_QUERY_RESPONSE) + READY,
        messages.message(Backend.COPY_OUT_RESPONSE, b"\0\0\0") + READY,
    ],
)
def test_whatever_else_comes_spoils_it(answer: bytes) -> None:
    """Errors, notices, transactions, second answers, what comes by chance, and parts of results."""
    passing = flight()
    passing.took(answer)
    assert passing.spoiled
    assert passing.reply == b""


def test_what_is_too_large_is_let_go_at_once() -> None:
    """It is not collected until its end."""
    passing = flight(limit=50)
    for _ in range(100):
        passing.took(ROW)
    assert passing.spoiled == "result too large"
    assert not passing._chunks


def test_a_row_may_look_like_the_end() -> None:
    """Row data is never taken for a message."""
    row = messages.message(Backend.DATA_ROW, b"\0\1" + len(READY).to_bytes(4, "big") + READY)
    passing = flight()
    passing.took(DESCRIPTION + row)
    assert not passing.whole
    passing.took(DONE + READY)
    assert passing.reply == DESCRIPTION + row + DONE + READY
