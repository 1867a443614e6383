"""Logging in at every PostgreSQL on the machine."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

import pytest

from tests.protocol.conversation import (
    CLIENT_NONCE,
    PASSWORD,
)
from trio_pool.cli.postgres import LocalPostgres
from trio_pool.errors import Reason, ServerFault
from trio_pool.protocol.channel_binding import end_point
from trio_pool.protocol.credentials import ScramSecret
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.installations import Installation

ODD_PASSWORDS: Final = {
    "ascii": "plain ' \\ % password",
    "umlaut": "pässword",
    "not composed": "pa\u0308ssword",
    "roman numeral": "\u2168",
    "no-break space": "a\u00a0b",
    "zero-width space": "a\u200bb",
    "soft hyphen": "a\u00adb",
    "soft hyphen only": "\u00ad",
    "control": "a\u0007b",
    "control among others": "ä\u0007b",
    "private use": "a\ue000b",
    "unassigned in Unicode 3.2": "a\u0221b",
    "emoji": "a\U0001f600b",
    "mixed directions": "\u0627a",
    "right to left": "\u0627\u0628",
    "right to left, ends with a digit": "\u06271",
    "cherokee": "\u13a0\uab70",
    "dz": "\u01c4",
    "hangul": "\u1100\u1161\u11a8",
    "ligature": "\ufb01",
    "composition exclusion": "\u0958",
    "normalised wrongly by Unicode 3.2": "\U0002f868",
    "unassigned, normalised to something older": "\U0001f110",
    "prohibited, normalised to something allowed": "a\u0340b",
    "long": "long " * 40,
}


@pytest.fixture(scope="module")
def origin(installation: Installation, certificates: Certificates) -> Iterator[LocalPostgres]:
    """A PostgreSQL with one user per method, and TLS if it was built with it."""
    tls = certificates.server if installation.has_tls else None
    with LocalPostgres(bin_dir=installation.bin_dir, tls=tls) as postgres:
        methods = {"clear": "password", "hashed": "md5", "scram": "scram-sha-256", "trusted": "trust"}
        lines = [f"host all {user} 127.0.0.1/32 {method}" for user, method in methods.items()]
        lines += ["host all odd,nobody 127.0.0.1/32 scram-sha-256", "local all all trust", ""]
        (postgres.data_dir / "pg_hba.conf").write_text("\n".join(lines))
        postgres.restart()
        postgres.run_sql(
            f"""
            create role clear login password '{PASSWORD}';
            create role scram login password '{PASSWORD}';
            create role trusted login;
            create role odd login;
            set client_min_messages = error;
            set password_encryption = 'md5';
            create role hashed login password '{PASSWORD}';
            """
        )
        yield postgres


def connect(postgres: LocalPostgres, tls: ssl.SSLContext | None) -> tuple[socket.socket, bytes | None]:
    """A connection, and the hash of the server's certificate if it is one over TLS."""
    connection = socket.create_connection((postgres.host, postgres.port), timeout=30)
    if tls is None:
        return connection, None
    connection.sendall(messages.SSL_REQUEST)
    assert connection.recv(1) == b"S"
    encrypted = tls.wrap_socket(connection, server_hostname="localhost")
    der = encrypted.getpeercert(binary_form=True)
    assert der is not None
    return encrypted, end_point(der)


def log_in(
    postgres: LocalPostgres,
    user: str,
    password: str | None = PASSWORD,
    *,
    database: str = "postgres",
    tls: ssl.SSLContext | None = None,
) -> tuple[Login, bytes]:
    """Log in; returns the machine and everything it sent."""
    connection, hashed = connect(postgres, tls)
    machine = Login(
        {"user": user, "database": database, "application_name": "test"},
        password,
        tls=tls is not None,
        channel_binding=hashed,
        allow_cleartext=True,
        client_nonce=CLIENT_NONCE,
    )
    with connection:
        assembler, sent = Assembler(), machine.begin()
        connection.sendall(sent)
        while not machine.done:
            data = connection.recv(65536)
            assert data != b""
            assembler.feed(data)
            while (message := assembler.message()) is not None:
                answer = machine.receive(*message)
                sent += answer
                connection.sendall(answer)
        connection.sendall(messages.TERMINATE)
    return machine, sent


@pytest.mark.e2e
@pytest.mark.parametrize("user", ["clear", "hashed", "scram", "trusted"])
def test_real_servers_let_us_in(user: str, origin: LocalPostgres) -> None:
    """PostgreSQL accepts our login by every method, and what it reports is kept."""
    machine, _ = log_in(origin, user)
    assert machine.parameters["application_name"] == "test"
    assert machine.parameters["server_version"].startswith(str(origin.version))
    assert machine.process_id > 0
    assert (machine.minor, len(machine.secret)) == ((2, 32) if origin.version >= 18 else (0, 4))


@pytest.mark.e2e
@pytest.mark.parametrize("user", ["clear", "hashed", "scram", "trusted"])
def test_real_servers_let_us_in_over_tls(
    user: str, origin: LocalPostgres, certificates: Certificates
) -> None:
    """Over TLS, where it has it, PostgreSQL accepts our login by every method, SCRAM with channel binding."""
    if origin.tls is None:  # built without it: all that can be seen is that it declines
        with connect(origin, None)[0] as connection:
            connection.sendall(messages.SSL_REQUEST)
            assert connection.recv(1) == b"N"
        return
    machine, sent = log_in(origin, user, tls=certificates.client_context())
    assert machine.done
    assert (b"SCRAM-SHA-256-PLUS" in sent) == (user == "scram")


@pytest.mark.e2e
@pytest.mark.parametrize("user", ["clear", "hashed", "scram", "nobody"])
def test_real_servers_refuse_a_wrong_password(user: str, origin: LocalPostgres) -> None:
    """PostgreSQL's own words and SQLSTATE for a wrong password come through; they are ours as well."""
    with pytest.raises(ServerFault) as caught:
        log_in(origin, user, "wrong")
    assert caught.value.message == f'password authentication failed for user "{user}"'
    assert (caught.value.sqlstate, caught.value.reason) == ("28P01", Reason.SERVER_LOGIN_FAILED)


@pytest.mark.e2e
def test_real_servers_refuse_an_unknown_database(origin: LocalPostgres) -> None:
    """PostgreSQL's own SQLSTATE for an unknown database comes through, after a successful authentication."""
    with pytest.raises(ServerFault) as caught:
        log_in(origin, "scram", database="nowhere")
    assert (caught.value.message, caught.value.sqlstate) == ('database "nowhere" does not exist', "3D000")


@pytest.mark.e2e
@pytest.mark.parametrize("password", ODD_PASSWORDS.values(), ids=ODD_PASSWORDS)
def test_real_servers_agree_on_odd_passwords(password: str, origin: LocalPostgres) -> None:
    """What PostgreSQL stores for a password is what we derive from it, and it lets us in with it."""
    literal = "E'" + "".join(f"\\U{ord(c):08x}" for c in password) + "'"
    origin.run_sql(f"set password_encryption = 'scram-sha-256'; alter role odd password {literal}")
    secret = ScramSecret.parse(
        origin.run_sql("select rolpassword from pg_authid where rolname = 'odd'").strip()
    )
    assert secret is not None
    assert ScramSecret.derive(password.encode(), secret.salt, secret.iterations) == secret
    machine, _ = log_in(origin, "odd", password)
    assert machine.done


@pytest.mark.e2e
def test_real_servers_with_few_iterations(origin: LocalPostgres) -> None:
    """Where PostgreSQL allows fewer than 4,096 iterations, the login fails with an error that says how to
    mend it.
    """
    iterations = "set scram_iterations = 1000;" if origin.version >= 16 else ""
    origin.run_sql(f"set password_encryption = 'scram-sha-256'; {iterations} alter role odd password 'few'")
    if not iterations:
        assert log_in(origin, "odd", "few")[0].done
        return
    with pytest.raises(ServerFault, match="1000 iterations, at least 4096 are required") as caught:
        log_in(origin, "odd", "few")
    assert caught.value.reason is Reason.SERVER_LOGIN_FAILED
