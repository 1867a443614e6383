"""Authentication of clients: what libpq makes of our side."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.protocol.conversation import (
    CHALLENGING,
    FITTING,
    PASSWORD,
    USER,
    authentication,
    greeting,
    stored,
)
from trio_pool.errors import ClientFault
from trio_pool.protocol.auth import Authentication, Credentials
from trio_pool.protocol.channel_binding import end_point
from trio_pool.protocol.credentials import ScramSecret
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.startup import Negotiation, StartupMessage, read_startup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.certificates import Certificates


@contextlib.contextmanager
def listening(
    make: Callable[[str, bool], Authentication], tls: ssl.SSLContext | None
) -> Iterator[tuple[str, list[Authentication]]]:
    """A server that logs one client in; yields the connection string, and the machine once it is there."""
    machines: list[Authentication] = []

    def serve() -> None:
        connection, _ = listener.accept()
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: connection.close())
            assembler, encrypted = Assembler(), False
            while True:
                while (packet := assembler.startup()) is None:
                    assembler.feed(connection.recv(65536))
                startup = read_startup(packet)
                if not isinstance(startup, Negotiation):
                    break
                accepted = startup is Negotiation.SSL and tls is not None
                connection.sendall(b"S" if accepted else b"N")
                if accepted and tls is not None:
                    connection, encrypted = tls.wrap_socket(connection, server_side=True), True
            assert isinstance(startup, StartupMessage)
            machine = make(startup.parameters["user"], encrypted)
            machines.append(machine)
            try:
                connection.sendall(machine.begin())
                while not machine.done:
                    while (message := assembler.message()) is None:
                        if not (data := connection.recv(65536)):
                            return
                        assembler.feed(data)
                    connection.sendall(machine.receive(message[1]))
                connection.sendall(greeting())
                connection.recv(1)
            except ClientFault as fault:
                connection.sendall(messages.error(fault.sqlstate, fault.message, severity="FATAL"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"host=localhost hostaddr=127.0.0.1 port={listener.getsockname()[1]} dbname=db", machines
        finally:
            thread.join(30)
            assert not thread.is_alive()


def server_tls(certificates: Certificates) -> tuple[ssl.SSLContext, bytes]:
    """The server's TLS, and the hash of its certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server_certificate, certificates.server_key)
    pem = certificates.server_certificate.read_text().split("-----END CERTIFICATE-----")[0]
    binding = end_point(ssl.PEM_cert_to_DER_cert(pem + "-----END CERTIFICATE-----\n"))
    assert binding is not None
    return context, binding


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize(("method", "kind"), FITTING)
def test_libpq_logs_in(method: str, kind: str, encrypted: bool, certificates: Certificates) -> None:
    """libpq logs in with every method; over TLS it is told to require channel binding of SCRAM."""
    context, binding = server_tls(certificates)
    secret = stored(kind)

    def make(user: str, tls: bool) -> Authentication:
        credentials = Credentials.parse(user, secret)
        return authentication(method, credentials, user=user, binding=binding if tls else None)

    scram = method == "scram-sha-256" or (method, kind) == ("md5", "scram")
    options = f"sslrootcert={certificates.ca} sslmode={'verify-full' if encrypted else 'disable'}"
    options += f" channel_binding={'require' if scram and encrypted else 'prefer'}"
    with listening(make, context if encrypted else None) as (where, machines):
        psycopg.connect(f"{where} {options}", user=USER, password=PASSWORD).close()
        assert [machine.done for machine in machines] == [True]


@pytest.mark.parametrize("method", CHALLENGING)
@pytest.mark.parametrize("user", [USER, "nobody"])
def test_libpq_is_refused(method: str, user: str) -> None:
    """libpq reports a wrong password and a missing user with PostgreSQL's sentence."""

    def make(user: str, _tls: bool) -> Authentication:
        credentials = Credentials.parse(user, PASSWORD) if user == USER else None
        return authentication(method, credentials, user=user)

    with (
        listening(make, None) as (where, _),
        pytest.raises(
            psycopg.OperationalError, match=f'FATAL:  password authentication failed for user "{user}"'
        ),
    ):
        psycopg.connect(f"{where} sslmode=disable", user=user, password="wrong")


def test_libpq_logs_in_with_few_iterations() -> None:
    """libpq logs in with a secret of fewer iterations than RFC 7677 asks for."""
    secret = str(ScramSecret.derive(PASSWORD.encode(), b"salt", 10))

    def make(user: str, _tls: bool) -> Authentication:
        return authentication("scram-sha-256", Credentials.parse(user, secret), user=user)

    with listening(make, None) as (where, machines):
        psycopg.connect(f"{where} sslmode=disable", user=USER, password=PASSWORD).close()
        assert [machine.done for machine in machines] == [True]
