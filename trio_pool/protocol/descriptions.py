"""What statements are described as: metadata that answers a Describe without a server.

Over a link a Describe costs a crossing, and drivers wait for it before they bind. What a statement was
described as, by its content and the settings that change its meaning, is what it will be described as again,
until the schema changes. Changes that pass through the pool end it all (`clear`); what others change is
noticed after `age` seconds. An answer to a question that was asked ahead of a change is not kept (`changes`).

Bounded in bytes, the oldest first. Time is whatever `clock` says.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_BYTES = 8 << 20
"""Of texts and descriptions of one pool."""
LONGEST = 1 << 16
"""A statement whose text and description are longer together is not kept."""


@attrs.define(eq=False)
class Descriptions:
    """ParameterDescription with RowDescription or NoData, by what a Parse says behind the name and by the
    meaning of the settings.

    `age` is in seconds; 0 keeps nothing.
    """

    clock: Callable[[], float] = lambda: -math.inf
    age: float = 0.0
    changes: int = 0
    """How often the schema has changed."""
    answers: int = 0
    """How often a Describe was answered from here."""
    size: int = 0
    """In bytes."""
    _known: OrderedDict[bytes, tuple[float, bytes]] = attrs.field(factory=OrderedDict)

    @property
    def kept(self) -> bool:
        return self.age > 0

    def find(self, content: bytes) -> bytes | None:
        """The description of a statement with this content, if there is one that holds."""
        known = self._known.get(content)
        if known is None:
            return None
        if known[0] + self.age < self.clock():
            self.drop(content)
            return None
        return known[1]

    def keep(self, content: bytes, description: bytes) -> None:
        """A server has described it."""
        self.drop(content)
        size = len(content) + len(description)
        if not self.kept or size > LONGEST:
            return
        while self._known and self.size + size > MOST_BYTES:
            self.drop(next(iter(self._known)))
        self._known[content] = (self.clock(), description)
        self.size += size

    def clear(self) -> None:
        """The schema has changed."""
        self.changes += 1
        self._known.clear()
        self.size = 0

    def drop(self, content: bytes) -> None:
        """Nothing is known of it any more."""
        known = self._known.pop(content, None)
        if known is not None:
            self.size -= len(content) + len(known[1])

    def __len__(self) -> int:
        return len(self._known)
