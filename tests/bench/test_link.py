"""The link is a network: late, in order, whole, and with the ends of streams where they belong."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from bench import companion, link, poolers
from bench.login import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

EACH_WAY = 0.02
ANSWER_SECONDS = 20.0


@contextlib.contextmanager
def echo() -> Iterator[int]:
    """A server for one client, which sends back what it gets and ends its stream when the client does."""
    with socket.create_server((HOST, 0)) as listener:
        listener.settimeout(ANSWER_SECONDS)

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as server:
                while received := server.recv(65536):
                    server.sendall(received)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.close()
            thread.join(ANSWER_SECONDS)


@pytest.fixture
def client() -> Iterator[socket.socket]:
    """Connected to `echo` through a link."""
    with (
        echo() as port,
        link.link(port, EACH_WAY * 1e3) as between,
        socket.create_connection((HOST, between.port), ANSWER_SECONDS) as connected,
    ):
        yield connected


def receive_all(client: socket.socket) -> bytes:
    """Up to the end of the stream."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def test_both_ways_are_delayed(client: socket.socket) -> None:
    """No answer comes sooner than after twice the delay (each may be a tick short), on a used connection
    neither.
    """
    for text in (b"first", b"second"):
        begin = time.monotonic()
        client.sendall(text)
        received = client.recv(100)
        taken = time.monotonic() - begin
        assert received == text
        assert taken >= 2 * (EACH_WAY - link.TICK_SECONDS)


def test_the_end_of_a_stream_comes_after_its_bytes(client: socket.socket) -> None:
    """A client that says goodbye gets the answers that were under way, then the end."""
    client.sendall(b"goodbye")
    client.shutdown(socket.SHUT_WR)
    assert receive_all(client) == b"goodbye"


def test_more_than_a_window_arrives_whole(client: socket.socket) -> None:
    """Neither a slow reader nor the bound on what is under way loses or reorders anything."""
    sent = b"".join(number.to_bytes(4) for number in range(link.WINDOW_BYTES))

    def send() -> None:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    received = receive_all(client)
    sender.join(ANSWER_SECONDS)
    assert received == sent


def test_an_origin_that_is_not_there() -> None:
    """Who connects to nothing is disconnected, and the link goes on."""
    with link.link(poolers.free_port(), 0) as between:
        for _ in range(2):
            with socket.create_connection((HOST, between.port), ANSWER_SECONDS) as client:
                assert client.recv(1) == b""


def test_what_is_said_first_waits_for_the_handshake() -> None:
    """With it, the first answer takes two round trips, as over TCP, and the next one."""
    with (
        echo() as port,
        link.link(port, EACH_WAY * 1e3, handshake=True) as between,
        socket.create_connection((HOST, between.port), ANSWER_SECONDS) as client,
    ):
        taken = []
        for text in (b"first", b"second"):
            begin = time.monotonic()
            client.sendall(text)
            assert client.recv(100) == text
            taken.append(time.monotonic() - begin)
    assert taken[0] >= 4 * EACH_WAY
    assert taken[1] >= 2 * EACH_WAY
    assert taken[1] < taken[0]


def test_bandwidth() -> None:
    """A hundred kilobytes at a megabyte per second take a tenth of a second in each direction."""
    size, bandwidth = 100_000, 1e6
    with (
        echo() as port,
        companion.running("bench.link", HOST, str(port), "0", str(bandwidth), ready_seconds=10) as process,
        socket.create_connection((HOST, int(process.ready)), ANSWER_SECONDS) as client,
    ):
        begin = time.monotonic()
        client.sendall(bytes(size))
        client.shutdown(socket.SHUT_WR)
        assert receive_all(client) == bytes(size)
        assert time.monotonic() - begin >= size / bandwidth


def test_it_says_how_many_crossings_there_were() -> None:
    """At its end, of all connections together."""
    with echo() as port, companion.running("bench.link", HOST, str(port), "0", ready_seconds=10) as process:
        with socket.create_connection((HOST, int(process.ready)), ANSWER_SECONDS) as client:
            for text in (b"first", b"second"):
                client.sendall(text)
                assert client.recv(100) == text
        assert process.finish() == "2"
