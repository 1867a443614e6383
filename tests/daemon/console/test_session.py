"""The console's side of the protocol, message by message."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.raw import RawClient
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pooler import Pooler

PARSE = messages.parse(b"", b"show version\0\0\0")
BIND = messages.bind(b"", ())
DESCRIBE = messages.message(Frontend.DESCRIBE, b"P\0")
DESCRIBE_STATEMENT = messages.message(Frontend.DESCRIBE, b"S\0")
UNKNOWN = messages.parse(b"", b"show nothing\0\0\0")


@pytest.fixture
def console(pooler: Pooler) -> Iterator[RawClient]:
    with RawClient.log_in((pooler.host, pooler.port), user="admin", database="pgbouncer") as client:
        yield client


def tags(console: RawClient, data: bytes) -> str:
    """Of what comes up to ReadyForQuery."""
    console.send(data)
    return "".join(chr(tag) for tag, _ in console.exchange())


def test_a_client_is_greeted_as_by_pgbouncer(pooler: Pooler) -> None:
    """With the parameters by which programs know it."""
    with RawClient.connect((pooler.host, pooler.port)) as client:
        client.send(messages.startup({"user": "admin", "database": "pgbouncer"}))
        greeting = client.exchange()
    told = dict(
        messages.read_parameter_status(body) for tag, body in greeting if tag == Backend.PARAMETER_STATUS
    )
    assert told["server_version"] == "1.24.1/bouncer"
    assert told["DateStyle"] == "ISO"
    assert "".join(chr(tag) for tag, _ in greeting) == "RSSSSSSSKZ"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (messages.query("show version"), "TDCZ"),
        (messages.query("show help"), "NCZ"),
        (messages.query(""), "IZ"),
        (messages.query("show nothing"), "EZ"),
        (PARSE + BIND + DESCRIBE + messages.EXECUTE + messages.SYNC, "12TDCZ"),
        (PARSE + DESCRIBE_STATEMENT + messages.SYNC, "1tTZ"),
        (PARSE + messages.SYNC + messages.FLUSH, "1Z"),
        (messages.parse(b"", b"pause\0\0\0") + DESCRIBE_STATEMENT + messages.SYNC, "1tnZ"),
        (messages.parse(b"", b"\0\0\0") + BIND + messages.EXECUTE + messages.SYNC, "12IZ"),
        (UNKNOWN + BIND + messages.EXECUTE + messages.SYNC, "EZ"),
        (messages.bind(b"missing", ()) + messages.EXECUTE + messages.SYNC, "EZ"),
        (PARSE + messages.bind(b"", ("1",)) + messages.EXECUTE + messages.SYNC, "1EZ"),
        (PARSE + BIND + messages.SYNC + messages.EXECUTE + messages.SYNC, "12Z"),
        (messages.close_statement(b"missing") + messages.close_portal(b"") + messages.SYNC, "33Z"),
        (messages.SYNC, "Z"),
    ],
)
def test_what_is_sent_is_answered(console: RawClient, sent: bytes, expected: str) -> None:
    """As PostgreSQL answers such messages; an error skips to Sync, and the connection goes on."""
    assert tags(console, sent) == expected
    if sent.endswith(messages.EXECUTE + messages.SYNC) and expected == "12Z":
        assert "".join(chr(tag) for tag, _ in console.exchange()) == "EZ"  # portals end at Sync
    assert tags(console, messages.query("show version")) == "TDCZ"


def test_rows_are_fetched_in_portions(console: RawClient) -> None:
    """A portal keeps what is left, of the moment at which it was first executed."""
    some = messages.message(Frontend.EXECUTE, b"\0\0\0\0\2")
    prepared = messages.parse(b"", b"show state\0\0\0") + BIND
    assert tags(console, prepared + some + some + messages.SYNC) == "12DDsDCZ"


def test_a_statement_has_one_name(console: RawClient) -> None:
    """A second Parse of it fails until it is closed."""
    named = messages.parse(b"s", b"show version\0\0\0")
    assert tags(console, named + messages.SYNC) == "1Z"
    assert tags(console, named + messages.SYNC) == "EZ"
    assert tags(console, messages.close_statement(b"s") + named + messages.SYNC) == "31Z"


@pytest.mark.parametrize(
    "sent",
    [
        messages.message(Frontend.FUNCTION_CALL, b"\0\0\0\1\0\0\0\0\0\0"),
        messages.message(Frontend.BIND, b"\0"),
        messages.message(Frontend.QUERY, b"show version"),
        messages.message(Frontend.EXECUTE, b"\0\0"),
        b"Q\0\0\0\1",
        b"Q\x7f\0\0\0",
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(console: RawClient, sent: bytes) -> None:
    """With 08P01, and nothing else."""
    console.send(sent)
    assert console.farewell() == ("FATAL", "08P01")
