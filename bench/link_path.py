"""A path from a client to a server that is watched: an observer in front of the edge, a link behind it.

    client -- observer -- edge -- link -- origin

The observer delays nothing. It sees when the client says something after it has got an answer, which is a
turn of the client's, and when the pieces of the answer pass. So each turn comes with the crossings of the
link that its answer took. Where the client does without TLS, the turn shows what was sent, by the tags of its
messages.

Both are threads of this process, which share the tally: each marks what it has read before it hands it on, so
whoever gets it later finds it marked. Turns can be told apart while one client at a time says something.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

import attrs

from .link import NOTHING, Delay, End
from .link_crossings import Crossings
from .login import HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .link_crossings import Mark

STARTUP = "startup "
TLS = "TLS"


@attrs.define(eq=False)
class Messages:
    """Reads the tags of the messages of one direction; those ahead of the login have none (`typed`)."""

    typed: bool
    _missing: int = 0
    _rest: bytes = b""

    def feed(self, data: bytes) -> str:
        """The tags of the messages that begin in these bytes."""
        data = self._rest + data
        at, tags = self._missing, ""
        while at + 5 <= len(data):
            header = 1 if self.typed else 0
            tags += chr(data[at]) if self.typed else STARTUP
            at += header + int.from_bytes(data[at + header : at + header + 4], "big")
            self.typed = True
        self._missing, self._rest = max(0, at - len(data)), data[at:]
        return tags


@attrs.define(eq=False)
class Turn:
    """What a client sent without waiting in between, and what it took until it had its answer.

    `sent` are the tags of its messages, or `TLS`. `connecting` turns are those up to the first ReadyForQuery,
    which nobody sees inside TLS.
    """

    sent: str
    connecting: bool
    crossings: int = 0
    answered: bool = False


@attrs.define(eq=False)
class Conversation:
    """One connection of a client's."""

    asked: bool = False
    logged_in: bool = False
    encrypted: bool = False
    requests: Messages = attrs.field(factory=lambda: Messages(typed=False))
    replies: Messages = attrs.field(factory=lambda: Messages(typed=True))
    turn: Turn | None = None


@attrs.define(eq=False)
class Observer(Delay):
    """The link in front of an edge; `behind` are the crossings of the one behind it."""

    behind: Crossings = attrs.field(factory=Crossings)
    turns: list[Turn] = attrs.field(factory=list)
    _conversations: dict[int, Conversation] = attrs.field(factory=dict)

    def mark(self, end: End, chunk: bytes) -> Mark:
        conversation = self._conversations.setdefault(id(end.line), Conversation())
        if chunk and end.near:
            self._says(conversation, chunk)
        elif chunk and conversation.turn is not None:
            self._hears(conversation, conversation.turn, chunk)
        return NOTHING

    def _says(self, conversation: Conversation, chunk: bytes) -> None:
        turn = conversation.turn
        if turn is None or turn.answered:
            self.behind.begin()
            turn = conversation.turn = Turn("", not conversation.logged_in)
            self.turns.append(turn)
        turn.sent = TLS if conversation.encrypted else turn.sent + conversation.requests.feed(chunk)

    def _hears(self, conversation: Conversation, turn: Turn, chunk: bytes) -> None:
        turn.crossings = max(turn.crossings, self.behind.of_action)
        turn.answered = True
        if conversation.encrypted or conversation.logged_in:
            return
        if chunk == b"S":
            conversation.encrypted = True
        elif chunk == b"N":
            conversation.requests.typed = False
        else:
            conversation.logged_in = "Z" in conversation.replies.feed(chunk)


@contextlib.contextmanager
def running(proxy: Delay, name: str) -> Iterator[int]:
    """The proxy at work in a thread of its own: its port."""
    reader, writer = os.pipe()
    thread = threading.Thread(target=proxy.run, args=(reader,), name=name)
    thread.start()
    try:
        yield proxy.listener.getsockname()[1]
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)


@contextlib.contextmanager
def counting(
    port: int, round_trip: float, *, handshake: bool = False, host: str = HOST, reverse: bool = False
) -> Iterator[tuple[int, Crossings]]:
    """A link in front of a port with a round trip of so many seconds: its port on `host`, and what it counts.
    Of a `reverse` one, who is connected to asks.
    """
    with socket.create_server((host, 0), backlog=1024) as listener:
        delay = Delay(listener, (HOST, port), round_trip / 2, handshake, reverse=reverse)
        with running(delay, "link") as own:
            yield own, delay.tally


@contextlib.contextmanager
def observing(port: int, behind: Crossings) -> Iterator[tuple[int, Observer]]:
    """An observer in front of an edge on this port: its port, and what it sees."""
    with socket.create_server((HOST, 0), backlog=1024) as listener:
        observer = Observer(listener, (HOST, port), 0.0, behind=behind)
        with running(observer, "observer") as own:
            yield own, observer
