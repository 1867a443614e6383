"""Authentication of clients: passwords, what a client may learn, stored secrets, certificates."""

from __future__ import annotations

import re
import struct

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tests.protocol.conversation import (
    BINDING,
    CHALLENGING,
    CLIENT_NONCE,
    FAILED,
    FITTING,
    MOCK_KEY,
    PASSWORD,
    PLAIN,
    PLUS,
    SERVER_NONCE,
    USER,
    Conversation,
    authentication,
    begun,
    client_final,
    fault_of,
    initial,
    login,
    refusal,
    stored,
)
from trio_pool.errors import ClientFault, Reason, SqlState
from trio_pool.protocol.auth import Credentials
from trio_pool.protocol.credentials import ScramSecret, mock_salt, prepared
from trio_pool.wire.tags import AuthenticationCode

passwords = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20
)


# -- right and wrong passwords -------------------------------------------------------------------------------


@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "tls"])
@pytest.mark.parametrize(("method", "kind"), FITTING)
def test_the_right_password_opens(method: str, kind: str, binding: bytes | None) -> None:
    """Every method accepts the right password against every stored secret that can answer it."""
    server = authentication(method, Credentials.parse(USER, stored(kind)), binding=binding)
    conversation = Conversation(login(binding=binding), server)
    conversation.run()
    assert (server.done, conversation.client.done) == (True, True)
    chosen = {body.split(b"\0")[0] for sender, _, body in conversation.transcript if sender == "client"}
    expected = PLUS if binding else PLAIN
    assert (expected.encode() in chosen) == (method == "scram-sha-256" or (method, kind) == ("md5", "scram"))


@pytest.mark.parametrize(("method", "kind"), [*FITTING, ("scram-sha-256", "md5")])
def test_a_wrong_password_is_refused_in_postgresqls_words(method: str, kind: str) -> None:
    """A wrong password gets 28P01 and PostgreSQL's sentence under every method."""
    server = authentication(method, Credentials.parse(USER, stored(kind)))
    fault = fault_of(Conversation(login("wrong"), server))
    assert (fault.message, fault.sqlstate) == (FAILED, SqlState.INVALID_PASSWORD)
    assert fault.reason is Reason.CLIENT_AUTHENTICATION_FAILED


def test_an_md5_secret_cannot_do_scram() -> None:
    """Under scram-sha-256 a user with an MD5 secret fails like a wrong password, the right one
    notwithstanding.
    """
    server = authentication("scram-sha-256", Credentials.parse(USER, stored("md5")))
    fault = fault_of(Conversation(login(), server))
    assert (fault.message, fault.sqlstate) == (FAILED, SqlState.INVALID_PASSWORD)
    assert fault.detail == f'user "{USER}" does not have a valid SCRAM secret'


MALFORMED_SECRET = "SCRAM-SHA-256$4096:nonsense"


@pytest.mark.parametrize("secret", [None, "", MALFORMED_SECRET, "SCRAM-SHA-256$0:QQ==$QQ==:QQ=="])
@pytest.mark.parametrize("method", CHALLENGING)
def test_without_a_usable_secret_nothing_opens(method: str, secret: str | None) -> None:
    """A user without a password, with an empty or a malformed one, looks like one with a wrong password."""
    server = authentication(method, Credentials.parse(USER, secret))
    fault = fault_of(Conversation(login(), server))
    assert (fault.message, fault.sqlstate) == (FAILED, SqlState.INVALID_PASSWORD)
    assert fault.detail == f'user "{USER}" has no password, or a malformed one'


@pytest.mark.parametrize(
    "secret", [stored("md5"), stored("scram"), MALFORMED_SECRET], ids=["md5", "scram", "malformed"]
)
def test_a_stored_secret_is_not_a_password(secret: str) -> None:
    """Whoever reads what is stored cannot send it as the password."""
    assert refusal(begun("password", secret), secret.encode() + b"\0") == (FAILED, SqlState.INVALID_PASSWORD)


@given(passwords, passwords)
@example("\u00ad", "x")  # SASLprep leaves nothing of it
@example("\u0000a"[1:], "A")
@example("\u2168", "IX")  # the same after SASLprep
@example("\u0007", "\u0008")  # SASLprep refuses control characters
@example("\u0627x", "x")  # nor mixed directions
@pytest.mark.parametrize(("method", "kind"), FITTING)
def test_any_password_opens_its_own_lock_only(method: str, kind: str, right: str, wrong: str) -> None:
    """Every password works, the ones that SASLprep refuses included, and no other opens the same lock."""
    secret = stored(kind, right)
    credentials = Credentials.parse(USER, secret)
    assume(kind != "clear" or credentials.clear is not None)
    assume(not re.match(r"md5|SCRAM-SHA-256\$", right) and not re.match(r"md5|SCRAM-SHA-256\$", wrong))
    Conversation(login(right), authentication(method, credentials)).run()
    if prepared(right.encode()) != prepared(wrong.encode()):
        fault = fault_of(Conversation(login(wrong), authentication(method, credentials)))
        assert fault.sqlstate == SqlState.INVALID_PASSWORD


# -- what a client may learn ---------------------------------------------------------------------------------


def shape(conversation: Conversation) -> list[tuple[str, int, int]]:
    return [(sender, tag, len(body)) for sender, tag, body in conversation.transcript]


@pytest.mark.parametrize("missing", [None, Credentials.parse(USER, None)], ids=["no user", "no password"])
@pytest.mark.parametrize("method", CHALLENGING)
def test_a_missing_user_looks_like_a_wrong_password(method: str, missing: Credentials | None) -> None:
    """A missing user and a wrong password get the same bytes and the same error."""
    known = Conversation(login("wrong"), authentication(method, Credentials.parse(USER, PASSWORD)))
    unknown = Conversation(login("wrong"), authentication(method, missing))
    faults = [fault_of(known), fault_of(unknown)]
    assert known.transcript == unknown.transcript
    assert {(f.message, f.sqlstate, f.reason) for f in faults} == {(FAILED, "28P01", faults[0].reason)}


@pytest.mark.parametrize("method", ["md5", "scram-sha-256"])
def test_a_missing_user_looks_like_one_with_a_scram_secret(method: str) -> None:
    """Where users have SCRAM secrets, messages to missing ones have the same kinds and lengths."""
    known = Conversation(login("wrong"), authentication(method, Credentials.parse(USER, stored("scram"))))
    unknown = Conversation(login("wrong"), authentication(method, None, mock_scram=True))
    assert fault_of(known).message == fault_of(unknown).message
    assert shape(known) == shape(unknown)


def test_mock_salts_stay_and_differ() -> None:
    """A missing user's salt is the same at every attempt, another for another user or another key, 16 bytes
    long.
    """
    salts = [mock_salt(MOCK_KEY, b"a"), mock_salt(MOCK_KEY, b"b"), mock_salt(bytes(32), b"a")]
    assert len(set(salts)) == 3
    assert {len(salt) for salt in salts} == {16}
    assert mock_salt(MOCK_KEY, b"a") == salts[0]
    assert ScramSecret.mock(MOCK_KEY, b"a").iterations == 4096


def test_the_keys_of_a_mock_secret_open_nothing() -> None:
    """Even a client that could forge the mock proof is refused, because the exchange was lost from the
    beginning.
    """
    mock = ScramSecret.derive(b"guessed", mock_salt(MOCK_KEY, USER.encode()))
    server = authentication("scram-sha-256", None)
    server.begin()
    assert server._sasl is not None
    server._sasl.secret = mock
    bare = f"n=,r={CLIENT_NONCE}"
    reply = server.receive(initial(f"n,,{bare}".encode()))[9:].decode()
    forged = client_final(b"guessed", mock, bare, reply, b"n,,")
    assert refusal(server, forged) == (FAILED, SqlState.INVALID_PASSWORD)


def test_secrets_are_not_printed() -> None:
    """No representation of a machine or of credentials contains a secret."""
    for kind in ("clear", "md5", "scram"):
        secret = stored(kind)
        printed = repr(begun("scram-sha-256", secret)) + repr(Credentials.parse(USER, secret))
        secrets = re.split(r"[$:]", secret)[-2:] if kind == "scram" else [secret, secret.removeprefix("md5")]
        assert [part for part in secrets if part in printed] == []
        assert repr(MOCK_KEY) not in printed
    assert PASSWORD not in repr(login())


# -- stored secrets ------------------------------------------------------------------------------------------


def test_secrets_are_told_apart() -> None:
    """Clear text, MD5 and SCRAM secrets are recognised as PostgreSQL recognises them."""
    digest = "0123456789abcdef" * 2
    scram = ScramSecret.derive(b"x", b"salt", 7)
    assert Credentials.parse("u", None) == Credentials("u")
    assert Credentials.parse("u", "md5" + digest) == Credentials("u", md5=digest)
    assert Credentials.parse("u", "md5" + digest.upper()) == Credentials(
        "u", clear=b"md5" + digest.upper().encode()
    )
    assert Credentials.parse("u", "md5sum") == Credentials("u", clear=b"md5sum")
    assert Credentials.parse("u", str(scram)) == Credentials("u", scram=scram)
    assert Credentials.parse("u", str(scram)[:-4]) == Credentials("u")


def test_secrets_with_few_iterations_and_short_salts_work() -> None:
    """What `scram_iterations` of PostgreSQL 16 allows to be stored can be used, as it can there."""
    secret = ScramSecret.derive(PASSWORD.encode(), b"s", 1)
    server = begun("scram-sha-256", str(secret))
    first_bare = f"n=,r={CLIENT_NONCE}"
    reply = server.receive(initial(f"n,,{first_bare}".encode()))[9:].decode()
    assert reply == f"r={CLIENT_NONCE}{SERVER_NONCE},s=cw==,i=1"
    final = client_final(PASSWORD.encode(), secret, first_bare, reply, b"n,,")
    assert server.receive(final)[5:9] == struct.pack("!I", AuthenticationCode.SASL_FINAL)
    assert server.done


# -- certificates and trust ----------------------------------------------------------------------------------


def test_trust_asks_nothing() -> None:
    """Under trust everybody is let in without a message."""
    server = authentication("trust", None)
    assert (server.begin(), server.done) == (b"", True)


def test_a_certificate_opens_for_its_names_only() -> None:
    """Under cert the user must be one of the names of a verified client certificate, over TLS."""
    server = authentication("cert", None, tls=True, names=frozenset({"other", USER}))
    assert (server.begin(), server.done) == (b"", True)
    for names, tls, expected in (
        (frozenset({"other"}), True, f'certificate authentication failed for user "{USER}"'),
        (frozenset(), True, f'certificate authentication failed for user "{USER}"'),
        (None, True, "connection requires a valid client certificate"),
        (frozenset({USER}), False, "connection requires a valid client certificate"),
    ):
        server = authentication("cert", None, tls=tls, names=names)
        with pytest.raises(ClientFault) as caught:
            server.begin()
        assert (caught.value.message, caught.value.sqlstate) == (expected, SqlState.INVALID_AUTHORIZATION)
        assert not server.done


def test_unknown_methods_are_our_bug() -> None:
    """A method that does not exist is refused when the machine is made."""
    with pytest.raises(ValueError, match="gss"):
        authentication("gss", None)
