"""Transports: the same promises over a plain and a TLS connection."""

from __future__ import annotations

import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING

import attrs
import pytest

from trio_pool.net.transport import PlainTransport, TLSTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from trio_pool.net.transport import Transport

SECONDS = 5.0
BIG = bytes(range(256)) * 4096 * 4  # 4 MiB, more than both socket buffers


@attrs.define(eq=False)
class Ends:
    """Two transports that are connected to each other, and the sockets below them."""

    near: Transport
    far: Transport
    near_sock: socket.socket
    far_sock: socket.socket
    encrypted: bool


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Real TCP: resets and half-closes are as they are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        far, _ = server.accept()
    for sock in (near, far):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return near, far


def contexts(certificates: Certificates, version: ssl.TLSVersion) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server_certificate, certificates.server_key)
    client = certificates.client_context()
    server.minimum_version = server.maximum_version = version
    return client, server


def shake_hands(client: TLSTransport, server: TLSTransport) -> None:
    done = {client: False, server: False}
    while not all(done.values()):
        for one in (client, server):
            if not done[one]:
                done[one] = one.handshake()
                if not done[one]:
                    one.receive_handshake()


@pytest.fixture(params=["plain", "tls1.2", "tls1.3"])
def ends(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Ends]:
    near_sock, far_sock = tcp_pair()
    near, far = PlainTransport(near_sock), PlainTransport(far_sock)
    if request.param == "plain":
        made = Ends(near, far, near_sock, far_sock, False)
    else:
        version = ssl.TLSVersion.TLSv1_2 if request.param == "tls1.2" else ssl.TLSVersion.TLSv1_3
        client, server = contexts(certificates, version)
        near_tls = TLSTransport(near, client, server_side=False, server_hostname="localhost")
        far_tls = TLSTransport(far, server, server_side=True)
        shake_hands(near_tls, far_tls)
        made = Ends(near_tls, far_tls, near_sock, far_sock, True)
    yield made
    near_sock.close()
    far_sock.close()


def receive(transport: Transport, size: int) -> bytes:
    """So many bytes; waits for them."""
    received = b""
    while len(received) < size:
        data = transport.receive()
        if data is None:
            assert select.select([transport.fileno()], [], [], SECONDS)[0], f"{len(received)} of {size}"
            continue
        assert data, f"the end after {len(received)} of {size}"
        received += data
    return received


def wait_for_end(transport: Transport) -> None:
    """Return at the end of the stream."""
    while (data := transport.receive()) != b"":
        assert data is None
        assert select.select([transport.fileno()], [], [], SECONDS)[0]


def test_delivers_what_was_sent(ends: Ends) -> None:
    """Both ways, many times, in order; None when there is nothing."""
    assert ends.near.receive() is None
    for number in range(50):
        data = b"%d" % number * 100
        assert ends.near.send(data)
        assert receive(ends.far, len(data)) == data
        assert ends.far.send(data)
        assert receive(ends.near, len(data)) == data
    assert ends.near.receive() is None
    assert ends.near.error is None


def test_keeps_what_could_not_be_sent(ends: Ends) -> None:
    """A short write says so; the rest stays, in front of what comes later, until `flush` says it is gone."""
    assert not ends.near.send(BIG)
    assert ends.near.pending
    assert not ends.near.flush()
    assert not ends.near.send(b"behind it")
    expected = BIG + b"behind it"
    received = b""
    while len(received) < len(expected):
        data = ends.far.receive()
        if data:
            received += data
        elif ends.near.pending:
            ends.near.flush()
        else:
            assert select.select([ends.far.fileno()], [], [], SECONDS)[0]
    assert received == expected
    assert not ends.near.pending
    assert ends.near.send(b"again")
    assert receive(ends.far, 5) == b"again"


def test_flush_of_nothing(ends: Ends) -> None:
    """Everything is on its way already."""
    assert ends.near.flush()
    assert not ends.near.pending


def test_the_end(ends: Ends) -> None:
    """After `shutdown` the other side gets the rest, then the end for ever; in plain the way back works."""
    assert ends.near.send(b"last words")
    ends.near.shutdown()
    assert receive(ends.far, 10) == b"last words"
    wait_for_end(ends.far)
    assert ends.far.receive() == b""
    if not ends.encrypted:
        assert ends.far.send(b"answer")
        assert receive(ends.near, 6) == b"answer"


def test_close_is_an_end(ends: Ends) -> None:
    """Closing tells the other side; TLS with a close_notify, so that it is no truncation."""
    assert ends.far.send(b"hello")  # and TLS 1.3's session tickets: closing with something unread would reset
    assert receive(ends.near, 5) == b"hello"
    assert ends.near.send(b"bye")
    ends.near.close()
    assert receive(ends.far, 3) == b"bye"
    wait_for_end(ends.far)
    assert ends.far.error is None


def test_a_truncation_is_an_end(ends: Ends) -> None:
    """A connection that is cut without close_notify ends, too, and raises nothing."""
    ends.near_sock.close()
    wait_for_end(ends.far)


def test_a_reset_is_an_end_with_a_cause(ends: Ends) -> None:
    """RST is not raised: reading finds the end, `error` knows why, writing pretends."""
    ends.near_sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ends.near_sock.close()
    wait_for_end(ends.far)
    assert isinstance(ends.far.error, ConnectionResetError)
    assert ends.far.send(b"to nobody")
    assert not ends.far.pending
    ends.far.close()


def test_writing_to_who_is_gone(ends: Ends) -> None:
    """Neither an error nor a memory that grows: it is as if it were on its way."""
    ends.near_sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert not ends.far.send(BIG)
    ends.near_sock.close()
    while ends.far.pending:
        assert select.select([], [ends.far.fileno()], [], SECONDS)[1]
        ends.far.flush()
    for _ in range(10):
        assert ends.far.send(BIG)
    assert not ends.far.pending
    assert ends.far.receive() == b""


def test_bytes_one_by_one(ends: Ends) -> None:
    """However the network cuts it, nothing is lost, and what is not whole is nothing."""
    middle_in, middle_out = tcp_pair()
    try:
        # The far end reads from `middle_out`; whatever near sends is passed on byte by byte.
        assert ends.near.send(b"cut into pieces")
        assert select.select([ends.far_sock], [], [], SECONDS)[0]
        wire = ends.far_sock.recv(1 << 16)
        plain = ends.far._plain if isinstance(ends.far, TLSTransport) else ends.far
        assert isinstance(plain, PlainTransport)
        plain.sock = middle_out
        received = b""
        for place in range(len(wire)):
            middle_in.send(wire[place : place + 1])
            assert select.select([middle_out], [], [], SECONDS)[0]
            received += ends.far.receive() or b""
        assert received == b"cut into pieces"
        plain.sock = ends.far_sock
    finally:
        middle_in.close()
        middle_out.close()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_data_behind_the_handshake(certificates: Certificates, version: ssl.TLSVersion) -> None:
    """`decrypted` finds what came with the last record of the handshake: the socket is not readable again."""
    near_sock, far_sock = tcp_pair()
    with near_sock, far_sock:
        client_context, server_context = contexts(certificates, version)
        client = TLSTransport(
            PlainTransport(near_sock), client_context, server_side=False, server_hostname="localhost"
        )
        server = TLSTransport(PlainTransport(far_sock), server_context, server_side=True)
        wire = b""
        while not client.handshake():
            assert select.select([far_sock], [], [], SECONDS)[0]
            assert server.receive_handshake()
            server.handshake()
            assert select.select([near_sock], [], [], SECONDS)[0]
            assert client.receive_handshake()
        client.send(b"first words")
        assert select.select([far_sock], [], [], SECONDS)[0]
        while True:  # the last flight and the data, in one piece
            try:
                wire += far_sock.recv(1 << 16)
            except BlockingIOError:
                break
        server.feed_handshake(wire)
        server.handshake()
        assert server.decrypted() == b"first words"
        assert server.decrypted() is None


def test_data_and_close_notify_together(ends: Ends) -> None:
    """The data comes first, then the end."""
    assert ends.near.send(b"data")
    ends.near.close()
    assert select.select([ends.far.fileno()], [], [], SECONDS)[0]
    assert receive(ends.far, 4) == b"data"
    wait_for_end(ends.far)


def test_a_failed_handshake_tells_the_peer(certificates: Certificates) -> None:
    """Nonsense raises `SSLError`, behind an alert that the peer can read."""
    near_sock, far_sock = tcp_pair()
    with near_sock, far_sock:
        _, context = contexts(certificates, ssl.TLSVersion.TLSv1_3)
        server = TLSTransport(PlainTransport(far_sock), context, server_side=True)
        near_sock.send(b"\x16\x03\x01\x00\x05hello")
        assert select.select([far_sock], [], [], SECONDS)[0]
        assert server.receive_handshake()
        with pytest.raises(ssl.SSLError):
            server.handshake()
        assert select.select([near_sock], [], [], SECONDS)[0]
        assert near_sock.recv(100)[:1] == b"\x15"  # alert


def test_nonsense_inside_tls_is_an_end(certificates: Certificates) -> None:
    """A record that does not decrypt ends the connection and leaves its cause; nothing of it is delivered."""
    near_sock, far_sock = tcp_pair()
    with near_sock, far_sock:
        client_context, server_context = contexts(certificates, ssl.TLSVersion.TLSv1_3)
        client = TLSTransport(
            PlainTransport(near_sock), client_context, server_side=False, server_hostname="localhost"
        )
        server = TLSTransport(PlainTransport(far_sock), server_context, server_side=True)
        shake_hands(client, server)
        near_sock.send(b"\x17\x03\x03\x00\x20" + bytes(32))
        wait_for_end(server)
        assert isinstance(server.error, ssl.SSLError)
