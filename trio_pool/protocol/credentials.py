"""What is known of a user's password, and the arithmetic on passwords that both roles of a login share.

A stored secret is clear text or what PostgreSQL keeps in `pg_authid.rolpassword`: "md5" and 32 hexadecimal
digits, or "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey". What clear text is good for, the other two are
only partly: MD5 cannot answer SCRAM, nor SCRAM MD5.

SASLprep. PostgreSQL (saslprep.c) normalises a password if it is valid UTF-8 that SASLprep accepts, and uses
the raw bytes if not. It looks for prohibited characters before it normalises, RFC 4013 and scramp after that,
and it normalises by today's Unicode, not by 3.2. So that every password works here that works there,
`prepared` does the same.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
import re
import unicodedata
from stringprep import (
    in_table_a1,
    in_table_b1,
    in_table_c3,
    in_table_c4,
    in_table_c5,
    in_table_c6,
    in_table_c7,
    in_table_c8,
    in_table_c9,
    in_table_c12,
    in_table_c21_c22,
    in_table_d1,
    in_table_d2,
)
from typing import Final, TypeAlias

import attrs

ITERATIONS: Final = 4096  # SCRAM_SHA_256_DEFAULT_ITERATIONS in scram-common.h
SALT_LENGTH: Final = 16  # SCRAM_DEFAULT_SALT_LEN
KEY_LENGTH: Final = 32  # SCRAM_SHA_256_KEY_LEN

_PROHIBITED: Final = (
    in_table_a1,  # unassigned in Unicode 3.2
    in_table_c21_c22,
    in_table_c3,
    in_table_c4,
    in_table_c5,
    in_table_c6,
    in_table_c7,
    in_table_c8,
    in_table_c9,
)
_MD5: Final = re.compile(r"md5[0-9a-f]{32}")
_SCRAM_SCHEME: Final = "SCRAM-SHA-256$"
_SCRAM: Final = re.compile(r"SCRAM-SHA-256\$([0-9]{1,10}):([^:$]+)\$([^:$]+):([^:$]+)")


def prepared(password: bytes) -> bytes:
    """The bytes of a password that enter SCRAM: after SASLprep if that is possible, else unchanged."""
    if password.isascii():
        return password
    try:
        text = password.decode()
    except UnicodeDecodeError:
        return password
    # U+200B is in both tables of RFC 3454; PostgreSQL makes it a space.
    mapped = [" " if in_table_c12(c) else c for c in text if in_table_c12(c) or not in_table_b1(c)]
    if not mapped or any(table(c) for c in mapped for table in _PROHIBITED) or not _has_one_direction(mapped):
        return password
    return unicodedata.normalize("NFKC", "".join(mapped)).encode()


def _has_one_direction(characters: list[str]) -> bool:
    """RFC 3454 section 6: right-to-left text begins and ends so, and contains nothing from left to right."""
    if not any(map(in_table_d1, characters)):
        return True
    return (
        in_table_d1(characters[0]) and in_table_d1(characters[-1]) and not any(map(in_table_d2, characters))
    )


def md5_digest(password: bytes, user: bytes) -> str:
    """What PostgreSQL stores after "md5": the hash of password and user name."""
    return hashlib.md5(password + user, usedforsecurity=False).hexdigest()


def md5_response(digest: str, salt: bytes) -> bytes:
    """The answer to AuthenticationMD5Password, given the stored digest."""
    return b"md5" + hashlib.md5(digest.encode() + salt, usedforsecurity=False).hexdigest().encode()


def stored_md5(secret: str) -> str | None:
    """The digest of a stored MD5 secret, None if it is none."""
    return secret[3:] if _MD5.fullmatch(secret) else None


def looks_like_scram(secret: str) -> bool:
    """Whether somebody meant this to be a stored SCRAM secret, well-formed or not."""
    return secret.startswith(_SCRAM_SCHEME)


@attrs.frozen
class ScramSecret:
    """A stored SCRAM-SHA-256 secret (RFC 5803, PostgreSQL's spelling)."""

    iterations: int
    salt: bytes
    stored_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)

    @classmethod
    def parse(cls, secret: str) -> ScramSecret | None:
        """None for what is not well-formed."""
        match = _SCRAM.fullmatch(secret)
        if match is None or int(match[1]) < 1:
            return None
        try:
            salt, stored_key, server_key = (
                base64.b64decode(part, validate=True) for part in match.groups()[1:]
            )
        except (binascii.Error, ValueError):
            return None
        if len(stored_key) != KEY_LENGTH or len(server_key) != KEY_LENGTH or not salt:
            return None
        return cls(int(match[1]), salt, stored_key, server_key)

    @classmethod
    def derive(cls, password: bytes, salt: bytes, iterations: int = ITERATIONS) -> ScramSecret:
        """The secret of a password (RFC 5802 section 3). Costs about 1.5 ms per 4,096 iterations."""
        salted = hashlib.pbkdf2_hmac("sha256", prepared(password), salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", "sha256")
        return cls(
            iterations,
            salt,
            hashlib.sha256(client_key).digest(),
            hmac.digest(salted, b"Server Key", "sha256"),
        )

    @classmethod
    def mock(cls, mock_key: bytes, user: bytes) -> ScramSecret:
        """What a user who does not exist, or has no usable secret, is shown: the same at every attempt.

        No password fits it: its keys are not derived from one.
        """
        stored_key = hmac.digest(mock_key, b"stored key\0" + user, "sha256")
        return cls(ITERATIONS, mock_salt(mock_key, user), stored_key, stored_key)

    def __str__(self) -> str:
        salt, stored, server = (
            base64.b64encode(b).decode() for b in (self.salt, self.stored_key, self.server_key)
        )
        return f"{_SCRAM_SCHEME}{self.iterations}:{salt}${stored}:{server}"


@attrs.frozen
class ScramKeys:
    """What logs a user in by SCRAM without the password, where the stored secret is the same.

    As good as the password for that purpose: to be kept no longer than needed, and never to be shown.
    """

    iterations: int
    salt: bytes = attrs.field(repr=False)
    client_key: bytes = attrs.field(repr=False)
    server_key: bytes = attrs.field(repr=False)


OriginSecret: TypeAlias = str | ScramKeys
"""What our side of a login can have: a password, "md5" and 32 hexadecimal digits, or keys."""


def mock_salt(mock_key: bytes, user: bytes) -> bytes:
    """The salt for users whose secret has none (`scram_mock_salt`): missing ones and clear text alike."""
    return hmac.digest(mock_key, b"salt\0" + user, "sha256")[:SALT_LENGTH]


@functools.lru_cache(maxsize=4096)
def _derived(password: bytes, salt: bytes) -> ScramSecret:
    return ScramSecret.derive(password, salt)


@attrs.frozen
class Credentials:
    """A user and at most one of three kinds of secret; with none of them no password is right."""

    user: str
    clear: bytes | None = attrs.field(default=None, repr=False)
    md5: str | None = attrs.field(default=None, repr=False)
    scram: ScramSecret | None = attrs.field(default=None, repr=False)
    expired: bool = False
    """Whether there was a secret, whose time (VALID UNTIL) is over."""

    @classmethod
    def parse(cls, user: str, secret: str | None) -> Credentials:
        """The credentials of a user from a stored secret, of which None and "" mean that there is none.

        A malformed SCRAM secret is not taken for clear text but for none.
        """
        if not secret:
            return cls(user)
        if (digest := stored_md5(secret)) is not None:
            return cls(user, md5=digest)
        if looks_like_scram(secret):
            return cls(user, scram=ScramSecret.parse(secret))
        return cls(user, clear=secret.encode(errors="surrogateescape"))

    @property
    def user_bytes(self) -> bytes:
        return self.user.encode(errors="surrogateescape")

    def digest(self) -> str | None:
        """The MD5 digest, None if it is not known."""
        return md5_digest(self.clear, self.user_bytes) if self.clear is not None else self.md5

    def secret(self, mock_key: bytes) -> ScramSecret | None:
        """The SCRAM secret, None if it is not known.

        Of clear text it is derived with the salt a missing user would be shown, and remembered. Call this
        once when the configuration is read: it keeps the derivation out of the first login, where its time
        could be measured.
        """
        if self.clear is not None:
            return _derived(self.clear, mock_salt(mock_key, self.user_bytes))
        return self.scram
