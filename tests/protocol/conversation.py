"""Both sides of a login, connected without a network: messages pass whole and in order, or tampered with."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from typing import Final

import attrs
import pytest

from trio_pool.errors import ClientFault
from trio_pool.protocol.auth import Authentication, Credentials
from trio_pool.protocol.credentials import ScramSecret, md5_digest
from trio_pool.protocol.login import Login
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import Status

USER: Final = "app"
PASSWORD: Final = "pässword 1"
SALT: Final = b"\1\2\3\4"
SERVER_NONCE: Final = "server+nonce/18bytes=="
CLIENT_NONCE: Final = "client-nonce"
MOCK_KEY: Final = bytes(range(32))
BINDING: Final = bytes(range(100, 132))

FITTING = [
    ("password", "clear"),
    ("password", "md5"),
    ("password", "scram"),
    ("md5", "clear"),
    ("md5", "md5"),
    ("md5", "scram"),
    ("scram-sha-256", "clear"),
    ("scram-sha-256", "scram"),
]
CHALLENGING = ["password", "md5", "scram-sha-256"]
PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
FAILED = f'password authentication failed for user "{USER}"'

Tamper = Callable[[str, bytes], bytes]
"""`tamper(sender, body)` returns the body that arrives; the sender is "client" or "server"."""


def stored(kind: str, password: str = PASSWORD, user: str = USER) -> str:
    """A secret as it is configured, of kind "clear", "md5" or "scram"."""
    raw = password.encode()
    match kind:
        case "clear":
            return password
        case "md5":
            return "md5" + md5_digest(raw, user.encode())
        case _:
            return str(ScramSecret.derive(raw, b"sixteen bytes ss"))


def authentication(
    method: str,
    credentials: Credentials | None,
    *,
    user: str = USER,
    binding: bytes | None = None,
    tls: bool | None = None,
    names: frozenset[str] | None = None,
    mock_scram: bool = False,
) -> Authentication:
    """The server's side, with fixed randomness."""
    return Authentication(
        method,
        user,
        credentials,
        salt=SALT,
        nonce=SERVER_NONCE,
        channel_binding=binding,
        tls=binding is not None if tls is None else tls,
        certificate_names=names,
        mock_key=MOCK_KEY,
        mock_scram=mock_scram,
    )


def login(
    password: str | None = PASSWORD,
    *,
    user: str = USER,
    binding: bytes | None = None,
    tls: bool | None = None,
    allow_cleartext: bool = True,
) -> Login:
    """The client's side, with fixed randomness."""
    return Login(
        {"user": user, "database": "db"},
        password,
        tls=binding is not None if tls is None else tls,
        channel_binding=binding,
        allow_cleartext=allow_cleartext,
        client_nonce=CLIENT_NONCE,
    )


@attrs.define(eq=False)
class Conversation:
    """A client logging in at a server. `transcript` has who sent what, after tampering."""

    client: Login
    server: Authentication
    tamper: Tamper = lambda _direction, body: body
    transcript: list[tuple[str, int, bytes]] = attrs.field(factory=list)

    def run(self) -> None:
        """Until the client is done; raises what either side raises."""
        self.client.begin()
        to_client = self.server.begin()
        while not self.server.done:
            answer = self._deliver("server", to_client)
            to_client = self._deliver("client", answer)
        self._deliver("server", to_client + greeting())

    def _deliver(self, sender: str, data: bytes) -> bytes:
        assembler, answer = Assembler(), b""
        assembler.feed(data)
        while (message := assembler.message()) is not None:
            tag, body = message[0], self.tamper(sender, message[1])
            self.transcript.append((sender, tag, body))
            answer += self.client.receive(tag, body) if sender == "server" else self.server.receive(body)
        assert assembler.rest() == b""
        return answer


def greeting() -> bytes:
    """What follows a successful authentication."""
    return (
        messages.AUTHENTICATION_OK
        + messages.parameter_status("server_version", "18.0")
        + messages.backend_key_data(4711, b"key!")
        + messages.READY[Status.IDLE]
    )


# -- one side alone ------------------------------------------------------------------------------------------


def fault_of(conversation: Conversation) -> ClientFault:
    """The fault with which the server ends it."""
    with pytest.raises(ClientFault) as caught:
        conversation.run()
    assert not conversation.server.done
    assert not conversation.client.done
    return caught.value


def refusal(machine: Authentication, *bodies: bytes) -> tuple[str, str]:
    """Message and SQLSTATE with which a machine that has begun refuses the last of some messages."""
    *first, last = bodies
    for body in first:
        machine.receive(body)
    with pytest.raises(ClientFault) as caught:
        machine.receive(last)
    assert not machine.done
    return caught.value.message, caught.value.sqlstate


def begun(method: str, secret: str | None = PASSWORD, **options: object) -> Authentication:
    machine = authentication(method, Credentials.parse(USER, secret), **options)  # type: ignore[arg-type]
    machine.begin()
    return machine


def initial(data: bytes, mechanism: str = PLAIN) -> bytes:
    """The body of a SASLInitialResponse."""
    return messages.sasl_initial_response(mechanism, data)[5:]


def client_final(password: bytes, secret: ScramSecret, bare: str, server_first: str, cbind: bytes) -> bytes:
    """An independent client-final-message (RFC 5802 section 3)."""
    without_proof = f"c={base64.b64encode(cbind).decode()},r={server_first.split(',')[0][2:]}"
    salted = hashlib.pbkdf2_hmac("sha256", password, secret.salt, secret.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    message = f"{bare},{server_first},{without_proof}".encode()
    signature = hmac.digest(hashlib.sha256(client_key).digest(), message, "sha256")
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()
