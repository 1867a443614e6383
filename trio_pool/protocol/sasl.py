"""The server's side of a SASL exchange: SCRAM-SHA-256, and SCRAM-SHA-256-PLUS over TLS.

The envelope (mechanism, lengths) and the syntax of the client's first message are read here, as PostgreSQL
reads them (auth-sasl.c and auth-scram.c of version 18: same errors, same SQLSTATEs); scramp keeps the
exchange, builds our messages and verifies the proof. Whose secret it is and whether it is a real one is
`auth`'s business.

Three things scramp would refuse and PostgreSQL does not, hence `_start` gives scramp a canonical first
message and then puts the real values back:

- the empty user name that libpq sends (the user is the StartupMessage's, the one in here is ignored);
- stored secrets with fewer than 4,096 iterations (`scram_iterations`, PostgreSQL 16);
- stored secrets with a salt shorter than 12 bytes.
"""

from __future__ import annotations

import base64
import enum
import re
from typing import Any, Final, NoReturn

import attrs
from scramp import ScramException, ScramMechanism
from scramp.utils import ServerError

from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.protocol import channel_binding
from trio_pool.protocol.credentials import ITERATIONS, SALT_LENGTH, ScramKeys, ScramSecret
from trio_pool.protocol.scram_keys import client_key

SCRAM: Final = "SCRAM-SHA-256"
SCRAM_PLUS: Final = "SCRAM-SHA-256-PLUS"
MAX_MESSAGE: Final = 1024  # PG_MAX_SASL_MESSAGE_LENGTH in scram.h

_NONCE: Final = re.compile(r"[!-+\--~]+")
_EXTENSION: Final = re.compile(r"[A-Za-z]=[^,]*")


class Rejected(Exception):
    """The proof is wrong. The caller turns it into the error that every wrong password gets."""


class Stage(enum.Enum):
    """What comes next from the client."""

    MECHANISM = "SASLInitialResponse"
    CLIENT_FIRST = "client-first-message"
    CLIENT_FINAL = "client-final-message"
    DONE = "nothing"


def _malformed(detail: str) -> NoReturn:
    raise ClientFault("malformed SCRAM message", detail=detail)


@attrs.define(eq=False)
class SaslExchange:
    """One exchange. With `binding`, the tls-server-end-point hash of our certificate, PLUS is offered."""

    secret: ScramSecret
    nonce: str
    binding: bytes | None
    stage: Stage = Stage.MECHANISM
    mechanism: str = SCRAM
    keys: ScramKeys | None = attrs.field(default=None, repr=False)
    """What the client's proof has shown, once it was verified."""
    _server: Any = None

    @property
    def mechanisms(self) -> tuple[str, ...]:
        return (SCRAM,) if self.binding is None else (SCRAM_PLUS, SCRAM)

    def receive(self, body: bytes) -> bytes:
        """The payload of AuthenticationSASLContinue, or of AuthenticationSASLFinal if the stage is then DONE.

        Raises `ClientFault` for what PostgreSQL refuses before it looks at the proof, `Rejected` for a wrong
        proof.
        """
        if len(body) > MAX_MESSAGE:
            raise ClientFault("invalid message length")
        data: bytes | None = body
        if self.stage is Stage.MECHANISM:
            data = self._read_envelope(body)
            self.stage = Stage.CLIENT_FIRST
        if data is None:
            return b""
        if self.stage is Stage.CLIENT_FIRST:
            reply = self._start(_read_text(data))
            self.stage = Stage.CLIENT_FINAL
            return reply
        reply = self._finish(_read_text(data))
        self.stage = Stage.DONE
        return reply

    def _read_envelope(self, body: bytes) -> bytes | None:
        """SASLInitialResponse: a mechanism, and the client-first-message or nothing."""
        name, terminator, rest = body.partition(b"\0")
        if not terminator:
            raise ClientFault("invalid string in message")
        mechanism = name.decode(errors="replace")
        if mechanism not in self.mechanisms:
            raise ClientFault("client selected an invalid SASL authentication mechanism")
        self.mechanism = mechanism
        length, data = int.from_bytes(rest[:4], "big", signed=True), rest[4:]
        if len(rest) < 4 or length < -1 or length > len(data):
            raise ClientFault("insufficient data left in message")
        if max(length, 0) != len(data):
            raise ClientFault("invalid message format")
        return data if length >= 0 else None

    def _start(self, message: str) -> bytes:
        """The server-first-message in answer to a client-first-message."""
        flag, bare, nonce = self._read_client_first(message)
        bound = self.mechanism == SCRAM_PLUS
        server = ScramMechanism(self.mechanism).make_server(
            lambda _user: (bytes(SALT_LENGTH), self.secret.stored_key, self.secret.server_key, ITERATIONS),
            channel_binding=(channel_binding.TYPE, self.binding) if bound else None,
            s_nonce=self.nonce,
        )
        try:
            server.set_client_first(f"{flag},,n=*,r={nonce}")
        except ScramException as error:
            _malformed(str(error))
        server.client_first_bare = bare
        server.salt = base64.b64encode(self.secret.salt).decode()
        server.i = self.secret.iterations
        self._server = server
        reply: str = server.get_server_first()
        return reply.encode()

    def _read_client_first(self, message: str) -> tuple[str, str, str]:
        """Channel-binding flag, client-first-message-bare and nonce (RFC 5802 section 7)."""
        flag, _, rest = message.partition(",")
        self._check_flag(flag)
        identity, comma, bare = rest.partition(",")
        if identity.startswith("a"):
            raise ClientFault(
                "client uses authorization identity, but it is not supported", SqlState.FEATURE_NOT_SUPPORTED
            )
        if identity or not comma:
            _malformed("the GS2 header does not end")
        if bare.startswith("m"):
            raise ClientFault(
                "client requires an unsupported SCRAM extension", SqlState.FEATURE_NOT_SUPPORTED
            )
        attributes = bare.split(",")
        if len(attributes) < 2 or not attributes[0].startswith("n=") or not attributes[1].startswith("r="):
            _malformed('expected attributes "n" and "r"')
        if not _NONCE.fullmatch(nonce := attributes[1][2:]):
            raise ClientFault("non-printable characters in SCRAM nonce")
        if not all(map(_EXTENSION.fullmatch, attributes[2:])):
            _malformed("an extension is no attribute")
        return flag, bare, nonce

    def _check_flag(self, flag: str) -> None:
        """RFC 5802 section 6: the flag fits the mechanism, and nobody has hidden our PLUS from the client."""
        bound = self.mechanism == SCRAM_PLUS
        if flag.startswith("p="):
            if not bound:
                _malformed("the client selected SCRAM-SHA-256, but sends channel binding data")
            if flag[2:] != channel_binding.TYPE:
                kind = re.sub(r"[^!-~]", "?", flag[2:32])
                raise ClientFault(f'unsupported SCRAM channel-binding type "{kind}"')
        elif flag not in ("n", "y"):
            _malformed("unexpected channel-binding flag")
        elif bound:
            _malformed("the client selected SCRAM-SHA-256-PLUS, but does not send channel binding data")
        elif flag == "y" and self.binding is not None:
            raise ClientFault(
                "SCRAM channel binding negotiation error",
                SqlState.INVALID_AUTHORIZATION,
                reason=Reason.CLIENT_AUTHENTICATION_FAILED,
                detail="the client supports channel binding but thinks that we do not",
            )

    def _finish(self, message: str) -> bytes:
        """The server-final-message in answer to a client-final-message."""
        try:
            self._server.set_client_final(message)
            reply: str = self._server.get_server_final()
        except ScramException as error:
            self._refuse(error)
        self.keys = self._read_keys(message)
        return reply.encode()

    def _read_keys(self, message: str) -> ScramKeys:
        """The keys behind the proof of a client-final-message that scramp has accepted."""
        unproven, _, proof = message.rpartition(",p=")
        server = self._server
        auth_message = f"{server.client_first_bare},{server.server_first},{unproven}".encode()
        secret = self.secret
        key = client_key(secret.stored_key, auth_message, base64.b64decode(proof, validate=True))
        return ScramKeys(secret.iterations, secret.salt, key, secret.server_key)

    def _refuse(self, error: ScramException) -> NoReturn:
        match error.server_error:
            case ServerError.INVALID_PROOF:
                raise Rejected(str(error)) from error
            case ServerError.CHANNEL_BINDINGS_DONT_MATCH if self.mechanism == SCRAM_PLUS:
                raise ClientFault(
                    "SCRAM channel binding check failed",
                    SqlState.INVALID_AUTHORIZATION,
                    reason=Reason.CLIENT_AUTHENTICATION_FAILED,
                ) from error
            case ServerError.CHANNEL_BINDINGS_DONT_MATCH:
                raise ClientFault(
                    "unexpected SCRAM channel-binding attribute in client-final-message"
                ) from error
            case _:
                raise ClientFault("malformed SCRAM message", detail=str(error)) from error


def _read_text(data: bytes) -> str:
    if not data:
        _malformed("the message is empty")
    if b"\0" in data:
        _malformed("the message contains a null byte")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        _malformed(str(error))
