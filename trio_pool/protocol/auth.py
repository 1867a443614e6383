"""Authentication of a client: the server's side of the conversation from StartupMessage to AuthenticationOk.

Nothing tells a missing user from a wrong password: both get the same messages in the same order, and the same
work is done for both. Hence mock secrets (salt and keys that depend on the user's name, so that a second
attempt sees the same), hence one PBKDF2 in method `password` whatever is stored. What cannot be hidden is
what PostgreSQL shows as well: the iteration count of a stored secret, and under method `md5` which of the two
challenges a secret calls for; `mock_scram` says which of them is the rule, so that missing users blend in.

The words are those of PostgreSQL 18 (`auth_failed`, `recv_password_packet` in auth.c; auth-sasl.c;
auth-scram.c), because clients match on them.
"""

from __future__ import annotations

import enum
import hmac
from typing import Final, NoReturn

import attrs

from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.protocol.credentials import (
    Credentials,
    OriginSecret,
    ScramSecret,
    md5_digest,
    md5_response,
)
from trio_pool.protocol.sasl import Rejected, SaslExchange, Stage
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode

__all__ = ["METHODS", "Authentication", "Credentials"]

METHODS: Final = ("trust", "password", "md5", "scram-sha-256", "cert")

_NO_DIGEST: Final = "-" * 32  # as long as an MD5 digest, and none


class Challenge(enum.Enum):
    """What the client has been asked for."""

    NOTHING = "nothing"
    CLEARTEXT = "a clear-text password"
    MD5 = "an MD5 hash"
    SASL = "a SASL exchange"


@attrs.define(eq=False)
class Authentication:
    """One client's authentication: `begin` once, then `receive` each 'p' message until `done`.

    AuthenticationOk is the caller's to send.
    A failure raises `ClientFault`, after which the machine is used up. `trust` and `cert` are done (or have
    failed) after `begin`. `cert` compares names only: that such a user exists, and `trust` at all, is the
    caller's decision.
    """

    method: str = attrs.field(validator=attrs.validators.in_(METHODS))
    user: str
    credentials: Credentials | None = attrs.field(repr=False)
    """None: there is no such user."""
    salt: bytes = attrs.field(kw_only=True, repr=False, validator=attrs.validators.min_len(4))
    """Random: its first four bytes salt the MD5 challenge."""
    nonce: str = attrs.field(kw_only=True, repr=False)
    """Random: our part of the SCRAM nonce, printable ASCII without a comma."""
    channel_binding: bytes | None = attrs.field(kw_only=True, repr=False)
    """`channel_binding.end_point` of our certificate."""
    tls: bool = attrs.field(kw_only=True)
    certificate_names: frozenset[str] | None = attrs.field(kw_only=True)
    """The names in the client's verified certificate; None without one."""
    mock_key: bytes = attrs.field(kw_only=True, repr=False)
    """Secret, and the same for every client and worker: a mock salt that changed would give itself away."""
    mock_scram: bool = attrs.field(kw_only=True, default=False)
    """Under method `md5`: whether most users have SCRAM secrets."""
    done: bool = attrs.field(init=False, default=False)
    _asked: Challenge = attrs.field(init=False, default=Challenge.NOTHING)
    _challenge: Challenge = attrs.field(init=False, default=Challenge.NOTHING)
    """What has been asked for and not been answered yet."""
    _shown: str | None = attrs.field(init=False, default=None, repr=False)
    """The password that the client has sent as it is, and that was right."""
    _sasl: SaslExchange | None = attrs.field(init=False, default=None, repr=False)

    @property
    def origin_secret(self) -> OriginSecret | None:
        """The best that is known now to log in at an origin as this user: the password, else what its proof
        has shown, else a stored MD5 secret.

        None if there is nothing. Meaningful once `done`.
        """
        credentials = self.credentials
        if credentials is not None and credentials.clear is not None:
            return credentials.clear.decode(errors="surrogateescape")
        if self._shown is not None:
            return self._shown
        if self._sasl is not None and self._sasl.keys is not None:
            return self._sasl.keys
        return f"md5{credentials.md5}" if credentials is not None and credentials.md5 is not None else None

    def begin(self) -> bytes:
        """What to send first; b"" if nothing is asked of the client."""
        reply = self._begin()
        self._asked = self._challenge
        return reply

    @property
    def renewable(self) -> bool:
        """Whether the client's answer can be judged by other credentials than those it was asked with.

        Not in a SCRAM exchange, which begins with the stored salt; and no client begins anew.
        """
        return self._asked in (Challenge.CLEARTEXT, Challenge.MD5)

    def renewed(self, credentials: Credentials | None) -> Authentication:
        """The same login by other credentials, after a failure: `receive` takes the same answer once more."""
        again = attrs.evolve(self, credentials=credentials)
        again._asked = again._challenge = self._asked
        return again

    def _begin(self) -> bytes:
        match self.method:
            case "trust":
                self.done = True
                return b""
            case "cert":
                self._check_certificate()
                self.done = True
                return b""
            case "password":
                self._challenge = Challenge.CLEARTEXT
                return messages.authentication(AuthenticationCode.CLEARTEXT_PASSWORD)
            case "md5" if not self._has_scram_secret():
                self._challenge = Challenge.MD5
                return messages.authentication(AuthenticationCode.MD5_PASSWORD, self.salt[:4])
            case _:
                return self._begin_sasl()

    def receive(self, body: bytes) -> bytes:
        """What to send in answer to the body of a 'p' message; b"" if nothing."""
        challenge, self._challenge = self._challenge, Challenge.NOTHING
        match challenge:
            case Challenge.CLEARTEXT:
                self._check_clear_text(_read_password(body))
            case Challenge.MD5:
                self._check_md5(_read_password(body))
            case Challenge.SASL:
                return self._continue_sasl(body)
            case Challenge.NOTHING:
                raise ClientFault("invalid frontend message type 112")
        self.done = True
        return b""

    # -- certificates ----------------------------------------------------------------------------------------

    def _check_certificate(self) -> None:
        if not self.tls or self.certificate_names is None:
            raise ClientFault(
                "connection requires a valid client certificate",
                SqlState.INVALID_AUTHORIZATION,
                reason=Reason.CLIENT_AUTHENTICATION_FAILED,
            )
        if self.user not in self.certificate_names:
            raise ClientFault(
                f'certificate authentication failed for user "{self.user}"',
                SqlState.INVALID_AUTHORIZATION,
                reason=Reason.CLIENT_AUTHENTICATION_FAILED,
                detail=f"the certificate's names: {', '.join(sorted(self.certificate_names)) or 'none'}",
            )

    # -- passwords -------------------------------------------------------------------------------------------

    def _check_clear_text(self, password: bytes) -> None:
        secret = self._secret()
        derived = ScramSecret.derive(password, secret.salt, secret.iterations)
        digest = md5_digest(password, self._user_bytes())
        same_key = hmac.compare_digest(derived.server_key, secret.server_key)
        same_digest = hmac.compare_digest(digest, self._stored_digest() or _NO_DIGEST)
        if not (same_key and self._real_secret() is not None) and not same_digest:
            self._fail()
        self._shown = password.decode(errors="surrogateescape")

    def _check_md5(self, response: bytes) -> None:
        digest = self._stored_digest()
        expected = md5_response(digest or _NO_DIGEST, self.salt[:4])
        if not hmac.compare_digest(response, expected) or digest is None:
            self._fail()

    # -- SASL ------------------------------------------------------------------------------------------------

    def _begin_sasl(self) -> bytes:
        self._challenge = Challenge.SASL
        self._sasl = SaslExchange(self._secret(), self.nonce, self.channel_binding if self.tls else None)
        return messages.sasl_mechanisms(self._sasl.mechanisms)

    def _continue_sasl(self, body: bytes) -> bytes:
        assert self._sasl is not None
        try:
            reply = self._sasl.receive(body)
        except Rejected:
            self._fail()
        if self._sasl.stage is not Stage.DONE:
            self._challenge = Challenge.SASL
            return messages.authentication(AuthenticationCode.SASL_CONTINUE, reply)
        if self._real_secret() is None:
            self._fail()
        self.done = True
        return messages.authentication(AuthenticationCode.SASL_FINAL, reply)

    # -- secrets ---------------------------------------------------------------------------------------------

    def _user_bytes(self) -> bytes:
        return self.user.encode(errors="surrogateescape")

    def _stored_digest(self) -> str | None:
        return self.credentials.digest() if self.credentials is not None else None

    def _real_secret(self) -> ScramSecret | None:
        return self.credentials.secret(self.mock_key) if self.credentials is not None else None

    def _secret(self) -> ScramSecret:
        """The user's SCRAM secret, or a mock one."""
        mock = ScramSecret.mock(self.mock_key, self._user_bytes())
        return self._real_secret() or mock

    def _has_scram_secret(self) -> bool:
        """Whether method `md5` has to fall back on SCRAM (`CheckPWChallengeAuth`)."""
        if self._stored_digest() is not None:
            return False
        return self.mock_scram or (self.credentials is not None and self.credentials.scram is not None)

    def _fail(self) -> NoReturn:
        raise ClientFault(
            f'password authentication failed for user "{self.user}"',
            SqlState.INVALID_PASSWORD,
            reason=Reason.CLIENT_AUTHENTICATION_FAILED,
            detail=self._why(),
        )

    def _why(self) -> str:
        """For the log only."""
        if self.credentials is None:
            return f'user "{self.user}" does not exist'
        if self.credentials.expired:
            return f'user "{self.user}" has an expired password'
        if self._stored_digest() is None and self._real_secret() is None:
            return f'user "{self.user}" has no password, or a malformed one'
        if self._sasl is not None and self._real_secret() is None:
            return f'user "{self.user}" does not have a valid SCRAM secret'
        return f'password does not match for user "{self.user}"'


def _read_password(body: bytes) -> bytes:
    """PasswordMessage: one string that fills it (`recv_password_packet`)."""
    if not body or body.find(b"\0") != len(body) - 1:
        raise ClientFault("invalid password packet size")
    if len(body) == 1:
        raise ClientFault(
            "empty password returned by client",
            SqlState.INVALID_PASSWORD,
            reason=Reason.CLIENT_AUTHENTICATION_FAILED,
        )
    return body[:-1]
