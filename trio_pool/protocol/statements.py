"""Prepared statements that work on whichever server is leased.

A statement is identified by its content (the bytes of Parse behind the name: text and parameter types) and
carries one name of ours on all servers of its pool, so that a thousand clients preparing the same text share
one statement per server (hazard E2 of any pooler: same text, other types, is another statement). Clients map
their names to statements; servers remember which statements they have.

What else changes what a text means is part of the content (`Settings.meaning`): how strings are read, where
names are looked for, who looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import attrs

from trio_pool.protocol.descriptions import Descriptions
from trio_pool.protocol.facts import NOTHING, Facts, known_facts
from trio_pool.protocol.settings import NONE, Settings, run_apart
from trio_pool.protocol.transactions import control
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Callable


@attrs.define(eq=False, weakref_slot=True)
class Statement:
    """A prepared statement by content. `name` is its name on servers; `rest` what follows the name in Parse.

    `proven` tells that some server has accepted it, so that preparing it once more needs none.
    """

    name: bytes
    rest: bytes
    proven: bool = False
    reading: Settings | None = None
    """The settings under which its text was read; None if they are not known."""
    text: bytes = attrs.field(init=False)
    facts: Facts = attrs.field(init=False)
    """What executing it may do to the session."""
    controls: bool = attrs.field(init=False)
    """Whether it begins or ends a transaction, and does nothing else."""

    def __attrs_post_init__(self) -> None:
        self.text = self.rest.partition(b"\0")[0]
        self.facts = known_facts(self.text)
        self.controls = control(self.text) is not None


@attrs.frozen(eq=False)
class SqlStatement:
    """A statement that SQL's PREPARE made: `text` is that command, `facts` those of what it prepares."""

    text: bytes
    facts: Facts = NOTHING

    @property
    def requests(self) -> list[bytes]:
        """What makes it, through the unnamed statement."""
        return run_apart(self.text)


@attrs.frozen(eq=False)
class Begin:
    """A BEGIN that is sent along with the first statement of its transaction: the statement, prepared, and
    what runs it.
    """

    statement: Statement
    run: bytes


@attrs.frozen(eq=False)
class Opening:
    """What a client may send to begin a transaction, and does so again and again: the BEGIN for the server,
    the replies, and the unnamed statement that is left if it `replaces_unnamed`.
    """

    begin: Begin
    replies: bytes
    replaces_unnamed: bool
    unnamed: bytes | None


@attrs.define(eq=False)
class StatementRegistry:
    """All named statements of a pool, alive as long as some client or server has them.

    `prefix` makes names that no client can guess, so that a client's own unknown name can be sent to a server
    literally and fails there with PostgreSQL's own words.
    """

    prefix: bytes
    on_sequences_read: Callable[[], None] = lambda: None
    """Called when a client asks for currval or lastval."""
    client_parses: int = 0
    """Parse messages of clients that named their statement."""
    server_parses: int = 0
    """Named statements that servers were sent."""
    binds: int = 0
    """Bind messages of named statements, of clients that have ended; the others know their own."""
    _by_content: WeakValueDictionary[bytes, Statement] = attrs.field(factory=WeakValueDictionary)
    _made: int = 0
    _begins: dict[tuple[str, bool], Begin] = attrs.field(factory=dict)
    openings: dict[bytes, Opening] = attrs.field(factory=dict)
    """Texts and groups that begin a transaction, whoever sends them."""
    descriptions: Descriptions = attrs.field(factory=Descriptions)
    """What Describe is answered with where that saves a crossing."""
    schema: Callable[[], int] = lambda: 0
    """Changes when the schema does, through whichever pool or process that was told of."""
    _as_of: int = attrs.field(default=0, init=False)

    @property
    def nobody(self) -> bytes:
        """A name that no statement has."""
        return self.prefix + b"none"

    def get(self, rest: bytes, settings: Settings = NONE) -> Statement:
        """The statement with this content, prepared under settings with this meaning."""
        self._look()
        statement = self._by_content.get(rest + settings.meaning)
        if statement is None:
            statement = self._by_content[rest + settings.meaning] = self.make(rest, settings.reading)
        return statement

    def make(self, rest: bytes, reading: Settings | None = None) -> Statement:
        """A statement of its own, which nobody shares."""
        self._made += 1
        return Statement(b"%b%d" % (self.prefix, self._made), rest, reading=reading)

    def begin(self, sql: str, *, bound: bool) -> Begin:
        """A BEGIN spelled as we spell it, so that there are not many. If the client has `bound` it itself, it
        finds the unnamed portal afterwards; else there is none.
        """
        begin = self._begins.get((sql, bound))
        if begin is None:
            statement = self.make(messages.text(sql) + b"\0\0")
            closed = messages.close_portal(self.nobody if bound else b"")
            run = messages.bind(statement.name, ()) + messages.EXECUTE + closed
            begin = self._begins[sql, bound] = Begin(statement, run)
        return begin

    def renew(self) -> None:
        """What is prepared from now on is a new statement, even if its text is known: the old ones are of no
        use to who prepares them again.
        """
        self._as_of = self.schema()
        self._by_content.clear()
        self.descriptions.clear()

    def _look(self) -> None:
        """Whether somebody else has changed the schema."""
        if self.schema() != self._as_of:
            self.renew()

    @property
    def changes(self) -> int:
        """How often the schema has changed."""
        self._look()
        return self.descriptions.changes

    def proven(self, rest: bytes, settings: Settings = NONE) -> Statement | None:
        """The statement with this content and meaning, if a server has accepted it."""
        self._look()
        statement = self._by_content.get(rest + settings.meaning)
        if statement is not None and statement.proven:
            return statement
        if self.descriptions.kept and self.described(rest, settings) is not None:
            return self.get(rest, settings)
        return None

    def described(self, rest: bytes, settings: Settings) -> bytes | None:
        """What a statement with this content and meaning is described as, if that is known."""
        self._look()
        return self.descriptions.find(rest + settings.meaning)

    def content_of(self, statement: Statement, settings: Settings) -> bytes | None:
        """What a named statement is described by. None if it was prepared under other settings, or before the
        schema has changed: then a server may have something to say about it.
        """
        self._look()
        content = statement.rest + settings.meaning
        return content if self._by_content.get(content) is statement else None

    def all(self) -> list[Statement]:
        """What some client or server has."""
        return list(self._by_content.values())

    def __len__(self) -> int:
        return len(self._by_content)
