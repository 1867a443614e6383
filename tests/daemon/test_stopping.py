"""How the process ends: what its clients are told, what is left in PostgreSQL, the exit status, the log."""

from __future__ import annotations

import re
import signal
import time
import uuid
from typing import TYPE_CHECKING

import attrs
import pytest

from tests.support import requests
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

CANCEL = 4.0
SLACK = 4.0
"""Seconds that a busy machine may add."""
IN_ORDER, AT_ONCE, GAVE_UP = 0, 1, 10
FAREWELL = ("FATAL", "57P01")
CANCELLED = ("ERROR", "57014")
MUCH = "select repeat('x', 1000) from generate_series(1, 100000000)"


def pooler_of(pg: LocalPostgres, *, drain: str, pool_size: int = 2) -> Pooler:
    """A pooler that lets everybody in, without TLS."""
    timeouts = {"drain": drain, "cancel": f"{CANCEL:.0f}s"}
    return Pooler(pg, pool_size=pool_size, tls=False, auth="trust", extra={"timeouts": timeouts})


def log_in(pooler: Pooler) -> RawClient:
    return RawClient.log_in((pooler.host, pooler.port))


def wait_until_nothing_is_left(pooler: Pooler) -> None:
    """Return when PostgreSQL has no session of the pooler's; its processes need a moment to end."""
    until = time.monotonic() + SLACK
    sql = "select coalesce(query, '') from pg_stat_activity where usename = :user"
    while left := pooler.target().ask_origin(sql, user=USER):
        assert time.monotonic() < until, left
        time.sleep(0.01)


def last_words(client: RawClient) -> list[tuple[str, str]]:
    """Severity and SQLSTATE of every error up to the end of the connection, which is at the end of a
    message; and nothing follows a FATAL one.
    """
    errors: list[tuple[str, str]] = []
    while (message := client.receive()) is not None:
        assert errors[-1:] != [FAREWELL]
        if message[0] == Backend.ERROR_RESPONSE:
            error = messages.read_error(message[1])
            errors.append((error.severity, error.sqlstate))
    return errors


# -- what a client can be doing ------------------------------------------------------------------------------


def in_transaction(client: RawClient, marker: str) -> None:
    assert client.run(f"begin; create table stopped (); comment on table stopped is '{marker}'") == []


def in_failed_transaction(client: RawClient, marker: str) -> None:
    assert client.run("begin") == []
    assert [error.sqlstate for error in client.run("select 1/0")] == ["22012"]


def in_query(client: RawClient, marker: str) -> None:
    client.send(messages.query(f"select pg_sleep(60) /* {marker} */"))


def in_query_of_transaction(client: RawClient, marker: str) -> None:
    in_transaction(client, marker)
    in_query(client, marker)


def in_pipeline(client: RawClient, marker: str) -> None:
    one = requests.parse("", f"select pg_sleep(60) /* {marker} */") + requests.bind("")
    client.send((one + requests.execute() + requests.SYNC) * 3)


def in_open_group(client: RawClient, marker: str) -> None:
    """A statement that runs, and no Sync behind it yet."""
    one = requests.parse("", f"select pg_sleep(60) /* {marker} */") + requests.bind("")
    client.send(one + requests.execute() + requests.FLUSH)


def in_copy_in(client: RawClient, marker: str) -> None:
    assert client.run("create temporary table t (a text)") == []
    client.send(messages.query(f"copy t from stdin /* {marker} */") + requests.copy_data(b"never\n"))


def in_extended_copy_in(client: RawClient, marker: str) -> None:
    assert client.run("create temporary table t (a text)") == []
    one = requests.parse("", f"copy t from stdin /* {marker} */") + requests.bind("")
    client.send(one + requests.execute() + requests.FLUSH)


def in_copy_out(client: RawClient, marker: str) -> None:
    client.send(messages.query(f"copy ({MUCH}) to stdout /* {marker} */"))


@attrs.frozen
class Case:
    """A state, and what a stop in it means."""

    bring: Callable[[RawClient, str], None]
    doing: str
    """How the log's words for it begin."""
    errors: int = 1
    """How many of its statements get an error of their own in front of the farewell."""
    rolled_back: bool = False

    @property
    def cancelled(self) -> bool:
        return self.errors > 0


CASES = [
    Case(in_transaction, "idle in transaction", errors=0, rolled_back=True),
    Case(in_failed_transaction, "idle in transaction", errors=0, rolled_back=True),
    Case(in_query, "select pg_sleep($1) /* "),
    Case(in_query_of_transaction, "select pg_sleep($1) /* ", rolled_back=True),
    Case(in_pipeline, "select pg_sleep($1) /* ", errors=3),
    Case(in_open_group, "select pg_sleep($1) /* "),
    Case(in_copy_in, "copy t from stdin /* "),
    Case(in_extended_copy_in, "copy t from stdin /* "),
    Case(in_copy_out, "copy (select repeat("),
]
each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.bring.__name__)


def begin(pooler: Pooler, client: RawClient, case: Case) -> None:
    """Bring the client into the state, and see in PostgreSQL that it is there."""
    marker = uuid.uuid4().hex
    case.bring(client, marker)
    if case.cancelled:
        pooler.target().wait_until_running(marker)


# -- a drain -------------------------------------------------------------------------------------------------


@each_case
def test_what_is_open_is_cancelled_and_not_cut(postgres: LocalPostgres, case: Case) -> None:
    """When `drain` is over a running statement fails with 57014 in sequence, then comes FATAL 57P01; what was
    begun is undone, PostgreSQL has nothing left, the exit status is 10, the log names the client.
    """
    with pooler_of(postgres, drain="300ms") as pooler:
        with log_in(pooler) as idle, log_in(pooler) as client:
            begin(pooler, client, case)
            pooler.signal(signal.SIGTERM)
            assert last_words(idle) == [FAREWELL]
            assert last_words(client) == [CANCELLED] * case.errors + [FAREWELL]
        assert pooler.wait_for_end() == GAVE_UP
        wait_until_nothing_is_left(pooler)
        assert postgres.run_sql("select to_regclass('stopped') is null", DATABASE) == "t\n"

        (given_up,) = pooler.log_events("client given up")
        assert given_up["level"] == "warning"
        assert given_up["pool"] == f"{DATABASE}/{USER}"
        assert re.fullmatch(r"127\.0\.0\.1:\d+", given_up["client"])
        assert given_up["open_for"] >= 0.3
        assert given_up["doing"].startswith(case.doing)
        assert (given_up["cancelled"], given_up["rolled_back"]) == (case.cancelled, case.rolled_back)
        (stopped,) = pooler.log_events("stopped")
        counted = {name: stopped[name] for name in ("given_up", "cancelled", "rolled_back", "at_once")}
        assert counted == {
            "given_up": 1,
            "cancelled": int(case.cancelled),
            "rolled_back": int(case.rolled_back),
            "at_once": False,
        }
        assert "Traceback" not in pooler.log_text()


def test_a_client_that_does_not_read_holds_up_a_stop_for_a_bounded_time(postgres: LocalPostgres) -> None:
    """Nobody can tell it anything in sequence; so it is closed when half of `cancel` is over."""
    with pooler_of(postgres, drain="300ms") as pooler:
        with log_in(pooler) as client:
            marker = uuid.uuid4().hex
            client.send(messages.query(f"{MUCH} /* {marker} */"))
            pooler.target().wait_until_running(marker)
            pooler.signal(signal.SIGTERM)
            assert pooler.wait_for_end(0.3 + CANCEL + SLACK) == GAVE_UP
        wait_until_nothing_is_left(pooler)
        assert "Traceback" not in pooler.log_text()


def test_a_client_in_the_middle_of_a_message_is_told(postgres: LocalPostgres) -> None:
    """What it has begun to send fails like a statement that runs, and does nothing."""
    with pooler_of(postgres, drain="300ms") as pooler:
        with log_in(pooler) as client:
            in_transaction(client, "")
            client.send(messages.query("select '" + "x" * 1_000_000 + "'")[:500_000])
            pooler.signal(signal.SIGTERM)
            assert last_words(client) == [CANCELLED, FAREWELL]
        assert pooler.wait_for_end() == GAVE_UP
        wait_until_nothing_is_left(pooler)


def test_waiting_clients_are_not_given_up(postgres: LocalPostgres) -> None:
    """A client that waits for a server is sent away at once; if that is all, the exit status is 0."""
    with pooler_of(postgres, drain="30s", pool_size=1) as pooler:
        with log_in(pooler) as holder, log_in(pooler) as waiter:
            holder.run("begin; select 1")
            waiter.send(messages.query("select 1"))
            pooler.signal(signal.SIGTERM)
            assert last_words(waiter) == [FAREWELL]
            assert holder.run("commit") == []
            assert last_words(holder) == [FAREWELL]
        assert pooler.wait_for_end() == IN_ORDER
        wait_until_nothing_is_left(pooler)
        assert pooler.log_events("client given up") == []
        (stopped,) = pooler.log_events("stopped")
        assert (stopped["given_up"], stopped["cancelled"], stopped["rolled_back"]) == (0, 0, 0)


# -- a hard stop ---------------------------------------------------------------------------------------------


@each_case
def test_a_hard_stop_cancels_what_runs(postgres: LocalPostgres, case: Case) -> None:
    """A second SIGTERM waits for nobody, yet nothing of ours runs on in PostgreSQL; the client is told; the
    exit status is 1, the log counts.
    """
    with pooler_of(postgres, drain="0") as pooler:
        with log_in(pooler) as client:
            begin(pooler, client, case)
            pooler.signal(signal.SIGTERM)
            pooler.wait_for_event("stopping")
            pooler.signal(signal.SIGTERM)
            words = last_words(client)
            assert words[-1:] in ([FAREWELL], [])  # not in the middle of a row
            assert set(words[:-1]) <= {CANCELLED}
        assert pooler.wait_for_end(1 + SLACK) == AT_ONCE
        wait_until_nothing_is_left(pooler)
        (stopped,) = pooler.log_events("stopped")
        assert (stopped["given_up"], stopped["at_once"]) == (1, True)
        assert stopped["cancelled"] == int(case.cancelled)
        assert len(pooler.log_events("client given up")) == 1
        assert "Traceback" not in pooler.log_text()
