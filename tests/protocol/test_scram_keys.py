"""SCRAM pass-through without a network: what a proof shows logs in where the secret is the same."""

from __future__ import annotations

import hashlib
import hmac

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.conversation import (
    BINDING,
    FAILED,
    PASSWORD,
    PLAIN,
    PLUS,
    USER,
    Conversation,
    authentication,
    fault_of,
    login,
    stored,
)
from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.protocol.credentials import Credentials, OriginSecret, ScramKeys, ScramSecret
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode

SALT = b"sixteen bytes ss"
SECRET = ScramSecret.derive(PASSWORD.encode(), SALT)


def keys_of(secret: ScramSecret, password: str = PASSWORD) -> ScramKeys:
    """The keys as RFC 5802 derives them from the password."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), secret.salt, secret.iterations)
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    return ScramKeys(secret.iterations, secret.salt, client_key, secret.server_key)


def shown(binding: bytes | None = None) -> OriginSecret | None:
    """What a client's login at us shows."""
    server = authentication("scram-sha-256", Credentials(USER, scram=SECRET), binding=binding)
    assert server.origin_secret is None
    Conversation(login(binding=binding), server).run()
    return server.origin_secret


def log_in(
    keys: OriginSecret | None, secret: ScramSecret = SECRET, binding: bytes | None = None
) -> Conversation:
    """A login by keys at a server that has a secret."""
    client = attrs.evolve(login(binding=binding), password=keys)
    server = authentication("scram-sha-256", Credentials(USER, scram=secret), binding=binding)
    return Conversation(client, server)


@pytest.mark.parametrize("here", [None, BINDING], ids=["plain", "bound"])
@pytest.mark.parametrize("there", [None, bytes(32)], ids=["plain", "bound"])
def test_what_a_proof_shows_logs_in(here: bytes | None, there: bytes | None) -> None:
    """It is the keys, and channel binding of one connection does not concern the other; each has its own."""
    keys = shown(here)
    assert keys == keys_of(SECRET)
    conversation = log_in(keys, binding=there)
    conversation.run()
    assert (conversation.server.done, conversation.client.done) == (True, True)
    mechanism = next(body for sender, _, body in conversation.transcript if sender == "client")
    assert mechanism.split(b"\0")[0].decode() == (PLAIN if there is None else PLUS)


@given(st.binary(min_size=1, max_size=40), st.integers(1, 50))
def test_any_salt_and_any_iterations(salt: bytes, iterations: int) -> None:
    """Also those for which no proof would be made from a password: the keys have them already."""
    secret = ScramSecret.derive(PASSWORD.encode(), salt, iterations)
    conversation = log_in(keys_of(secret), secret)
    conversation.run()
    assert conversation.server.origin_secret == keys_of(secret)


@pytest.mark.parametrize(("salt", "iterations"), [(b"another salt ...", 4096), (SALT, 4097), (SALT, 1)])
def test_no_proof_for_another_secret(salt: bytes, iterations: int) -> None:
    """Before a proof is sent the difference is named, so that no server gets one for a salt of its choice."""
    conversation = log_in(shown(), ScramSecret.derive(PASSWORD.encode(), salt, iterations))
    with pytest.raises(ServerFault, match="another SCRAM secret") as caught:
        conversation.run()
    assert (caught.value.sqlstate, caught.value.reason) == ("28P01", Reason.SERVER_LOGIN_FAILED)
    assert [sender for sender, _, _ in conversation.transcript] == ["server", "client", "server"]


def test_keys_of_another_password() -> None:
    """A salt that fits is not enough."""
    fault = fault_of(log_in(keys_of(SECRET, "another")))
    assert (fault.message, fault.sqlstate) == (FAILED, SqlState.INVALID_PASSWORD)


def test_a_server_has_to_prove_itself() -> None:
    """Whoever does not have the ServerKey is not believed, however it got hold of salt and StoredKey."""
    thief = attrs.evolve(SECRET, server_key=bytes(32))
    with pytest.raises(ServerFault, match="has not proven that it knows the password"):
        log_in(shown(), thief).run()


@pytest.mark.parametrize(
    "message",
    [
        "",
        "r=,s=AAAA,i=4096",
        "r=short,s=AAAA,i=4096",
        "r=client-nonce,s=AAAA,i=4096",
        "e=other-error",
        "nonsense",
    ],
)
def test_a_malformed_first_message(message: str) -> None:
    """A nonce that is not ours, or not lengthened, is refused like anything else that is no SCRAM."""
    client = attrs.evolve(login(), password=keys_of(SECRET))
    client.begin()
    offer = messages.sasl_mechanisms([PLAIN])
    client.receive(offer[0], offer[5:])
    first = messages.authentication(AuthenticationCode.SASL_CONTINUE, message.encode())
    with pytest.raises(ServerFault, match="malformed SCRAM message"):
        client.receive(first[0], first[5:])


@pytest.mark.parametrize("request_", [AuthenticationCode.CLEARTEXT_PASSWORD, AuthenticationCode.MD5_PASSWORD])
def test_keys_are_no_password(request_: int) -> None:
    """A server that asks for the password gets nothing."""
    client = attrs.evolve(login(), password=keys_of(SECRET))
    client.begin()
    data = b"salt" if request_ == AuthenticationCode.MD5_PASSWORD else b""
    asked = messages.authentication(request_, data)
    with pytest.raises(ServerFault, match="only the SCRAM keys") as caught:
        client.receive(asked[0], asked[5:])
    assert caught.value.sqlstate == "28P01"


def test_keys_do_not_show_themselves() -> None:
    """Whatever is printed while they are about does not contain them."""
    keys = keys_of(SECRET)
    client = attrs.evolve(login(), password=keys)
    server = authentication("scram-sha-256", Credentials(USER, scram=SECRET))
    conversation = Conversation(client, server)
    conversation.run()
    for value in (keys.client_key, keys.server_key, keys.salt):
        for printed in (repr(keys), repr(client), repr(server), str(keys)):
            assert repr(value)[2:-1] not in printed


@pytest.mark.parametrize(
    ("method", "kind", "secret"),
    [
        ("password", "clear", PASSWORD),
        ("password", "md5", PASSWORD),
        ("password", "scram", PASSWORD),
        ("md5", "clear", PASSWORD),
        ("md5", "md5", stored("md5")),
        ("md5", "scram", keys_of(SECRET)),
        ("scram-sha-256", "clear", PASSWORD),
        ("scram-sha-256", "scram", keys_of(SECRET)),
    ],
)
def test_the_best_that_is_known(method: str, kind: str, secret: OriginSecret) -> None:
    """The password where it is known, else what the proof has shown, else the MD5 hash."""
    server = authentication(method, Credentials.parse(USER, stored(kind)))
    Conversation(login(), server).run()
    assert server.origin_secret == secret


@pytest.mark.parametrize(("kind", "secret"), [("clear", PASSWORD), ("md5", stored("md5")), ("scram", None)])
def test_without_a_proof(kind: str, secret: str | None) -> None:
    """Who is trusted shows nothing: what is stored counts, as far as it can log in."""
    server = authentication("trust", Credentials.parse(USER, stored(kind)))
    server.begin()
    assert server.origin_secret == secret


@pytest.mark.parametrize(("method", "kind"), [("password", "scram"), ("password", "md5"), ("md5", "md5")])
def test_an_answer_can_be_judged_anew(method: str, kind: str) -> None:
    """By other credentials than those it was asked with, as long as it is not a SCRAM proof."""
    server = authentication(method, Credentials.parse(USER, stored(kind, "old")))
    client = login()
    asked = (client.begin(), server.begin())[1]
    answer = client.receive(asked[0], asked[5:])
    with pytest.raises(ClientFault) as caught:
        server.receive(answer[5:])
    assert caught.value.message == FAILED
    assert server.renewable
    renewed = server.renewed(Credentials.parse(USER, stored(kind)))
    renewed.receive(answer[5:])
    assert renewed.done


def test_a_scram_proof_cannot_be_judged_anew() -> None:
    """It is bound to the salt of the secret that it was asked with."""
    server = authentication("scram-sha-256", Credentials(USER, scram=SECRET))
    server.begin()
    assert not server.renewable
