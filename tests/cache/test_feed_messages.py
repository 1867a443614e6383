"""The messages between an origin and its edges about what ends kept answers."""

from __future__ import annotations

import pytest

from trio_pool.cache import feed
from trio_pool.cache.feed import Told
from trio_pool.cache.freshness import SLOTS
from trio_pool.protocol import link
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (feed.greeting(4711), Told("feed", 4711)),
        (feed.ended(3, (1, 8191)), Told("ended", 3, (1, 8191))),
        (feed.doubt(4, 60_000, (5,)), Told("doubt", 4, (5,), 60_000)),
        (feed.alive(9), Told("alive", 9)),
    ],
)
def test_what_an_origin_tells(message: bytes, told: Told) -> None:
    """A note on the link's channel, from nobody whom PostgreSQL knows."""
    channel, payload = messages.read_notification(message[5:])
    assert (channel, message[5:9]) == (link.CHANNEL, bytes(4))
    assert told == feed.read(payload)


@pytest.mark.parametrize(
    ("message", "told"), [(feed.ping(7), Told("ping", 7)), (feed.seen(8), Told("seen", 8))]
)
def test_what_an_edge_says(message: bytes, told: Told) -> None:
    """A Query."""
    assert told == feed.read(message[5:])


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"feed 1 2",
        b"feed %d" % SLOTS,
        b"ended",
        b"ended x",
        b"ended 1 0",
        b"ended 1 %d" % SLOTS,
        b"ended 1 -1",
        b"doubt 1",
        b"ping",
        b"ping 1 2",
        b"SELECT 1",
    ],
)
def test_what_is_no_message(text: bytes) -> None:
    """Is refused, with its beginning."""
    with pytest.raises(FramingError, match="not a message of a feed"):
        feed.read(text)
