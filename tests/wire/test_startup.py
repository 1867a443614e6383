"""The packets that open a connection."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError
from trio_pool.wire.startup import CancelRequest, Negotiation, StartupMessage, read_startup
from trio_pool.wire.tags import StartupCode

names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)


@given(st.dictionaries(names, st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_parameters_can_be_read_back(parameters: dict[str, str]) -> None:
    """A StartupMessage gives back its parameters, empty values included."""
    packet = messages.startup(parameters, StartupCode.PROTOCOL_3_2)
    assert StartupMessage(2, parameters) == read_startup(packet[4:])


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (messages.SSL_REQUEST, Negotiation.SSL),
        (messages.GSSENC_REQUEST, Negotiation.GSSENC),
        (messages.cancel_request(7, b"abcd"), CancelRequest(7, b"abcd")),
        (messages.cancel_request(7, b"x" * 256), CancelRequest(7, b"x" * 256)),
    ],
)
def test_requests(packet: bytes, expected: object) -> None:
    """Requests for encryption and for a cancel are told apart from a StartupMessage."""
    assert expected == read_startup(packet[4:])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\0\2\0\0", "unsupported frontend protocol 2.0"),
        (b"\0\4\0\0user\0me\0\0", "unsupported frontend protocol 4.0"),
        (b"GET / HTTP/1.1\r\n", "unsupported frontend protocol"),
        (b"\0\3\0\0user\0me\0", "invalid startup packet layout"),
        (b"\0\3\0\0user\0me", "invalid startup packet layout"),
        (b"\0\3\0\0user\0\0\0\0", "invalid startup packet layout"),
        (b"\0\3\0\0\0more\0", "invalid startup packet layout"),
        (b"\0\3\0\0", "invalid startup packet layout"),
        (b"\x04\xd2\x16\x2e\0\0\0\7abc", "invalid length of cancel request packet"),
        (b"\x04\xd2\x16\x2e\0\0\0\7" + b"x" * 257, "invalid length of cancel request packet"),
    ],
)
def test_nonsense(body: bytes, words: str) -> None:
    """What is none of them is refused, in words that may be shown to the peer."""
    with pytest.raises(FramingError, match=words):
        read_startup(body)


@given(st.binary(min_size=4, max_size=64))
def test_any_bytes(body: bytes) -> None:
    """Nothing but `FramingError` is ever raised."""
    with contextlib.suppress(FramingError):
        read_startup(body)
