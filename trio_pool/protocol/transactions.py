"""Statements that begin and end transactions, and what can be answered to them without a server.

A BEGIN that cannot fail takes no server: it is answered at once, and sent along with the transaction's first
statement. As long as there was none, COMMIT and ROLLBACK take none either.
"""

from __future__ import annotations

import enum
import functools
from typing import TYPE_CHECKING, Final

import attrs
from postgast import pg_query_pb2 as ast

from trio_pool.protocol.sql import only_statement
from trio_pool.wire import messages
from trio_pool.wire.frames import between, header
from trio_pool.wire.tags import Frontend, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from postgast.pg_query_pb2 import TransactionStmt

LONGEST: Final = 256
"""Bytes of the longest text that is looked at: what begins or ends a transaction is short, and every other
text that is looked at is parsed in vain.
"""
_FIRST_LETTERS: Final = frozenset(b"bBsScCrReEaA \t\r\n\f\v/-;")
_MODES: Final = {
    "transaction_read_only": ("READ WRITE", "READ ONLY"),
    "transaction_deferrable": ("NOT DEFERRABLE", "DEFERRABLE"),
}


class Verb(enum.Enum):
    """What a statement does with the transaction block."""

    BEGIN = "begins one"
    COMMIT = "commits it"
    ROLLBACK = "rolls it back"


@attrs.frozen
class Control:
    """A text that is one plain statement of transaction control.

    `tag` is its command tag when it works. Of a BEGIN, `sql` is what does the same, spelled as we spell it,
    and `bold` tells that a standby refuses it. With `chain` another transaction follows at once.
    """

    verb: Verb
    tag: str
    sql: str = ""
    bold: bool = False
    chain: bool = False


def control(text: bytes) -> Control | None:
    """What a text, without its NUL, does to the transaction, if that is all it does. Hot path."""
    if not 3 <= len(text) <= LONGEST or text[0] not in _FIRST_LETTERS:
        return None
    if text[1] in b"eE" and text[2] in b"lL":  # SELECT, DELETE
        return None
    words = text.lower().decode("latin-1")  # `bytes in bytes` takes four times as long
    if (
        "begin" in words
        or "commit" in words
        or "end" in words
        or "rollback" in words
        or "start" in words
        or "abort" in words
    ):
        return _control(text)
    return None


@functools.lru_cache(maxsize=1024)
def _control(text: bytes) -> Control | None:
    statement = only_statement(text)
    if statement is None or statement.WhichOneof("node") != "transaction_stmt":
        return None
    transaction = statement.transaction_stmt
    match transaction.kind:
        case ast.TRANS_STMT_BEGIN:
            return _begin(transaction, "BEGIN")
        case ast.TRANS_STMT_START:
            return _begin(transaction, "START TRANSACTION")
        case ast.TRANS_STMT_COMMIT:
            return Control(Verb.COMMIT, "COMMIT", chain=transaction.chain)
        case ast.TRANS_STMT_ROLLBACK:
            return Control(Verb.ROLLBACK, "ROLLBACK", chain=transaction.chain)
        case _:
            return None


def _begin(transaction: TransactionStmt, tag: str) -> Control:
    modes = []
    for option in transaction.options:
        name, value = option.def_elem.defname, option.def_elem.arg.a_const
        if name == "transaction_isolation":
            modes.append(f"ISOLATION LEVEL {value.sval.sval.upper()}")
        else:
            modes.append(_MODES[name][value.ival.ival])
    bold = "READ WRITE" in modes or "ISOLATION LEVEL SERIALIZABLE" in modes
    return Control(Verb.BEGIN, tag, " ".join(["BEGIN", ", ".join(modes)]).strip(), bold)


@attrs.frozen
class Answered:
    """Messages that were answered without a server: how many bytes, with what, and what they did.

    `parsed` is the name and the rest of a Parse among them, `bound` the name of the statement in a Bind.
    """

    size: int
    replies: bytes
    control: Control | None
    parsed: tuple[bytes, bytes] | None = None
    bound: bytes | None = None


def answer_group(
    data: bytes,
    accepts: Callable[[Control], bool],
    text_of: Callable[[bytes], bytes | None],
) -> Answered | None:
    """Answer the extended-protocol messages at the front of `data` up to the Execute of a statement that
    `accepts` tells to need no server; or, behind nothing but Parse and Describe of it, up to the Sync. None
    if they are anything else, or not all there.

    All or nothing: what has been answered cannot be given to a server any more.
    """
    at = 0
    replies: list[bytes] = []
    parsed: tuple[bytes, bytes] | None = None
    found: Control | None = None
    portal: bytes | None = None
    name: bytes | None = None
    while at + 5 <= len(data):
        tag, length = header(data, at)
        end = at + 1 + length
        if tag == Frontend.SYNC and parsed is not None and portal is None:
            return Answered(at, b"".join(replies), None, parsed)
        if length < 4 or end > len(data):
            return None
        body = data[at + 5 : end]
        if tag == Frontend.PARSE and not at:
            made, _, rest = body.partition(b"\0")
            text, _, types = rest.partition(b"\0")
            found = _accepted(text, accepts)
            if found is None or types != b"\0\0" or (made and text_of(made) is not None):
                return None
            parsed = made, rest
            replies.append(messages.PARSE_COMPLETE)
        elif tag == Frontend.BIND and portal is None:
            portal, _, rest = body.partition(b"\0")
            name, _, values = rest.partition(b"\0")
            if parsed is None or parsed[0] != name:
                known = text_of(name)
                found = None if known is None else _accepted(known, accepts)
            if found is None or portal or not _binds_nothing(values):
                return None  # a named portal would have to be made on the server, too
            replies.append(messages.BIND_COMPLETE)
        elif tag == Frontend.DESCRIBE and body[:1] == b"%c" % Target.PORTAL:
            if portal is None or between(body, 1, len(body) - 1) != portal:
                return None
            replies.append(messages.NO_DATA)
        elif tag == Frontend.DESCRIBE:
            if parsed is None or between(body, 1, len(body) - 1) != parsed[0]:
                return None
            replies.append(messages.NO_PARAMETERS + messages.NO_DATA)
        elif tag == Frontend.EXECUTE:
            if found is None or portal is None or body[:-4] != portal + b"\0":
                return None
            replies.append(messages.command_complete(found.tag))
            return Answered(end, b"".join(replies), found, parsed, name)
        else:
            return None
        at = end
    return None


def _accepted(text: bytes, accepts: Callable[[Control], bool]) -> Control | None:
    found = control(text)
    return found if found is not None and accepts(found) else None


def _binds_nothing(values: bytes) -> bool:
    """Whether what follows the names in a Bind are no parameters, and at most one format for the result."""
    return values[:4] == b"\0\0\0\0" and values[4:] in (b"\0\0", b"\0\1\0\0", b"\0\1\0\1")
