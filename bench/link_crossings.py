"""Crossings of a link, counted on the wire: how often something goes there and comes back, and is waited for.

A crossing is a round trip on which something else depends. What one side sends is taken to depend on
everything that it has received before, so the crossings of a conversation are the longest chain of "sent
there, answered, therefore sent there". Requests that are under way at the same time share one crossing, and
an answer in a hundred pieces is one answer. Nothing is read for it, so it counts encrypted connections as
well.

Each piece carries the length of the chain that it ends (`Mark`). It is counted twice: per connection, for as
long as it is open, and over all connections for one action of a client, since a question on one connection
may be waited for by a statement on another. An action begins with `begin`. What was under way by then is no
crossing of the new action, but whatever is sent after it has come waits one longer.

Knows no sockets and no time.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Mark:
    """What a piece carries: the action that caused it, and the crossings in front of it, in that action and
    on its connection.
    """

    action: int
    crossings: int
    on_line: int


@attrs.define(eq=False)
class Line:
    """One connection; `near` is the side that opened it. `crossings` are those of its whole life."""

    tally: Crossings
    crossings: int = 0
    _far: int = -1
    _far_action: int = -1
    _far_on_line: int = -1

    def leaves_near(self) -> Mark:
        """A piece is sent by the near side."""
        return Mark(self.tally.action, self.tally.known, self.crossings)

    def reaches_far(self, mark: Mark) -> None:
        """It has arrived."""
        self._far_on_line = max(self._far_on_line, mark.on_line)
        if mark.action > self._far_action:
            self._far_action, self._far = mark.action, mark.crossings
        elif mark.action == self._far_action:
            self._far = max(self._far, mark.crossings)

    def leaves_far(self) -> Mark:
        """A piece is sent by the far side, in answer to what has reached it, or unasked."""
        return Mark(self._far_action, self._far + 1, self._far_on_line + 1)

    def reaches_near(self, mark: Mark) -> None:
        """It has arrived."""
        self.crossings = max(self.crossings, mark.on_line)
        self.tally.learns(mark)


@attrs.define(eq=False)
class Crossings:
    """All connections of a link. `action` is the number of the one that goes on."""

    lines: list[Line] = attrs.field(factory=list)
    action: int = 0
    known: int = 0
    """Crossings in front of what the near side sends now."""
    of_action: int = 0
    """Crossings of the action so far."""
    pieces: int = 0
    """How many pieces have come to the near side."""

    def opened(self) -> Line:
        """A connection is opened."""
        line = Line(self)
        self.lines.append(line)
        return line

    def begin(self) -> None:
        """From now on it is another action."""
        self.action += 1
        self.known = self.of_action = 0

    def learns(self, mark: Mark) -> None:
        """Something has come to the near side."""
        self.pieces += 1
        if mark.action == self.action:
            self.known = max(self.known, mark.crossings)
            self.of_action = max(self.of_action, mark.crossings)
        else:
            self.known = max(self.known, 1)

    @property
    def total(self) -> int:
        """Crossings of all connections since they were opened."""
        return sum(line.crossings for line in self.lines)
