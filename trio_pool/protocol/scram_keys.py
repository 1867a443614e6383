"""The client's side of a SCRAM exchange without the password: with the keys that an earlier exchange showed.

Who verifies a proof can compute the ClientKey from it (RFC 5802 section 3: ClientKey = ClientProof XOR
ClientSignature). With the ServerKey of the stored secret that is all that it takes to log in elsewhere as the
same user, as long as the other side has the same secret: the keys depend on salt and iterations.

scramp logs in with passwords only, so the messages after the first are made here; their syntax, the nonce and
the GS2 header are scramp's. Its lower limits on salt and iterations do not apply, because both have to be
equal to those of the keys: whoever answers in the origin's place cannot make a proof cheap to attack.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import TYPE_CHECKING, Any, Final

import attrs
from scramp import ScramClient, ScramException

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.protocol.credentials import ScramKeys

_SERVER_FIRST: Final = re.compile(r"r=([!-+\--~]+),s=([^,]+),i=([1-9][0-9]{0,9})(?:,.*)?", re.DOTALL)


class KeysDoNotFit(Exception):
    """The server's salt or iterations are not those of the keys: it has another secret of the user."""


def client_key(stored_key: bytes, auth_message: bytes, proof: bytes) -> bytes:
    """The ClientKey behind a proof that has been verified."""
    return _xor(proof, hmac.digest(stored_key, auth_message, "sha256"))


@attrs.define(eq=False)
class KeyedScramClient:
    """Has the methods of `scramp.ScramClient` that a login calls, in the same order.

    They raise `ScramException` as those do, and `set_server_first` raises `KeysDoNotFit`.
    """

    _scram: Any
    _keys: ScramKeys = attrs.field(repr=False)
    _nonce: str = ""
    _auth_message: bytes = attrs.field(default=b"", repr=False)

    @classmethod
    def create(
        cls, mechanisms: Sequence[str], keys: ScramKeys, binding: tuple[str, bytes] | None, nonce: str
    ) -> KeyedScramClient:
        return cls(ScramClient(list(mechanisms), "*", "", channel_binding=binding, c_nonce=nonce), keys)

    @property
    def mechanism_name(self) -> str:
        name: str = self._scram.mechanism_name
        return name

    def get_client_first(self) -> str:
        first: str = self._scram.get_client_first()
        return first

    def set_server_first(self, message: str) -> None:
        match = _SERVER_FIRST.fullmatch(message)
        ours = str(self._scram.c_nonce)
        if match is None or not match[1].startswith(ours) or match[1] == ours:
            raise ScramException("malformed server-first-message")
        if _decode(match[2]) != self._keys.salt or int(match[3]) != self._keys.iterations:
            raise KeysDoNotFit
        self._nonce = match[1]
        self._auth_message = f"{self._scram.client_first_bare},{message},{self._without_proof()}".encode()

    def get_client_final(self) -> str:
        stored_key = hashlib.sha256(self._keys.client_key).digest()
        proof = _xor(self._keys.client_key, hmac.digest(stored_key, self._auth_message, "sha256"))
        return f"{self._without_proof()},p={base64.b64encode(proof).decode()}"

    def set_server_final(self, message: str) -> None:
        """Raises unless the server proves that it has the ServerKey."""
        signature = hmac.digest(self._keys.server_key, self._auth_message, "sha256")
        kind, value = message[:2], message[2:].partition(",")[0]
        if kind == "e=":
            raise ScramException(f"the server returned the error {value!r}")
        if kind != "v=" or not hmac.compare_digest(_decode(value), signature):
            raise ScramException("the server signature does not match")

    def _without_proof(self) -> str:
        """client-final-message-without-proof."""
        binding = base64.b64encode(self._scram.gs2_header.make_cbind_input(self._scram.cb)).decode()
        return f"c={binding},r={self._nonce}"


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ScramException("invalid base 64 encoding") from None


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
