"""What an SQL text can write to, as far as its words tell, from PostgreSQL's own parser.

The text says what is written to and called by which name; what that leads to in a database, `touch` says. In
doubt a text writes to everything, with the reason.

What counts where the text of a statement is not what runs: DECLARE counts for the query that FETCH runs;
PREPARE writes nothing, and EXECUTE of a name that SQL has prepared writes to everything; deferred triggers
and constraints count with the statement that defers them; COMMIT PREPARED of a transaction that may have
been anybody's writes to everything, ROLLBACK PREPARED to nothing. Sequences are no tables: nothing that
reads them is ever kept.

It must never know the client, the server or a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.protocol.plpgsql import writing_of_body
from trio_pool.protocol.reading_kinds import Why
from trio_pool.protocol.shapes import Memory, statements_of
from trio_pool.protocol.writing_kinds import NOTHING_WRITTEN, Cause, Event, Everything, Target, Writing
from trio_pool.protocol.writing_tree import WritesEverything, WritingTree

if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "NOTHING_WRITTEN",
    "Cause",
    "Event",
    "Everything",
    "Target",
    "Writing",
    "known_writing",
    "writing_of",
    "written_by",
]

_UNREAD = {
    Why.LONG: Everything(Cause.LONG, ddl=True),
    Why.AMBIGUOUS: Everything(Cause.AMBIGUOUS, ddl=True),
    Why.BROKEN: Everything(Cause.BROKEN, ddl=True),
}
_memory: Memory[Writing | Everything] = Memory()


def known_writing(text: bytes) -> Writing | Everything | None:
    """What is remembered of a text; None if it has to be read. For the hot path."""
    return _memory.known(text)


def writing_of(text: bytes) -> Writing | Everything:
    """`written_by`, and remember."""
    found = known_writing(text)
    if found is None:
        found = written_by(text)
        _memory.remember(text, found, by_shape=found is not _UNREAD[Why.BROKEN])  # which a number can cause
    return found


def written_by(text: bytes) -> Writing | Everything:
    """What a text may write to, with or without its NUL, without a memory. It may hold many statements."""
    statements = statements_of(text)
    if isinstance(statements, Why):
        return _UNREAD[statements]
    tree = WritingTree()
    everything: Everything | None = None
    for statement in statements:
        try:
            if statement.stmt.WhichOneof("node") == "do_stmt":
                _do(tree, statement.stmt.do_stmt)
            else:
                tree.statement(statement.stmt)
        except WritesEverything as found:
            if everything is None or found.everything.ddl > everything.ddl:
                everything = found.everything
    return tree.writing() if everything is None else everything


def _do(tree: WritingTree, node: Any) -> None:
    """DO. Raises WritesEverything."""
    options = {option.def_elem.defname: option.def_elem.arg.string.sval for option in node.args}
    if options.get("language", "plpgsql") != "plpgsql":
        raise WritesEverything(Cause.CODE, ddl=True)
    found = writing_of_body(options.get("as", ""))
    if isinstance(found, Everything):
        raise WritesEverything(Cause.CODE, ddl=found.ddl)
    tree.targets |= found.targets
    tree.names |= found.names
