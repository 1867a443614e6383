"""The messages that are built and read, against the bytes that the protocol's chapter gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.wire import messages, tags
from trio_pool.wire.frames import FramingError
from trio_pool.wire.messages import ErrorFields
from trio_pool.wire.tags import Backend, Status

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
no_null = st.binary(max_size=80).map(lambda data: data.replace(b"\0", b""))


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (b"Z\0\0\0\5I", messages.READY[Status.IDLE]),
        (b"K\0\0\0\x0c\0\0\0\7abcd", messages.backend_key_data(7, b"abcd")),
        (b"C\0\0\0\x0dROLLBACK\0", messages.command_complete("ROLLBACK")),
        (b"Q\0\0\0\x0dselect 1\0", messages.query("select 1")),
        (b"A\0\0\0\x0d\0\0\0\7ab\0c\0", messages.notification(7, b"ab", b"c")),
        (b"P\0\0\0\x10s1\0select\0\0\0", messages.parse(b"s1", b"select\0\0\0")),
        (b"C\0\0\0\x08Ss1\0", messages.close_statement(b"s1")),
        (b"E\0\0\0\x09\0\0\0\0\0", messages.EXECUTE),
        (b"\0\0\0\x08\x04\xd2\x16\x2f", messages.SSL_REQUEST),
        (b"\0\0\0\x08\x04\xd2\x16\x30", messages.GSSENC_REQUEST),
        (b"\0\0\0\x10\x04\xd2\x16\x2e\0\0\0\7abcd", messages.cancel_request(7, b"abcd")),
        (b"\0\0\0\x11\0\3\0\0user\0me\0\0", messages.startup({"user": "me"})),
        (b"v\0\0\0\x13\0\3\0\2\0\0\0\1_pq_.x\0", messages.negotiate_protocol_version(2, ["_pq_.x"])),
        (
            b"B\0\0\0\x13\0s\0\0\0\0\1\0\0\0\2ab\0\0",
            messages.bind(b"s", ["ab"]),
        ),
    ],
)
def test_bytes(expected: bytes, actual: bytes) -> None:
    """Each builder gives the bytes of "Message Formats"."""
    assert expected == actual


@given(texts, texts, st.none() | texts)
def test_an_error_can_be_read_back(sqlstate: str, summary: str, detail: str | None) -> None:
    """What was put into an ErrorResponse is what its reader finds."""
    body = messages.error(sqlstate, summary, severity="FATAL", detail=detail)[5:]
    assert ErrorFields("FATAL", sqlstate, summary, detail) == messages.read_error(body)


@given(st.binary(max_size=100))
def test_nonsense_is_still_an_error(body: bytes) -> None:
    """An ErrorResponse that is none can be logged."""
    assert isinstance(messages.read_error(body), ErrorFields)


@given(texts.filter(bool), texts)
def test_a_parameter_can_be_read_back(name: str, value: str) -> None:
    """ParameterStatus gives back name and value."""
    assert messages.read_parameter_status(messages.parameter_status(name, value)[5:]) == (name, value)


@pytest.mark.parametrize("body", [b"", b"a", b"a\0", b"a\0b", b"a\0b\0c", b"a\0b\0\0"])
def test_a_malformed_parameter(body: bytes) -> None:
    """Anything but two terminated strings is refused."""
    with pytest.raises(FramingError):
        messages.read_parameter_status(body)


@given(st.integers(0, 2**32 - 1), no_null, no_null)
def test_a_notification_can_be_read_back(process_id: int, channel: bytes, payload: bytes) -> None:
    """NotificationResponse gives back channel and payload."""
    body = messages.notification(process_id, channel, payload)[5:]
    assert messages.read_notification(body) == (channel, payload)


@pytest.mark.parametrize("rest", [b"", b"a\0", b"a\0b", b"a\0b\0c\0"])
def test_a_malformed_notification(rest: bytes) -> None:
    """Anything but two terminated strings behind the process id is refused."""
    with pytest.raises(FramingError):
        messages.read_notification(b"\0\0\0\7" + rest)


@pytest.mark.parametrize("secret", [b"", b"abc", b"x" * 257])
def test_a_malformed_key(secret: bytes) -> None:
    """A cancel key has 4 to 256 bytes (protocol 3.2)."""
    with pytest.raises(FramingError):
        messages.read_backend_key_data(messages.backend_key_data(1, secret)[5:])


def test_a_null_byte_ends_no_string_early() -> None:
    """Text with a null byte cannot become a protocol string, which would smuggle what follows."""
    with pytest.raises(ValueError, match="null byte"):
        messages.query("select 1\0drop table t")


def test_names_that_are_not_unicode_pass_through() -> None:
    """Bytes that are no UTF-8 come out of a StartupMessage as they went in."""
    raw = b"caf\xe9"
    assert raw + b"\0" == messages.text(raw.decode(errors="surrogateescape"))


def test_tags_are_split_by_direction() -> None:
    """No two messages of one direction share a tag; pg8000's constants may change, their meaning may not."""
    for direction in (tags.Frontend, tags.Backend):
        values = [value for name, value in vars(direction).items() if name.isupper()]
        assert len(values) == len(set(values))
    assert (ord("C"), ord("C")) == (Backend.COMMAND_COMPLETE, tags.Frontend.CLOSE)
    assert (ord("D"), ord("D")) == (Backend.DATA_ROW, tags.Frontend.DESCRIBE)
