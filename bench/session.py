"""A connection of our own load clients: blocking, with or without TLS, logged in on trust or with SCRAM.

Just enough of the protocol. It must never be what is measured: deriving keys from a password costs a client
milliseconds, which is its own business and no server's, so only the first connection of a load does it; the
others log in with its keys, as drivers do that keep them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Self

import attrs
from scramp import ScramClient, ScramException

from trio_pool.protocol.credentials import ScramKeys
from trio_pool.protocol.scram_keys import KeyedScramClient, KeysDoNotFit

from .problems import TargetError

if TYPE_CHECKING:
    from .login import Login

SECONDS = 30.0
PROTOCOL = 3 << 16
SSL_REQUEST = struct.pack("!II", 8, 80877103)
TERMINATE = b"X\0\0\0\4"
READY_FOR_QUERY = b"Z\0\0\0\5I"
MECHANISM = "SCRAM-SHA-256"

# Authentication requests: codes of the message R.
OK, SASL, SASL_CONTINUE, SASL_FINAL = 0, 10, 11, 12


@attrs.define(eq=False)
class Session:
    """Messages in and out; `TargetError` when the other side says ERROR or goes away."""

    wire: socket.socket
    received: bytearray = attrs.field(factory=bytearray)
    keys: ScramKeys | None = attrs.field(default=None, repr=False)

    @classmethod
    def connect(
        cls,
        login: Login,
        context: ssl.SSLContext | None,
        source: str | None = None,
        keys: ScramKeys | None = None,
    ) -> Self:
        """Logged in, past the first ReadyForQuery; `context` if there is to be TLS. Raises `OSError` too.

        With `keys` of an earlier session they are used in place of the password, if it is SCRAM.
        """
        plain = socket.create_connection((login.host, login.port), SECONDS, (source, 0) if source else None)
        try:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = plain if context is None else cls._secured(plain, context, login.host)
            session = cls(wire, keys=keys)
            session._log_in(login)
        except (ScramException, KeysDoNotFit) as error:
            plain.close()
            raise TargetError(f"SCRAM failed: {error!r}") from None
        except BaseException:
            plain.close()
            raise
        return session

    @staticmethod
    def _secured(plain: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
        plain.sendall(SSL_REQUEST)
        if plain.recv(1) != b"S":
            raise TargetError("no TLS is offered")
        return context.wrap_socket(plain, server_hostname=host)

    def _log_in(self, login: Login) -> None:
        parameters = f"user\0{login.user}\0database\0{login.database}\0\0".encode()
        self.wire.sendall(struct.pack("!II", 8 + len(parameters), PROTOCOL) + parameters)
        scram: ScramClient | KeyedScramClient | None = None
        while True:
            kind, body = self.message()
            if kind == b"Z":
                return
            if kind != b"R":
                continue
            (code,) = struct.unpack_from("!I", body)
            if code == SASL:
                scram = self._scram(login.password or "")
                first = scram.get_client_first().encode()
                start = MECHANISM.encode() + b"\0" + struct.pack("!I", len(first)) + first
                self.send(b"p", start)
            elif code == SASL_CONTINUE and scram is not None:
                scram.set_server_first(body[4:].decode())
                if not isinstance(scram, KeyedScramClient):
                    self.keys = derived(login.password or "", bytes(scram.salt), int(scram.iterations))
                self.send(b"p", scram.get_client_final().encode())
            elif code == SASL_FINAL and scram is not None:
                scram.set_server_final(body[4:].decode())
            elif code != OK:
                raise TargetError(f"it asks for a way to log in that the load has not (code {code})")

    def _scram(self, password: str) -> ScramClient | KeyedScramClient:
        if self.keys is None:
            return ScramClient([MECHANISM], "*", password)
        return KeyedScramClient.create([MECHANISM], self.keys, None, secrets.token_urlsafe())

    def send(self, kind: bytes, body: bytes) -> None:
        self.wire.sendall(kind + struct.pack("!I", 4 + len(body)) + body)

    def query(self, text: str) -> None:
        """Simple Query; nothing is read."""
        self.send(b"Q", text.encode() + b"\0")

    def message(self) -> tuple[bytes, bytes]:
        """The next one, kind and body."""
        while len(self.received) < 5:
            self._receive()
        end = 1 + int.from_bytes(self.received[1:5])
        while len(self.received) < end:
            self._receive()
        kind, body = bytes(self.received[:1]), bytes(self.received[5:end])
        del self.received[:end]
        if kind == b"E":
            raise TargetError(error_text(body))
        return kind, body

    def _receive(self) -> None:
        chunk = self.wire.recv(65536)
        if not chunk:
            raise TargetError("it closed the connection")
        self.received += chunk

    def until(self, kind: bytes) -> None:
        """Read up to a message of this kind."""
        while self.message()[0] != kind:
            pass

    def close(self) -> None:
        """Say goodbye."""
        try:
            self.wire.sendall(TERMINATE)
        finally:
            self.wire.close()


def derived(password: str, salt: bytes, iterations: int) -> ScramKeys:
    """RFC 5802 section 3, for passwords of ASCII."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    client_key, server_key = (hmac.digest(salted, name, "sha256") for name in (b"Client Key", b"Server Key"))
    return ScramKeys(iterations, salt, client_key, server_key)


def error_text(body: bytes) -> str:
    """Fields S, C and M of an ErrorResponse: `FATAL 28P01: ...`."""
    fields = {field[:1]: field[1:].decode(errors="replace") for field in body.split(b"\0") if field}
    return f"{fields.get(b'S', 'ERROR')} {fields.get(b'C', '?')}: {fields.get(b'M', '')}"


def tls_context(login: Login) -> ssl.SSLContext | None:
    """As libpq's `sslmode=require`: encrypted, the certificate not verified; None for a plain connection."""
    if login.sslmode in ("disable", "allow", "prefer"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
