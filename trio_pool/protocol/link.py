"""What two trio-pools say to each other beyond PostgreSQL's protocol. It is little.

A link is a connection of one trio-pool (the edge) to another (the origin). It speaks PostgreSQL's protocol;
two things are added, in ways that whoever does not know them ignores:

- The edge says what it is by a protocol option in its StartupMessage, `_pq_.trio_pool_link`, whose value is
  the version of what follows. An origin that does not know the option or the version lists it in
  NegotiateProtocolVersion, as PostgreSQL does with every option; silence means that it is understood.
- The origin tells the edge something by a NotificationResponse on a reserved channel from process 0, which
  no backend of PostgreSQL has, so that no client of the database can say it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

OPTION: Final = "_pq_.trio_pool_link"
VERSION: Final = "1"
LISTENER: Final = "1 listener"
"""The version, of the one connection on which an edge listens for its clients."""
FEED: Final = "1 feed"
"""The version, of a connection on which an edge is told what ends kept answers (`cache.feed`)."""
STRICT_FEED: Final = "1 strict feed"
"""The same, and the edge is waited for."""
CHANNEL: Final = b"trio_pool.link"
NOBODY: Final = 0
"""The sender's process id in what the origin tells."""

LEAVING: Final = b"leaving"
"""The origin is about to stop: begin nothing on this link any more, and close it when it is free. What is on
its way is still answered.
"""

OWN: Final = b"own"
"""The notification behind this was sent by the link itself. A direct client would know from the process id,
which is PostgreSQL's and not the one that the origin has given to the link.
"""


def is_link(parameters: Mapping[str, str]) -> bool:
    """Whether a StartupMessage is an edge's, and what it speaks is understood."""
    return parameters.get(OPTION) in (VERSION, LISTENER, FEED, STRICT_FEED)


def is_listener(parameters: Mapping[str, str]) -> bool:
    """Whether it is that of a connection on which an edge listens."""
    return parameters.get(OPTION) == LISTENER


def is_feed(parameters: Mapping[str, str]) -> bool:
    """Whether it is that of a connection on which an edge is told of writes."""
    return parameters.get(OPTION) in (FEED, STRICT_FEED)


def is_strict(parameters: Mapping[str, str]) -> bool:
    """Whether the edge is waited for."""
    return parameters.get(OPTION) == STRICT_FEED


def note(text: bytes) -> bytes:
    """What the origin tells the edge."""
    body = NOBODY.to_bytes(4, "big") + CHANNEL + b"\0" + text + b"\0"
    return messages.message(Backend.NOTIFICATION_RESPONSE, body)
