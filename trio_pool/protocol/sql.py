"""Facts about SQL texts, from PostgreSQL's own parser.

Never on the hot path: what is asked often is remembered per text.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING, Any

import postgast
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from postgast import pg_query_pb2 as ast

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LONGEST = 16 * 1024
"""Bytes of the longest text that is parsed.

libpg_query descends into the tree on the C stack without a check: 21,000 levels (`1+1+1...`, two bytes each)
end the process on a stack of 8 MB.
"""

_ENDINGS = frozenset(
    {
        ast.TRANS_STMT_COMMIT,
        ast.TRANS_STMT_ROLLBACK,
        ast.TRANS_STMT_PREPARE,
    }
)


class Ending(enum.Enum):
    """What a text does to a failed transaction."""

    NONE = "leaves it failed"
    EMPTY = "holds no statement"
    ALONE = "ends it"
    FIRST = "ends it, and goes on with other statements"


@functools.lru_cache(maxsize=256)
def ending(text: bytes) -> Ending:
    """Whether a text begins with COMMIT, END, ROLLBACK, ABORT or PREPARE TRANSACTION.

    AND CHAIN does not count: it ends one transaction and begins another, which needs a server.
    """
    statements = _statements(text)
    if statements is None:
        return Ending.NONE
    if not statements:
        return Ending.EMPTY
    first = statements[0].stmt
    if first.WhichOneof("node") != "transaction_stmt":
        return Ending.NONE
    statement = first.transaction_stmt
    if statement.kind not in _ENDINGS or statement.chain:
        return Ending.NONE
    return Ending.ALONE if len(statements) == 1 else Ending.FIRST


def commits(text: bytes) -> bool:
    """Whether a text that ends a transaction (`ending`) wants its work kept: COMMIT, END, PREPARE
    TRANSACTION.
    """
    statements = _statements(text)
    if not statements:
        return False
    return bool(statements[0].stmt.transaction_stmt.kind != ast.TRANS_STMT_ROLLBACK)


def only_statement(text: bytes) -> ast.Node | None:
    """The one statement of a text; None if there are more or fewer, or if it cannot be read."""
    statements = _statements(text)
    return statements[0].stmt if statements is not None and len(statements) == 1 else None


def children(node: Any) -> Iterator[Any]:
    """What stands directly below a node of the parser's tree, in the text's order."""
    for field, value in node.ListFields():
        if field.message_type is None:
            continue
        if field.is_repeated:
            yield from value
        else:
            yield value


@functools.lru_cache(maxsize=1024)
def without_constants(text: bytes) -> str:
    """The text on one line with `$1`, `$2` ... for its constants, to be shown to people; "" if it cannot be
    read.
    """
    if len(text) > LONGEST:
        return ""
    try:
        return " ".join(postgast.normalize(text.decode()).split())
    except (postgast.PgQueryError, UnicodeDecodeError):
        return ""


@functools.lru_cache(maxsize=1024)
def fingerprint(text: bytes) -> str:
    """The same for statements that differ in constants, spacing and the like only (libpg_query's, in hex); ""
    if it cannot be read.
    """
    if len(text) > LONGEST:
        return ""
    try:
        return postgast.fingerprint(text.decode()).hex
    except (postgast.PgQueryError, UnicodeDecodeError):
        return ""


def _statements(text: bytes) -> Sequence[ast.RawStmt] | None:
    """The statements of a text, None if it cannot be read."""
    if len(text) > LONGEST:
        return None
    try:
        statements: Sequence[ast.RawStmt] = postgast.parse(text.decode()).stmts
    except (postgast.PgQueryError, UnicodeDecodeError, DecodeError):
        return None
    return statements
