"""The values that tell what an SQL text can do to a session. What they mean, and nothing else.

It must never know how they are found.
"""

from __future__ import annotations

import enum

import attrs


class Ask(enum.Flag):
    """Kinds of state that a text may have changed beyond its transaction."""

    NOTHING = 0
    SETTINGS = enum.auto()
    TEMPORARY = enum.auto()
    LOCKS = enum.auto()
    CURSORS = enum.auto()
    CHANNELS = enum.auto()
    ALL = SETTINGS | TEMPORARY | LOCKS | CURSORS | CHANNELS


class Discard(enum.Enum):
    """What a DISCARD discards."""

    ALL = "all"
    PLANS = "plans"
    SEQUENCES = "sequences"
    TEMP = "temp"


class PreparedAction(enum.Enum):
    """What a statement does to a prepared statement."""

    PREPARE = "prepare"
    EXECUTE = "execute"
    DEALLOCATE = "deallocate"


@attrs.frozen
class Prepared:
    """One statement of a text that names a prepared statement.

    `name` is as PostgreSQL stores it, folded unless it was quoted, in the client's encoding; None for
    DEALLOCATE ALL. Only a PREPARE has `text`, its slice of the text, which can end in a comment, and `facts`,
    what can happen when it is executed.
    """

    action: PreparedAction
    name: bytes | None
    text: bytes = b""
    facts: Facts | None = None


@attrs.frozen
class Facts:
    """What a text can do to its session.

    `begins`, `ends`: kinds of state that it may create so that it outlives the transaction, and may remove.
    RESET, and a SET that may put back an earlier value, are in both. Advisory locks outlive a rollback too.

    `settings`: parameters that it sets or resets for the session, in lower case as written: `role`,
    `my.var`. SET SESSION AUTHORIZATION also resets `role`. RESET ALL and DISCARD ALL name none. pg_settings
    shows neither `role`, `session_authorization` and `seed` nor parameters of no module (`my.var`), and DO
    may set any of them unseen.

    `resets`: those of them that it sets back to their defaults, or may; `resets_all`: RESET ALL.

    `setting_parameters`: numbers of the parameters ($1 is 1) that name the parameter in a `set_config`,
    local or not. In the facts of an SQL PREPARE that is a computed name as well: EXECUTE has expressions.

    `prepared`: in the text's order. `listens`: LISTEN or UNLISTEN. `moves_sequences`: calls `nextval` or
    `setval` (the defaults of columns do, too, unseen); `reads_sequences`: `currval` or `lastval`.

    `keeps`: what no query shows and only the end of the connection removes, in operators' words.

    `pins`: the first thing in it that cannot be carried along to another server connection, in words for an
    error message; only what is beyond doubt, and nothing that ends with the transaction.

    `unknown`: it could not be read, so everything may have happened, prepared statements and sequences
    included.
    """

    begins: Ask = Ask.NOTHING
    ends: Ask = Ask.NOTHING
    settings: frozenset[str] = frozenset()
    resets: frozenset[str] = frozenset()
    resets_all: bool = False
    setting_parameters: frozenset[int] = frozenset()
    prepared: tuple[Prepared, ...] = ()
    lists_prepared: bool = False
    lists_channels: bool = False
    listens: bool = False
    notifies: bool = False
    moves_sequences: bool = False
    reads_sequences: bool = False
    keeps: frozenset[str] = frozenset()
    pins: str | None = None
    discards: frozenset[Discard] = frozenset()
    unknown: bool = False

    @property
    def discards_all(self) -> bool:
        """Whether it has a DISCARD ALL."""
        return Discard.ALL in self.discards


NOTHING = Facts()
UNKNOWN = Facts(begins=Ask.ALL, ends=Ask.ALL, unknown=True)
