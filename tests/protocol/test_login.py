"""Logging in at origins: the whole way, and what servers may not do."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.protocol.conversation import (
    BINDING,
    CLIENT_NONCE,
    PASSWORD,
    USER,
    Conversation,
    authentication,
    login,
    stored,
)
from trio_pool.errors import ClientFault, Reason, ServerFault, SqlState
from trio_pool.protocol.auth import Credentials
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import AuthenticationCode, Backend, StartupCode, Status

if TYPE_CHECKING:
    from trio_pool.protocol.login import Login

PLAIN, PLUS = "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"
CLEARTEXT = messages.authentication(AuthenticationCode.CLEARTEXT_PASSWORD)
MD5 = messages.authentication(AuthenticationCode.MD5_PASSWORD, b"salt")
SASL = messages.sasl_mechanisms([PLAIN])
OK = messages.AUTHENTICATION_OK
READY = messages.READY[Status.IDLE]
KEY = messages.backend_key_data(1, b"key!")
SERVER_FIRST = messages.authentication(
    AuthenticationCode.SASL_CONTINUE, f"r={CLIENT_NONCE}server,s={'A' * 24},i=4096".encode()
)
SASL_FINAL = messages.authentication(AuthenticationCode.SASL_FINAL, b"v=" + base64.b64encode(bytes(32)))
VIOLATION: Final = Reason.SERVER_PROTOCOL_VIOLATION


def feed(machine: Login, data: bytes) -> bytes:
    """What the machine answers to some messages."""
    assembler, answer = Assembler(), b""
    assembler.feed(data)
    while (message := assembler.message()) is not None:
        answer += machine.receive(*message)
    assert assembler.rest() == b""
    return answer


def fault_after(machine: Login, data: bytes) -> ServerFault:
    """The fault that some messages end in."""
    machine.begin()
    with pytest.raises(ServerFault) as caught:
        feed(machine, data)
    assert not machine.done
    return caught.value


# -- the whole way -------------------------------------------------------------------------------------------


def test_the_startup_message_carries_the_parameters() -> None:
    """User, database and settings are sent with the version asked for."""
    machine = login()
    assert machine.begin() == messages.startup({"user": USER, "database": "db"}, StartupCode.PROTOCOL_3_2)


def test_what_the_server_says_is_kept() -> None:
    """Parameters, process id and secret are kept, notices pass, and the login is done at ReadyForQuery."""
    machine = login()
    machine.begin()
    feed(
        machine,
        messages.notice("00000", "hello")
        + messages.negotiate_protocol_version(2, [])
        + OK
        + messages.parameter_status("a", "1")
        + messages.parameter_status("a", "2")
        + messages.notice("00000", "hello")
        + messages.backend_key_data(4711, bytes(range(32))),
    )
    assert not machine.done
    feed(machine, READY)
    assert (machine.done, machine.parameters) == (True, {"a": "2"})
    assert (machine.process_id, machine.secret, machine.minor) == (4711, bytes(range(32)), 2)


def test_protocol_3_0_is_accepted() -> None:
    """A server that does not speak 3.2 negotiates down to 3.0, with a secret of four bytes."""
    machine = login()
    machine.begin()
    feed(machine, messages.negotiate_protocol_version(0, []) + OK + KEY + READY)
    assert (machine.done, machine.minor, machine.secret) == (True, 0, b"key!")


def test_md5_is_answered_from_clear_text_and_from_a_hash() -> None:
    """A configured MD5 hash answers an MD5 challenge as the password does."""
    answers = set()
    for password in (PASSWORD, stored("md5")):
        machine = login(password)
        machine.begin()
        answers.add(feed(machine, MD5))
    assert len(answers) == 1


# -- passwords that cannot be given --------------------------------------------------------------------------


def test_clear_text_leaves_over_tls_or_by_permission_only() -> None:
    """A password is sent as it is over TLS or where that is allowed, and nowhere else."""
    for tls, allowed in ((True, False), (False, True)):
        machine = login(tls=tls, allow_cleartext=allowed)
        machine.begin()
        assert feed(machine, CLEARTEXT) == messages.password(PASSWORD.encode())
    fault = fault_after(login(allow_cleartext=False), CLEARTEXT)
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_AUTHORIZATION, Reason.SERVER_LOGIN_FAILED)
    assert "clear text" in fault.message


@pytest.mark.parametrize("challenge", [CLEARTEXT, MD5, SASL], ids=["password", "md5", "scram"])
@pytest.mark.parametrize("password", [None, ""])
def test_a_missing_password_is_named(challenge: bytes, password: str | None) -> None:
    """A server that asks for a password where none is configured gets nothing, and the error says so."""
    fault = fault_after(login(password), challenge)
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_PASSWORD, Reason.SERVER_LOGIN_FAILED)
    assert f'none is configured for user "{USER}"' in fault.message
    assert fault.lasting


@pytest.mark.parametrize(
    ("challenge", "kind"),
    [(CLEARTEXT, "md5"), (SASL, "md5"), (CLEARTEXT, "scram"), (MD5, "scram"), (SASL, "scram")],
)
def test_a_hash_is_not_sent_as_a_password(challenge: bytes, kind: str) -> None:
    """A configured hash that cannot answer the challenge is not sent in the password's place."""
    fault = fault_after(login(stored(kind)), challenge)
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_PASSWORD, Reason.SERVER_LOGIN_FAILED)
    assert "is a hash" in fault.message


def test_a_null_byte_is_not_sent() -> None:
    """A password with a null byte would be cut short; it is refused instead."""
    fault = fault_after(login("a\0b"), CLEARTEXT)
    assert fault.sqlstate == SqlState.INVALID_PASSWORD
    assert "null byte" in fault.message


@pytest.mark.parametrize("code", [2, 6, 7, 9])
def test_other_methods_are_named(code: int) -> None:
    """A server that asks for a method we do not have is told from one that breaks the protocol."""
    fault = fault_after(login(), messages.authentication(code))
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_AUTHORIZATION, Reason.SERVER_LOGIN_FAILED)
    assert "not supported" in fault.message


@pytest.mark.parametrize("offered", [[], ["SCRAM-SHA-1"], ["OAUTHBEARER"]])
def test_unknown_mechanisms_are_named(offered: list[str]) -> None:
    """A server that offers only mechanisms we do not have is told from one that breaks the protocol."""
    fault = fault_after(login(), messages.sasl_mechanisms(offered))
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_AUTHORIZATION, Reason.SERVER_LOGIN_FAILED)
    assert ", ".join(offered) in fault.message


def test_few_iterations_are_refused_and_explained() -> None:
    """A SCRAM secret of fewer than 4,096 iterations is refused, and the error says how to mend it."""
    first = f"r={CLIENT_NONCE}x,s={'A' * 24},i=4095".encode()
    fault = fault_after(login(), SASL + messages.authentication(AuthenticationCode.SASL_CONTINUE, first))
    assert (fault.sqlstate, fault.reason) == (SqlState.INVALID_AUTHORIZATION, Reason.SERVER_LOGIN_FAILED)
    assert "4095 iterations" in fault.message
    assert "scram_iterations" in fault.message


# -- what servers refuse and what they must not do -----------------------------------------------------------


@pytest.mark.parametrize("before", [b"", OK, CLEARTEXT, SASL, SASL + SERVER_FIRST], ids=len)
def test_the_servers_own_error_is_passed_on(before: bytes) -> None:
    """An ErrorResponse ends the login at any point with the server's SQLSTATE and words."""
    fault = fault_after(
        login(), before + messages.error("3D000", 'database "x" does not exist', severity="FATAL")
    )
    assert (fault.message, fault.sqlstate) == ('database "x" does not exist', "3D000")
    assert fault.reason is Reason.SERVER_LOGIN_FAILED


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(READY, id="ready before ok"),
        pytest.param(KEY, id="key before ok"),
        pytest.param(messages.parameter_status("a", "b"), id="parameter before ok"),
        pytest.param(OK + messages.READY[Status.IN_TRANSACTION], id="in a transaction"),
        pytest.param(OK + OK, id="ok twice"),
        pytest.param(OK + CLEARTEXT, id="challenge after ok"),
        pytest.param(OK + messages.negotiate_protocol_version(0, []), id="negotiation after ok"),
        pytest.param(CLEARTEXT + READY, id="ready after password"),
        pytest.param(CLEARTEXT + CLEARTEXT, id="two challenges"),
        pytest.param(MD5 + SASL, id="another challenge"),
        pytest.param(SASL + OK, id="ok instead of a challenge"),
        pytest.param(SASL + SERVER_FIRST + OK, id="ok instead of a proof"),
        pytest.param(SASL + SERVER_FIRST + SERVER_FIRST, id="second challenge"),
        pytest.param(SASL + SASL_FINAL, id="proof before the challenge"),
        pytest.param(SASL + SERVER_FIRST + SASL_FINAL, id="wrong proof"),
        pytest.param(SERVER_FIRST, id="challenge from nowhere"),
        pytest.param(SASL_FINAL, id="proof from nowhere"),
        pytest.param(messages.sasl_mechanisms([PLUS, PLAIN]), id="binding without TLS"),
        pytest.param(messages.authentication(99), id="unknown authentication"),
        pytest.param(messages.authentication(AuthenticationCode.MD5_PASSWORD, b"abc"), id="short salt"),
        pytest.param(messages.authentication(AuthenticationCode.OK, b"x"), id="long ok"),
        pytest.param(messages.message(Backend.AUTHENTICATION, b"\0\0"), id="short authentication"),
        pytest.param(messages.authentication(AuthenticationCode.SASL, b"SCRAM"), id="endless mechanisms"),
        pytest.param(OK + messages.message(Backend.BACKEND_KEY_DATA, b"\0\0\0\0"), id="no key"),
        pytest.param(OK + messages.backend_key_data(1, bytes(257)), id="long key"),
        pytest.param(
            messages.negotiate_protocol_version(0, []) + OK + messages.backend_key_data(1, bytes(32)),
            id="long key in 3.0",
        ),
        pytest.param(OK + messages.message(Backend.PARAMETER_STATUS, b"a\0"), id="half a parameter"),
        pytest.param(OK + messages.message(Backend.READY_FOR_QUERY), id="empty ready"),
        pytest.param(messages.negotiate_protocol_version(3, []), id="negotiated upwards"),
        pytest.param(messages.negotiate_protocol_version(2, ["_pq_.x"]), id="unknown options"),
        pytest.param(
            messages.message(Backend.NEGOTIATE_PROTOCOL_VERSION, b"\0\3\0\0"), id="short negotiation"
        ),
        pytest.param(
            messages.message(Backend.NEGOTIATE_PROTOCOL_VERSION, struct.pack("!II", 2 << 16, 0)), id="2.0"
        ),
        pytest.param(messages.message(Backend.DATA_ROW, b"\0\0"), id="rows"),
        pytest.param(messages.message(Backend.NOTIFICATION_RESPONSE, b"\0\0\0\0a\0\0"), id="notification"),
        pytest.param(messages.message(0), id="no tag"),
    ],
)
def test_breaking_the_protocol_is_noticed(data: bytes) -> None:
    """Messages out of order, malformed ones, and an AuthenticationOk without the server's proof end the
    login.
    """
    assert fault_after(login(), data).reason is VIOLATION


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"\xff",
        b"e=other-error",
        b"r=other,s=AAAA,i=4096",
        f"r={CLIENT_NONCE},s={'A' * 24},i=4096".encode(),
    ],
)
def test_malformed_challenges_are_noticed(first: bytes) -> None:
    """A server-first-message that is none, or does not extend our nonce, ends the login."""
    data = SASL + messages.authentication(AuthenticationCode.SASL_CONTINUE, first)
    assert fault_after(login(), data).reason is VIOLATION


def test_nothing_is_accepted_after_the_end() -> None:
    """A machine that is done, or has failed, takes no further message."""
    machine = login()
    machine.begin()
    feed(machine, OK + READY)
    for data in (READY, messages.error("57P01", "shutdown"), OK):
        with pytest.raises(ServerFault):
            feed(machine, data)
        assert not machine.done


tags = st.sampled_from(b"RSKZvEN") | st.integers(0, 255)
bodies = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda code, data: struct.pack("!I", code) + data,
        st.sampled_from([0, 3, 5, 10, 11, 12]),
        st.binary(max_size=60),
    ),
    st.builds(lambda text: f"\0\0\0\x0br={CLIENT_NONCE}{text}".encode(), st.text(max_size=60)),
)


@given(st.lists(st.tuples(tags, bodies), max_size=6), st.booleans())
def test_noise_raises_nothing_else(noise: list[tuple[int, bytes]], begun_sasl: bool) -> None:
    """Arbitrary messages raise ServerFault, nothing else; no SCRAM exchange ends well by chance."""
    machine = login()
    machine.begin()
    try:
        if begun_sasl:
            feed(machine, SASL)
        for tag, body in noise:
            machine.receive(tag, body)
    except ServerFault:
        assert not machine.done
    else:
        assert not (begun_sasl and machine.done)


@given(
    st.integers(1, 2),
    st.integers(0, 300),
    st.sampled_from(["replace", "insert", "delete"]),
    st.integers(0, 255),
)
@pytest.mark.parametrize("binding", [None, BINDING], ids=["plain", "tls"])
def test_a_changed_challenge_never_logs_in(
    binding: bytes | None, which: int, position: int, how: str, byte: int
) -> None:
    """One changed byte in the server's challenge or proof is a fault, unless it is one of base 64's unused
    bits.
    """
    count = 0
    changed: list[tuple[bytes, bytes]] = []

    def tamper(sender: str, body: bytes) -> bytes:
        nonlocal count
        if sender == "client":
            return body
        count += 1
        if count != which + 1:
            return body
        place = position % (len(body) + (how == "insert"))
        kept = body[place:] if how == "insert" else body[place + 1 :]
        changed.append((body, body[:place] + (b"" if how == "delete" else bytes([byte])) + kept))
        return changed[0][1]

    server = authentication("scram-sha-256", Credentials.parse(USER, stored("scram")), binding=binding)
    conversation = Conversation(login(binding=binding), server, tamper)
    try:
        conversation.run()
    except (ClientFault, ServerFault):
        assert not conversation.client.done
    else:
        assert all(before == after or same_signature(before, after) for before, after in changed)


def same_signature(before: bytes, after: bytes) -> bool:
    """Whether two server-final-messages differ at most in the unused bits of base 64."""
    return after[:6] == before[:6] and base64.b64decode(after[6:]) == base64.b64decode(before[6:])
