"""Logging in at an origin: the client's side of the conversation from StartupMessage to ReadyForQuery.

The server is not trusted with more than it needs: a clear-text password leaves only over TLS or by explicit
permission, and a server that began a SCRAM exchange must finish it by proving that it knows the password too;
AuthenticationOk does not replace the proof (libpq: `scram_channel_bound`, `check_expected_areq`).

SCRAM is scramp's. Two of its limits are RFC 7677's and PostgreSQL does not have them: at least 4,096
iterations (`scram_iterations` of PostgreSQL 16 goes down to 1) and a salt of at least 12 bytes. They stay,
because whoever answers in the origin's place could otherwise ask for a proof that is cheap to attack; the
error says what to do.

Where not the password is known but the keys behind it, scram_keys.py takes scramp's place.

The user name inside SCRAM is ignored by PostgreSQL. libpq sends it empty, which scramp refuses, so it is "*",
as other drivers do.
"""

from __future__ import annotations

import enum
import re
from typing import TYPE_CHECKING, Any, Final, NoReturn

import attrs
from scramp import ScramClient, ScramException

from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.protocol import channel_binding
from trio_pool.protocol.credentials import (
    OriginSecret,
    ScramKeys,
    looks_like_scram,
    md5_digest,
    md5_response,
    prepared,
    stored_md5,
)
from trio_pool.protocol.sasl import SCRAM, SCRAM_PLUS
from trio_pool.protocol.scram_keys import KeyedScramClient, KeysDoNotFit
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.tags import AuthenticationCode, Backend, StartupCode, Status

if TYPE_CHECKING:
    from collections.abc import Mapping

_OTHER_METHODS: Final = {2: "Kerberos V5", 6: "SCM credentials", 7: "GSSAPI", 8: "GSSAPI", 9: "SSPI"}
_MIN_ITERATIONS: Final = 4096  # scramp's, RFC 7677 section 4
_ITERATIONS: Final = re.compile(rb"(?:^|,)i=([0-9]{1,10})(?:,|$)")


class State(enum.Enum):
    """What the server owes us."""

    STARTING = "an authentication request"
    PASSWORD_SENT = "AuthenticationOk"
    SASL_FIRST_SENT = "AuthenticationSASLContinue"
    SASL_FINAL_SENT = "AuthenticationSASLFinal"
    PROVEN = "AuthenticationOk after the server's proof"
    ACCEPTED = "ReadyForQuery"
    DONE = "nothing"
    FAILED = "nothing, the login has failed"


_MAY_BE_OK: Final = (State.STARTING, State.PASSWORD_SENT, State.PROVEN)


@attrs.define(eq=False)
class Login:
    """One login. Send what `begin` returns, then what `receive` returns for each message, until `done`.

    A failure raises `ServerFault`, after which the machine is used up: what the server says of it (an
    ErrorResponse) has its SQLSTATE and `Reason.SERVER_LOGIN_FAILED`, what breaks the protocol has
    `Reason.SERVER_PROTOCOL_VIOLATION`.
    """

    startup: Mapping[str, str] = attrs.field(alias="parameters")
    """The StartupMessage's parameters: user, database, settings."""
    password: OriginSecret | None = attrs.field(repr=False)
    """Clear text, "md5" and 32 hexadecimal digits, or the keys of a SCRAM secret. None and "": there is none.
    """
    tls: bool = attrs.field(kw_only=True)
    channel_binding: bytes | None = attrs.field(kw_only=True, repr=False)
    """`channel_binding.end_point` of the server's certificate."""
    allow_cleartext: bool = attrs.field(kw_only=True)
    """Whether the password may be sent as it is over a connection without TLS."""
    version: int = attrs.field(kw_only=True, default=StartupCode.PROTOCOL_3_2)
    client_nonce: str = attrs.field(kw_only=True, repr=False)
    """Random: our part of the SCRAM nonce, printable ASCII without a comma."""
    state: State = attrs.field(init=False, default=State.STARTING)
    parameters: dict[str, str] = attrs.field(init=False, factory=dict)
    """What the server has reported by ParameterStatus."""
    process_id: int = attrs.field(init=False, default=0)
    secret: bytes = attrs.field(init=False, default=b"", repr=False)
    minor: int = attrs.field(init=False)
    """The minor protocol version that both sides speak."""
    not_understood: frozenset[str] = attrs.field(init=False, default=frozenset())
    """Protocol options (`_pq_.`) that the server does not know."""
    _scram: Any = attrs.field(init=False, default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        self.minor = self.version & 0xFFFF

    @property
    def done(self) -> bool:
        """The server has said ReadyForQuery and is idle."""
        return self.state is State.DONE

    @property
    def user(self) -> str:
        return self.startup.get("user", "")

    def begin(self) -> bytes:
        """StartupMessage."""
        return messages.startup(self.startup, self.version)

    def receive(self, tag: int, body: bytes) -> bytes:
        """What to send in answer to a message of the server; b"" if nothing."""
        try:
            return self._receive(tag, body)
        except FramingError as error:
            self._violation(str(error))
        except ServerFault:
            self.state = State.FAILED
            raise

    def _receive(self, tag: int, body: bytes) -> bytes:
        match tag, self.state:
            case _, State.DONE | State.FAILED:
                self._unexpected(tag)
            case Backend.ERROR_RESPONSE, _:
                self._refused(body)
            case Backend.NOTICE_RESPONSE, _:
                return b""
            case Backend.AUTHENTICATION, state if state is not State.ACCEPTED:
                return self._authenticate(messages.read_int32(body), body[4:])
            case Backend.NEGOTIATE_PROTOCOL_VERSION, State.STARTING:
                self._negotiate(body)
            case Backend.PARAMETER_STATUS, State.ACCEPTED:
                name, value = messages.read_parameter_status(body)
                self.parameters[name] = value
            case Backend.BACKEND_KEY_DATA, State.ACCEPTED:
                self._keep_key(body)
            case Backend.READY_FOR_QUERY, State.ACCEPTED if body == bytes([Status.IDLE]):
                self.state = State.DONE
            case _:
                self._unexpected(tag)
        return b""

    # -- authentication --------------------------------------------------------------------------------------

    def _authenticate(self, code: int, data: bytes) -> bytes:
        match code, self.state:
            case AuthenticationCode.OK, state if state in _MAY_BE_OK and not data:
                self.state = State.ACCEPTED
                return b""
            case AuthenticationCode.CLEARTEXT_PASSWORD, State.STARTING:
                return self._send_clear_text()
            case AuthenticationCode.MD5_PASSWORD, State.STARTING if len(data) == 4:
                return self._send_md5(data)
            case AuthenticationCode.SASL, State.STARTING:
                return self._send_sasl_first(messages.read_strings(data))
            case AuthenticationCode.SASL_CONTINUE, State.SASL_FIRST_SENT:
                return self._send_sasl_final(data)
            case AuthenticationCode.SASL_FINAL, State.SASL_FINAL_SENT:
                self._verify_server(data)
                return b""
            case _, State.STARTING if code in _OTHER_METHODS:
                self._fail(
                    f"the server asks for {_OTHER_METHODS[code]} authentication, which is not supported",
                    SqlState.INVALID_AUTHORIZATION,
                )
            case _:
                self._violation(f"authentication request {code} while {self.state.value} was expected")

    def _send_clear_text(self) -> bytes:
        if not (self.tls or self.allow_cleartext):
            self._fail(
                "the server asks for the password in clear text over a connection without TLS, "
                "which is not allowed",
                SqlState.INVALID_AUTHORIZATION,
            )
        password = self._clear_password("clear-text password")
        self.state = State.PASSWORD_SENT
        return messages.password(password)

    def _send_md5(self, salt: bytes) -> bytes:
        digest = stored_md5(self.password) if isinstance(self.password, str) else None
        if digest is None:
            user = self.user.encode(errors="surrogateescape")
            digest = md5_digest(self._clear_password("MD5"), user)
        self.state = State.PASSWORD_SENT
        return messages.password(md5_response(digest, salt))

    def _send_sasl_first(self, offered: list[str]) -> bytes:
        """SASLInitialResponse, with channel binding if both sides can (RFC 5802 section 6)."""
        if SCRAM_PLUS in offered and not self.tls:
            self._violation("SCRAM-SHA-256-PLUS is offered over a connection without TLS")
        known = [name for name in (SCRAM_PLUS, SCRAM) if name in offered]
        if not known or (known == [SCRAM_PLUS] and self.channel_binding is None):
            self._fail(
                f"none of the server's SASL mechanisms is supported: {', '.join(offered)}",
                SqlState.INVALID_AUTHORIZATION,
            )
        binding = None if self.channel_binding is None else (channel_binding.TYPE, self.channel_binding)
        if isinstance(self.password, ScramKeys):
            self._scram = KeyedScramClient.create(known, self.password, binding, self.client_nonce)
        else:
            password = self._clear_password("SCRAM")
            self._scram = ScramClient(known, "*", "", channel_binding=binding, c_nonce=self.client_nonce)
            # Not handed to the constructor, which refuses what SASLprep does; PostgreSQL takes the raw bytes.
            self._scram.password = prepared(password)
        first: str = self._scram.get_client_first()
        self.state = State.SASL_FIRST_SENT
        return messages.sasl_initial_response(self._scram.mechanism_name, first.encode())

    def _send_sasl_final(self, data: bytes) -> bytes:
        try:
            self._scram.set_server_first(data.decode())
            final: str = self._scram.get_client_final()
        except KeysDoNotFit:
            self._fail(
                f'the server has another SCRAM secret of user "{self.user}" than the one that the client has '
                "logged in with here (salt or iterations differ): let auth.query look the user up there, "
                "copy the server's secret, or configure the password",
                SqlState.INVALID_PASSWORD,
            )
        except (ScramException, UnicodeDecodeError) as error:
            self._refuse_server_first(data, error)
        self.state = State.SASL_FINAL_SENT
        return messages.sasl_response(final.encode())

    def _refuse_server_first(self, data: bytes, error: Exception) -> NoReturn:
        match = _ITERATIONS.search(data)
        if match is not None and 0 < int(match[1]) < _MIN_ITERATIONS:
            self._fail(
                f'the SCRAM secret of user "{self.user}" has {int(match[1])} iterations, '
                f"at least {_MIN_ITERATIONS} are required: raise scram_iterations on the server, "
                "then set the password again",
                SqlState.INVALID_AUTHORIZATION,
            )
        self._violation(f"malformed SCRAM message: {error}")

    def _verify_server(self, data: bytes) -> None:
        try:
            self._scram.set_server_final(data.decode())
        except (ScramException, UnicodeDecodeError) as error:
            self._violation(
                f"the server has not proven that it knows the password: {error}",
                SqlState.INVALID_AUTHORIZATION,
            )
        self.state = State.PROVEN

    def _clear_password(self, method: str) -> bytes:
        """The password as bytes, or a `ServerFault` that says why this method cannot be answered."""
        if isinstance(self.password, ScramKeys):
            self._fail(
                f"the server asks for a password ({method}), but only the SCRAM keys of user "
                f'"{self.user}" are known',
                SqlState.INVALID_PASSWORD,
            )
        if not self.password:
            self._fail(
                f'the server asks for a password ({method}), but none is configured for user "{self.user}"',
                SqlState.INVALID_PASSWORD,
            )
        if stored_md5(self.password) is not None or looks_like_scram(self.password):
            self._fail(
                f'the server asks for a password ({method}), but the one configured for user "{self.user}" '
                "is a hash",
                SqlState.INVALID_PASSWORD,
            )
        password = self.password.encode(errors="surrogateescape")
        if b"\0" in password:
            self._fail(
                f'the password configured for user "{self.user}" contains a null byte',
                SqlState.INVALID_PASSWORD,
            )
        return password

    # -- the rest --------------------------------------------------------------------------------------------

    def _negotiate(self, body: bytes) -> None:
        """NegotiateProtocolVersion (`pqGetNegotiateProtocolVersion3`): only downwards, and only what was
        asked for.
        """
        version, unknown = messages.read_negotiate_protocol_version(body)
        if not StartupCode.PROTOCOL_3_0 <= version <= StartupCode.PROTOCOL_3_0 | self.minor:
            self._violation(f"the server negotiates protocol {version >> 16}.{version & 0xFFFF}")
        if any(not name.startswith("_pq_.") or name not in self.startup for name in unknown):
            self._violation("the server negotiates options that were not asked for")
        self.minor = version & 0xFFFF
        self.not_understood = frozenset(unknown)

    def _keep_key(self, body: bytes) -> None:
        """BackendKeyData (`getBackendKeyData`): in protocol 3.0 the secret has 4 bytes."""
        process_id, secret = messages.read_backend_key_data(body)
        if self.minor < 2 and len(secret) != 4:
            self._violation(f"a secret of {len(secret)} bytes in BackendKeyData of protocol 3.{self.minor}")
        self.process_id, self.secret = process_id, secret

    def _refused(self, body: bytes) -> NoReturn:
        fields = messages.read_error(body)
        self._fail(
            fields.summary or "the server refuses without a reason",
            fields.sqlstate or SqlState.CANNOT_CONNECT,
        )

    def _unexpected(self, tag: int) -> NoReturn:
        self._violation(f"message {chr(tag)!r} while {self.state.value} was expected")

    def _violation(self, message: str, sqlstate: str = SqlState.PROTOCOL_VIOLATION) -> NoReturn:
        self.state = State.FAILED
        raise ServerFault(message, sqlstate, reason=Reason.SERVER_PROTOCOL_VIOLATION)

    def _fail(self, message: str, sqlstate: str) -> NoReturn:
        raise ServerFault(message, sqlstate, reason=Reason.SERVER_LOGIN_FAILED)
