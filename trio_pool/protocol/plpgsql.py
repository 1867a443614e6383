"""What the body of a function in PL/pgSQL writes to, or that of DO.

PL/pgSQL is not parsed. Its scanner is SQL's, and its statements begin behind a semicolon or one of a few
words. So what begins with a word that writes is cut out, up to its semicolon, and is SQL for PostgreSQL's
parser; if that does not understand it, the body may write to everything. What begins with other words of SQL
than those that read may do so as well, and whatever runs a text. All other words, wherever they stand, are
taken for names of functions and relations that the body may call.

A function that is not volatile can write nothing by itself: PostgreSQL runs its statements as readings. It
can call one that is volatile, so its words count nevertheless.

It must never know what a name means in a database.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import postgast
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from postgast import pg_query_pb2 as ast

from trio_pool.protocol.facts import AMBIGUOUS
from trio_pool.protocol.reading_kinds import Kind, Name, Why
from trio_pool.protocol.reading_tree import NotOnlyReading
from trio_pool.protocol.shapes import statements_of
from trio_pool.protocol.sql import LONGEST
from trio_pool.protocol.writing_kinds import Cause, Everything, Writing
from trio_pool.protocol.writing_tree import RUNNING, WritesEverything, WritingTree

if TYPE_CHECKING:
    from collections.abc import Sequence

_WRITING: Final = frozenset({ast.INSERT, ast.UPDATE, ast.DELETE_P, ast.MERGE, ast.TRUNCATE})
_LEADS: Final = frozenset({ast.BEGIN_P, ast.THEN, ast.ELSE, ast.ASCII_59})
"""Behind them, LOOP and `<<label>>` a statement begins."""
_OTHER: Final = frozenset(
    {
        ast.ALTER, ast.ANALYSE, ast.ANALYZE, ast.CALL, ast.CLUSTER, ast.COMMENT, ast.COPY, ast.CREATE,
        ast.DISCARD, ast.DO, ast.DROP, ast.EXPLAIN, ast.GRANT, ast.IMPORT_P, ast.LOAD, ast.PREPARE,
        ast.REASSIGN, ast.REFRESH, ast.REINDEX, ast.REVOKE, ast.SECURITY, ast.VACUUM,
    }
)  # fmt: skip
"""Statements that are not cut out."""
_FOLLOWED_BY: Final = {
    ast.COMMENT: "on",
    ast.IMPORT_P: "foreign",
    ast.REASSIGN: "owned",
    ast.REFRESH: "materialized",
    ast.SECURITY: "label",
}
"""Else they are names of variables, that are declared."""
_IMPLICIT: Final = ("=", "<>", "<", ">", "<=", ">=", "~~", "!~~", "~~*", "!~~*")
"""Operators that BETWEEN, IN, LIKE, CASE and the like stand for."""
_OPERATOR: Final = re.compile(r"[-+*/<>=~!@#%^&|`?]+")
_NAMES_CHANGE: Final = re.compile(
    r"\b(?:create|alter|drop|rename|import|reassign|inherit|attach|detach)\b", re.IGNORECASE
)
_MOST_NAMES: Final = 800
_LONGEST_NAME: Final = 63


class _Token(NamedTuple):
    kind: int
    text: str
    start: int
    is_name: bool


def changes_names(body: str) -> bool:
    """Whether code may change the schema: a word that does stands in it, perhaps in a text that it runs.

    Code that gets the word from elsewhere is not told.
    """
    return _NAMES_CHANGE.search(body) is not None


def writing_of_body(body: str, *, volatile: bool = True) -> Writing | Everything:
    """What it may write to."""
    unread = Everything(Cause.CODE_OF_USER, changes_names(body))
    tokens = _scanned(body)
    if tokens is None:
        return unread
    tree = WritingTree()
    try:
        if volatile:
            for text in _cut(body, tokens):
                statements = statements_of(text.encode())
                if isinstance(statements, Why) or len(statements) != 1:
                    return unread
                tree.statement(statements[0].stmt)
        elif any(token.kind == ast.EXECUTE for token in tokens):
            return unread
        names = _names(tokens)
        if len(names) > _MOST_NAMES:
            return unread
        for name in names:
            tree.add(*name)
    except (WritesEverything, NotOnlyReading):
        return unread
    return tree.writing()


def _scanned(body: str) -> list[_Token] | None:
    """Its tokens without comments; None if it cannot be told for sure where they begin and end."""
    source = body.encode()
    if len(source) > LONGEST or AMBIGUOUS.search(source):
        return None
    try:
        found = postgast.scan(body).tokens
    except (postgast.PgQueryError, DecodeError):
        return None
    tokens: list[_Token] = []
    for token in found:
        if token.token in (ast.SQL_COMMENT, ast.C_COMMENT):
            continue
        if token.token == ast.UIDENT:
            return None
        text = source[token.start : token.end].decode(errors="replace")
        keyword = token.keyword_kind
        is_name = token.token == ast.IDENT or keyword not in (ast.NO_KEYWORD, ast.RESERVED_KEYWORD)
        tokens.append(_Token(token.token, text, token.start, is_name))
    return tokens


def _cut(body: str, tokens: Sequence[_Token]) -> list[str]:
    """The SQL statements that write. Raises WritesEverything."""
    source = body.encode()
    texts: list[str] = []
    at = 0
    while at < len(tokens):
        end = next((n for n in range(at, len(tokens)) if tokens[n].kind == ast.ASCII_59), len(tokens))
        segment = tokens[at:end]
        writes = next((n for n, token in enumerate(segment) if _may_write(segment, n)), None)
        if any(_is_other(segment, n) for n in range(len(segment))):
            raise WritesEverything(Cause.CODE_OF_USER)
        if writes is not None:
            statement = _without_into(segment[_beginning(segment, writes) :])
            texts.append(source[statement[0].start : _end_of(statement[-1])].decode(errors="replace"))
        at = end + 1
    return texts


def _end_of(token: _Token) -> int:
    return token.start + len(token.text.encode())


def _begins(segment: Sequence[_Token], at: int) -> bool:
    """Whether a statement of PL/pgSQL may begin there."""
    if at == 0:
        return True
    before = segment[at - 1]
    return before.kind in _LEADS or before.text.lower() in ("loop", ">>")


def _is_other(segment: Sequence[_Token], at: int) -> bool:
    kind = segment[at].kind
    if kind == ast.EXECUTE:
        return True
    follows = segment[at + 1].text.lower() if at + 1 < len(segment) else ""
    expected = _FOLLOWED_BY.get(kind)
    is_variable = follows in (":=", "=") or (expected is not None and follows != expected)
    return kind in _OTHER and not is_variable and _begins(segment, at)


def _may_write(segment: Sequence[_Token], at: int) -> bool:
    """All but FOR UPDATE and FOR NO KEY UPDATE."""
    kind = segment[at].kind
    locks = kind == ast.UPDATE and at > 0 and segment[at - 1].kind in (ast.FOR, ast.KEY)
    return kind in _WRITING and not locks


def _beginning(segment: Sequence[_Token], writes: int) -> int:
    """Of the SQL statement that this word is in. Raises WritesEverything."""
    at = 0
    depth = 0  # of parentheses: CASE has THEN and ELSE, too
    for n, token in enumerate(segment[: writes + 1]):
        if depth == 0 and _begins(segment, n):
            at = n
        depth += (token.text == "(") - (token.text == ")")
    words = [token.text.lower() for token in segment[at : min(at + 2, writes)]]
    if words == ["return", "query"]:
        at += 2
    if at != writes and segment[at].kind != ast.WITH:
        raise WritesEverything(Cause.CODE_OF_USER)
    return at


def _without_into(statement: Sequence[_Token]) -> Sequence[_Token]:
    """Without the variables at its end that take what it returns."""
    kinds = [token.kind for token in statement]
    if ast.RETURNING not in kinds:
        return statement
    for at in range(len(kinds) - 1, kinds.index(ast.RETURNING), -1):
        token = statement[at]
        if token.kind == ast.INTO:
            return statement[:at]
        if not (token.is_name or token.text in (",", ".", "[", "]") or token.kind == ast.ICONST):
            break
    return statement


def _names(tokens: Sequence[_Token]) -> set[Name]:
    """What it may call. Raises WritesEverything."""
    found = {Name(Kind.OPERATOR, "", operator) for operator in _IMPLICIT}
    for token in tokens:
        if token.is_name:
            quoted = token.text.startswith('"')
            name = token.text[1:-1].replace('""', '"') if quoted else token.text.lower()
            name = name[:_LONGEST_NAME]
            if RUNNING.fullmatch(name):
                raise WritesEverything(Cause.RUNS_SQL)
            found |= {Name(Kind.FUNCTION, "", name), Name(Kind.RELATION, "", name)}
        elif _OPERATOR.fullmatch(token.text):
            found.add(Name(Kind.OPERATOR, "", token.text))
    return found
