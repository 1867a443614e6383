"""What a server still owes, and what becomes of each reply: forwarded, swallowed, or faked.

PostgreSQL answers requests strictly in order, and every Query, FunctionCall and Sync is answered, at its end,
by one ReadyForQuery. So the queue of a server is a queue of `Group`s, one per ReadyForQuery to come. Nearly
all groups are `QUERY` or `SYNCED`: shared constants that say "forward everything up to ReadyForQuery", which
is what keeps the common case free of per-message work.

A group of its own is made only when some reply of it needs an `Edit`. Within an extended-protocol group each
of Parse, Bind, Describe, Execute and Close is answered by exactly one completion (`COMPLETIONS`) or by the
group's one ErrorResponse, after which the server skips to the Sync. An edit therefore is an ordinal, "after
so many completions", and an action:

- FORWARD: the reply is the client's; the edit only remembers what to undo if the server never gets to it.
- SWALLOW: the request was ours (a Parse that the leased server lacked); its reply goes nowhere.
- FAKE: the request never went to the server; the payload takes the place of the reply, exactly there.
- REFUSE: a request that must fail went in the client's place; the payload takes the place of its error.

An edit that the server skipped (it stood behind an error) is undone and emits nothing, as on a direct
connection.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Callable

COMPLETIONS: Final = frozenset(
    {
        Backend.PARSE_COMPLETE,
        Backend.BIND_COMPLETE,
        Backend.CLOSE_COMPLETE,
        Backend.NO_DATA,
        Backend.ROW_DESCRIPTION,
        Backend.COMMAND_COMPLETE,
        Backend.PORTAL_SUSPENDED,
        Backend.EMPTY_QUERY_RESPONSE,
    }
)
"""Tags that complete one request of an extended-protocol group (a statement's Describe: ParameterDescription
is only its first half).
"""


class Action(enum.Enum):
    """What becomes of a reply."""

    FORWARD = "forward"
    SWALLOW = "swallow"
    FAKE = "fake"
    REFUSE = "refuse"


@attrs.define(eq=False)
class Edit:
    """One reply of a group that is not simply forwarded.

    `position` is the number of the group's completions that come before it. Of the two callbacks exactly one
    is called: `done` when the server has answered the request, `undo` when it skipped it, to take back what
    was assumed when the request was sent (a name in a statement map).
    """

    position: int
    action: Action
    payload: bytes = b""
    undo: Callable[[], None] | None = None
    done: Callable[[], None] | None = None


@attrs.frozen
class Effect:
    """What a command does to the session when it completes with this tag (by its start)."""

    tag: bytes
    apply: Callable[[], None]


@attrs.define(eq=False)
class Errand:
    """What becomes of the replies to a group of ours.

    `row` gets the body of each DataRow; `failed` the group's error. Without `failed` an error ends the
    connection. `done` is called at the group's end if there was no error.
    """

    row: Callable[[bytes], None] | None = None
    failed: Callable[[bytes], None] | None = None
    done: Callable[[], None] | None = None


@attrs.define(eq=False)
class Group:
    """The requests up to one ReadyForQuery.

    `by_query` tells that a Query or FunctionCall ends it rather than a Sync. `prefix` is the number of
    extended-protocol requests sent in front of that Query without a Sync: an error in them makes the server
    skip the Query too. `swallowed` groups are ours from end to end; of `quiet` ones only the end is: the
    client sent Flush where we sent Sync.

    `explained` tells that texts in it are known, so that command tags say nothing new, unless one of them is
    `unknown`; `effects` are those that have to be counted, those of one tag in sequence. `excuse` is the
    error of what was to be laid out in front of it and could not be; it says more than the one that
    follows from that. If it `holds_end`, its end waits for the group of ours behind it, which completes what
    the client asked for. The first `ahead` completions are those of a deferred BEGIN, of which the client has
    been told already. Where it `describes`, what a statement is described as is `described` when its edit is
    done.
    """

    by_query: bool = False
    swallowed: bool = False
    quiet: bool = False
    edits: list[Edit] = attrs.field(factory=list)
    seen: int = 0
    prefix: int = 0
    failed: bool = False
    errand: Errand | None = None
    explained: bool = False
    unknown: bool = False
    effects: list[Effect] = attrs.field(factory=list)
    excuse: bytes = b""
    holds_end: bool = False
    ahead: int = 0
    describes: bool = False
    described: bytes = b""

    @property
    def harmless(self) -> bool:
        """Whether it is a client's, sent whole, of texts that say nothing about the session."""
        return not (
            self.swallowed or self.quiet or self.explained or self.failed or self.holds_end or self.ahead
        )

    def fakes_due(self) -> bytes:
        """What is to be emitted now that `seen` completions have passed."""
        due = b""
        while self.edits and self.edits[0].action is Action.FAKE and self.edits[0].position <= self.seen:
            due += self._pop_done().payload
        return due

    def complete(self) -> bool:
        """One completion has arrived. True if it is to be forwarded."""
        forward = True
        if self.edits and self.edits[0].position == self.seen:
            forward = self._pop_done().action is not Action.SWALLOW
        self.seen += 1
        return forward

    def _pop_done(self) -> Edit:
        edit = self.edits.pop(0)
        if edit.done is not None:
            edit.done()
        return edit

    def completed(self, tag: bytes) -> None:
        """A command has completed: it has the first effect with its tag."""
        for number, effect in enumerate(self.effects):
            if tag.startswith(effect.tag):
                del self.effects[number]
                effect.apply()
                return

    def fail(self) -> bytes:
        """The group's ErrorResponse has arrived: what stood behind it has been skipped.

        Returns the error that takes its place, if one does.
        """
        refused = bool(self.edits) and self.edits[0].action is Action.REFUSE
        refusal = self.edits[0].payload if refused and self.edits[0].position == self.seen else b""
        self.failed = True
        self.undo()
        return refusal or self.excuse

    def absorb(self, other: Group) -> None:
        """The server answers what the other group holds in this one."""
        if other.explained:  # else it may be a shared one
            other.failed = other.failed or self.failed
        self.edits += other.edits
        self.effects += other.effects
        self.explained = self.explained or other.explained
        self.unknown = self.unknown or other.unknown
        self.excuse = self.excuse or other.excuse
        self.describes = self.describes or other.describes

    def undo(self) -> None:
        """Take back everything that has not happened, the latest first."""
        while self.edits:
            edit = self.edits.pop()
            if edit.undo is not None:
                edit.undo()


QUERY: Final = Group(by_query=True)
"""A simple Query or FunctionCall, all replies forwarded. Shared: never edited."""

SYNCED: Final = Group()
"""An extended-protocol group that ends in Sync, all replies forwarded. Shared: never edited."""

PLAIN: Final = frozenset({id(QUERY), id(SYNCED)})

BEGIN_REQUESTS: Final = 3
"""A deferred BEGIN is Bind, Execute, and Close of the portal, which the client must not find. If it must, a
portal that is not there is closed.
"""
OPENING: Final = Group()
"""A group of which only a deferred BEGIN has been sent as long as `open_count` is 0; what is counted there is
the client's, and forwarded. Shared, as are the two that it may become.
"""
BEGUN_QUERY: Final = Group(by_query=True)
"""A Query behind a deferred BEGIN."""
BEGUN_SYNCED: Final = Group()
"""Requests behind a deferred BEGIN, ended by Sync, all of whose replies are forwarded."""
