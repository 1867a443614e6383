"""Notifications that are held back for a client until it is between transactions and reads."""

from __future__ import annotations

from trio_pool.wire import messages
from trio_pool.wire.encodings import convert
from trio_pool.wire.frames import HEADER_SIZE
from trio_pool.wire.tags import Backend

MOST = 1 << 20
"""Bytes that wait for a client, after which it is disconnected: they can neither be kept without a bound nor
be lost in silence.
"""


class Inbox:
    """NotificationResponse messages in the order of their arrival."""

    __slots__ = ("_messages", "_size")

    def __init__(self) -> None:
        self._messages: list[bytes] = []
        self._size = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def overflows(self) -> bool:
        return self._size > MOST

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self._size += len(message)

    def withdraw(self, channels: frozenset[bytes]) -> None:
        """The client does not listen to these channels any more."""
        self._messages = [message for message in self._messages if _channel_of(message) not in channels]
        self._size = sum(map(len, self._messages))

    def take(self, source: str, target: str) -> list[bytes]:
        """All of them, from one client encoding into another."""
        taken, self._messages = self._messages, []
        self._size = 0
        return [_in_encoding(message, source, target) for message in taken]


def _in_encoding(notification: bytes, source: str, target: str) -> bytes:
    if source == target or notification[HEADER_SIZE + 4 :].isascii():
        return notification
    body = notification[HEADER_SIZE + 4 :]
    sender = notification[HEADER_SIZE : HEADER_SIZE + 4]
    return messages.message(Backend.NOTIFICATION_RESPONSE, sender + convert(body, source, target))


def _channel_of(notification: bytes) -> bytes:
    return messages.read_notification(notification[HEADER_SIZE:])[0]
