"""Authentication of clients: malformed messages, channel binding, and messages that were tampered with."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.conversation import (
    BINDING,
    CHALLENGING,
    CLIENT_NONCE,
    FAILED,
    FITTING,
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
from trio_pool.errors import ClientFault, ServerFault, SqlState
from trio_pool.protocol.auth import Credentials
from trio_pool.protocol.credentials import ScramSecret
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode

# -- malformed messages --------------------------------------------------------------------------------------

FIRST = f"n,,n=,r={CLIENT_NONCE}".encode()
NONCES = f"r={CLIENT_NONCE}{SERVER_NONCE}"
PROOF = base64.b64encode(bytes(32)).decode()
VIOLATION = SqlState.PROTOCOL_VIOLATION
MALFORMED = ("malformed SCRAM message", VIOLATION)


@pytest.mark.parametrize("method", ["password", "md5"])
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("invalid password packet size", VIOLATION)),
        (b"x", ("invalid password packet size", VIOLATION)),
        (b"x\0y\0", ("invalid password packet size", VIOLATION)),
        (PASSWORD.encode() + b"\0\0", ("invalid password packet size", VIOLATION)),
        (b"\0", ("empty password returned by client", SqlState.INVALID_PASSWORD)),
    ],
)
def test_malformed_passwords(method: str, body: bytes, expected: tuple[str, str]) -> None:
    """A PasswordMessage is one non-empty string that fills the message."""
    assert refusal(begun(method), body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", ("invalid string in message", VIOLATION)),
        (b"SCRAM-SHA-256", ("invalid string in message", VIOLATION)),
        (
            initial(FIRST, "SCRAM-SHA-1"),
            ("client selected an invalid SASL authentication mechanism", VIOLATION),
        ),
        (initial(FIRST, PLUS), ("client selected an invalid SASL authentication mechanism", VIOLATION)),
        (b"SCRAM-SHA-256\0\0\0", ("insufficient data left in message", VIOLATION)),
        (b"SCRAM-SHA-256\0\0\0\0\x0c" + FIRST[:5], ("insufficient data left in message", VIOLATION)),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xfe", ("insufficient data left in message", VIOLATION)),
        (initial(FIRST) + b"x", ("invalid message format", VIOLATION)),
        (b"SCRAM-SHA-256\0\xff\xff\xff\xffx", ("invalid message format", VIOLATION)),
        (initial(bytes(1025)), ("invalid message length", VIOLATION)),
        (initial(b""), MALFORMED),
        (initial(FIRST + b"\0"), MALFORMED),
        (initial(b"n,,n=\xff,r=x"), MALFORMED),
        (initial(b"x,,n=,r=x"), MALFORMED),
        (initial(b"nn,,n=,r=x"), MALFORMED),
        (initial(b"n"), MALFORMED),
        (initial(b"n,"), MALFORMED),
        (initial(b"n,x,n=,r=x"), MALFORMED),
        (initial(b"n,,r=x"), MALFORMED),
        (initial(b"n,,n="), MALFORMED),
        (initial(b"n,,n=,r=x,extension"), MALFORMED),
        (initial(b"p=tls-server-end-point,,n=,r=x"), MALFORMED),
        (initial(b"n,,n=,r=\xc3\xa4"), ("non-printable characters in SCRAM nonce", VIOLATION)),
        (initial(b"n,,n=,r= "), ("non-printable characters in SCRAM nonce", VIOLATION)),
        (initial(b"n,,n=,r="), ("non-printable characters in SCRAM nonce", VIOLATION)),
        (
            initial(b"n,a=root,n=,r=x"),
            ("client uses authorization identity, but it is not supported", SqlState.FEATURE_NOT_SUPPORTED),
        ),
        (
            initial(b"n,,m=x,n=,r=x"),
            ("client requires an unsupported SCRAM extension", SqlState.FEATURE_NOT_SUPPORTED),
        ),
    ],
)
def test_malformed_first_messages(body: bytes, expected: tuple[str, str]) -> None:
    """What is wrong with a first SASL message is told in PostgreSQL's words."""
    assert refusal(begun("scram-sha-256"), body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", MALFORMED),
        (b"nonsense", MALFORMED),
        (f"c=biws,{NONCES}".encode(), MALFORMED),
        (f"c=biws,{NONCES},p=!".encode(), MALFORMED),
        (f"c=biws,r=other,p={PROOF}".encode(), MALFORMED),
        (f"c=biws,{NONCES},p={PROOF},x=y".encode(), MALFORMED),
        (
            f"c=eSws,{NONCES},p={PROOF}".encode(),
            ("unexpected SCRAM channel-binding attribute in client-final-message", VIOLATION),
        ),
        (f"c=biws,{NONCES},p={PROOF}".encode(), (FAILED, SqlState.INVALID_PASSWORD)),
        (f"c=biws,{NONCES},p=QUFB".encode(), (FAILED, SqlState.INVALID_PASSWORD)),
    ],
)
def test_malformed_final_messages(body: bytes, expected: tuple[str, str]) -> None:
    """What is wrong with a final SASL message is told in PostgreSQL's words, and ends the authentication."""
    machine = begun("scram-sha-256")
    assert refusal(machine, initial(FIRST), body) == expected
    assert refusal(machine, body) == ("invalid frontend message type 112", VIOLATION)


@pytest.mark.parametrize("name", ["", "*", "somebody else", "=", "a=2Cb", "\u0007", "\u0627x"])
def test_the_user_name_inside_scram_is_ignored(name: str) -> None:
    """The StartupMessage's user counts; what stands in SCRAM (nothing, from libpq) may be anything."""
    secret = ScramSecret.derive(PASSWORD.encode(), b"sixteen bytes ss")
    server = begun("scram-sha-256", str(secret))
    bare = f"n={name},r={CLIENT_NONCE},x=an extension"
    reply = server.receive(initial(f"n,,{bare}".encode()))[9:].decode()
    server.receive(client_final(PASSWORD.encode(), secret, bare, reply, b"n,,"))
    assert server.done


def test_the_first_message_may_come_on_its_own() -> None:
    """A SASLInitialResponse without a response is answered with an empty challenge, then the exchange goes
    on.
    """
    machine = begun("scram-sha-256")
    empty = messages.authentication(AuthenticationCode.SASL_CONTINUE)
    assert machine.receive(b"SCRAM-SHA-256\0\xff\xff\xff\xff") == empty
    assert machine.receive(FIRST)[9:].startswith(NONCES.encode())


def test_nothing_may_follow_success() -> None:
    """A second 'p' message is refused after authentication is done."""
    machine = begun("password")
    machine.receive(PASSWORD.encode() + b"\0")
    assert machine.done
    with pytest.raises(ClientFault):
        machine.receive(PASSWORD.encode() + b"\0")


# -- channel binding -----------------------------------------------------------------------------------------


def test_plus_is_offered_first_and_only_over_tls() -> None:
    """SCRAM-SHA-256-PLUS is offered ahead of the plain mechanism where there is a certificate hash to bind
    to.
    """
    credentials = Credentials.parse(USER, PASSWORD)
    offers = [
        authentication("scram-sha-256", credentials, binding=BINDING).begin(),
        authentication("scram-sha-256", credentials, binding=BINDING, tls=False).begin(),
        authentication("scram-sha-256", credentials, tls=True).begin(),
    ]
    assert offers == [messages.sasl_mechanisms(names) for names in ([PLUS, PLAIN], [PLAIN], [PLAIN])]


def test_hiding_plus_from_the_client_is_noticed() -> None:
    """A client that could bind but believes that we cannot ("y") is refused: somebody removed our offer."""

    def hide(sender: str, body: bytes) -> bytes:
        return body.replace(PLUS.encode() + b"\0", b"") if sender == "server" else body

    server = authentication("scram-sha-256", Credentials.parse(USER, PASSWORD), binding=BINDING)
    fault = fault_of(Conversation(login(binding=BINDING), server, hide))
    assert (fault.message, fault.sqlstate) == ("SCRAM channel binding negotiation error", "28000")


def test_another_certificate_is_noticed() -> None:
    """A client that bound to another certificate than ours is refused: somebody sits in between."""
    server = authentication("scram-sha-256", Credentials.parse(USER, PASSWORD), binding=BINDING)
    fault = fault_of(Conversation(login(binding=bytes(32)), server))
    assert (fault.message, fault.sqlstate) == ("SCRAM channel binding check failed", "28000")


def test_a_client_that_cannot_bind_need_not() -> None:
    """Over TLS the plain mechanism stays open to clients without channel binding ("n")."""
    server = authentication("scram-sha-256", Credentials.parse(USER, PASSWORD), binding=BINDING)
    Conversation(login(tls=True), server).run()
    assert server.done


def test_y_is_right_where_plus_is_not_offered() -> None:
    """A client that could bind logs in where our certificate has no hash to bind to."""
    server = authentication("scram-sha-256", Credentials.parse(USER, PASSWORD), tls=True)
    Conversation(login(binding=BINDING), server).run()
    assert server.done


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (b"n,,n=,r=x", MALFORMED),
        (b"y,,n=,r=x", MALFORMED),
        (b"p=tls-unique,,n=,r=x", ('unsupported SCRAM channel-binding type "tls-unique"', VIOLATION)),
        (b"p=\xc3\xa4,,n=,r=x", ('unsupported SCRAM channel-binding type "?"', VIOLATION)),
    ],
)
def test_flags_that_do_not_fit_plus(first: bytes, expected: tuple[str, str]) -> None:
    """PLUS without binding data, or with another type of it, is refused in PostgreSQL's words."""
    assert refusal(begun("scram-sha-256", binding=BINDING), initial(first, PLUS)) == expected


# -- tampering -----------------------------------------------------------------------------------------------


@given(st.binary(max_size=80), st.binary(max_size=80), st.sampled_from(CHALLENGING), st.booleans())
def test_noise_never_authenticates(first: bytes, second: bytes, method: str, enveloped: bool) -> None:
    """Arbitrary messages raise ClientFault, nothing else, and never authenticate."""
    machine = begun(method)
    with pytest.raises(ClientFault):  # noqa: PT012
        machine.receive(initial(first) if enveloped else first)
        machine.receive(second)
        machine.receive(second)
    assert not machine.done


@given(st.text(max_size=40), st.text(max_size=60))
def test_structured_noise_never_authenticates(first: str, second: str) -> None:
    """Arbitrary text in SCRAM's places raises ClientFault, nothing else, and never authenticates."""
    machine = begun("scram-sha-256")
    with pytest.raises(ClientFault):  # noqa: PT012
        machine.receive(initial(f"n,,n={first},r={CLIENT_NONCE}".encode()))
        machine.receive(f"c=biws,{NONCES}{second},p={PROOF}".encode())
    assert not machine.done


edits = st.tuples(
    st.integers(0, 3),
    st.integers(0, 300),
    st.sampled_from(["replace", "insert", "delete"]),
    st.integers(0, 255),
)


def edited(body: bytes, position: int, how: str, byte: int) -> bytes:
    """A body with one byte changed, inserted or deleted."""
    position %= len(body) + (how == "insert")
    kept = body[position:] if how == "insert" else body[position + 1 :]
    return body[:position] + (b"" if how == "delete" else bytes([byte])) + kept


@given(edits)
@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "tls"])
@pytest.mark.parametrize(("method", "kind"), FITTING)
def test_a_changed_message_never_authenticates(
    method: str, kind: str, binding: bytes | None, edit: tuple[int, int, str, int]
) -> None:
    """One changed byte in what a client sends is a fault, unless it is one of base 64's unused bits."""
    which, position, how, byte = edit
    count = 0
    changed: list[tuple[bytes, bytes]] = []

    def tamper(sender: str, body: bytes) -> bytes:
        nonlocal count
        if sender == "server" or not body:
            return body
        count += 1
        if count != which + 1:
            return body
        changed.append((body, edited(body, position, how, byte)))
        return changed[0][1]

    server = authentication(method, Credentials.parse(USER, stored(kind)), binding=binding)
    conversation = Conversation(login(binding=binding), server, tamper)
    try:
        conversation.run()
    except (ClientFault, ServerFault):
        assert not conversation.client.done
    else:
        assert all(same_proof(before, after) for before, after in changed)


def same_proof(before: bytes, after: bytes) -> bool:
    """Whether two messages differ at most in the unused bits of the proof's base 64."""
    head, _, proof = before.rpartition(b",p=")
    other_head, _, other = after.rpartition(b",p=")
    return before == after or (head == other_head and base64.b64decode(proof) == base64.b64decode(other))
