"""Clients that read slowly cost themselves time, and others nothing."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from trio_pool.wire import messages

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


def slow_reader(pooler: Pooler) -> RawClient:
    """A client whose socket holds little, so that its answers pile up in the pooler's."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(15)
    sock.connect((pooler.host, pooler.port))
    client = RawClient(sock)
    client.send(messages.startup({"user": "app", "database": "app"}))
    assert client.errors() == []
    return client


def test_the_last_piece_of_an_answer_may_get_stuck(postgres: LocalPostgres) -> None:
    """Wherever an answer stops to fit the slow client's socket, the server's next client gets its own.

    The sizes are close enough to each other that for some of them the last piece, with ReadyForQuery, does
    not fit.
    """
    with (
        Pooler(postgres, pool_size=1, tls=False, auth="trust") as pooler,
        slow_reader(pooler) as slow,
        RawClient.log_in((pooler.host, pooler.port)) as other,
    ):
        for size in range(20_000, 3_000_000, 40_000):
            slow.send(messages.query(f"select repeat('x', {size})"))
            other.send(messages.query("select 'mine'"))
            slow_answer = slow.exchange()
            assert max(len(body) for _, body in slow_answer) > size
            answer = other.exchange()
            assert any(b"mine" in body for _, body in answer)


def test_who_reads_late_gets_everything(postgres: LocalPostgres) -> None:
    """A client that asks and asks before it reads gets all answers, in order; others are served before and
    after.
    """
    asked = 1500
    with (
        Pooler(postgres, pool_size=1, tls=False, auth="trust") as pooler,
        slow_reader(pooler) as late,
        RawClient.log_in((pooler.host, pooler.port)) as other,
    ):
        for n in range(asked):
            late.send(messages.query(f"select {n}, repeat('x', 3000)"))
            if n < asked // 3:  # what fits the sockets leaves the only server to others
                assert other.value("select 'mine'") == "mine"
        for n in range(asked):
            rows = [body for tag, body in late.exchange() if tag == ord("D")]
            assert rows[0].startswith(b"\0\2" + len(str(n)).to_bytes(4, "big") + str(n).encode())
        assert other.value("select 'mine'") == "mine"
