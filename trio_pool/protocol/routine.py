"""What a function or a rule writes to, from its definition as PostgreSQL spells it.

It must never know what a name means in a database.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from postgast import pg_query_pb2 as ast

from trio_pool.protocol.plpgsql import changes_names, writing_of_body
from trio_pool.protocol.reading_kinds import Why
from trio_pool.protocol.reading_tree import NotOnlyReading
from trio_pool.protocol.shapes import statements_of
from trio_pool.protocol.writing_kinds import Cause, Everything, Writing
from trio_pool.protocol.writing_tree import WritesEverything, WritingTree

if TYPE_CHECKING:
    from collections.abc import Callable


def rule(definition: bytes) -> Writing | Everything:
    """Of what CREATE RULE defines."""
    return _only(definition, ast.RuleStmt, WritingTree.rule)


def routine(definition: bytes) -> Writing | Everything:
    """Of what CREATE FUNCTION or CREATE PROCEDURE defines, in SQL or PL/pgSQL."""
    return _only(definition, ast.CreateFunctionStmt, _function)


def _only(
    definition: bytes, kind: type, look: Callable[[WritingTree, Any], Writing | Everything | None]
) -> Writing | Everything:
    statements = statements_of(definition)
    if isinstance(statements, Why) or len(statements) != 1:
        return _unread(definition)
    node = statements[0].stmt
    found = getattr(node, node.WhichOneof("node"))
    if type(found) is not kind:
        return _unread(definition)
    tree = WritingTree()
    try:
        return look(tree, found) or tree.writing()
    except WritesEverything as everything:
        return everything.everything
    except NotOnlyReading:
        return _unread(definition)


def _unread(definition: bytes) -> Everything:
    return Everything(Cause.CODE_OF_USER, changes_names(definition.decode(errors="replace")))


def _function(tree: WritingTree, node: Any) -> Writing | Everything | None:
    language = body = ""
    volatile = True
    for option in node.options:
        found = option.def_elem
        match found.defname:
            case "language":
                language = found.arg.string.sval
            case "as":
                body = found.arg.list.items[0].string.sval
            case "volatility":
                volatile = found.arg.string.sval == "volatile"
    if language == "plpgsql":
        return writing_of_body(body, volatile=volatile)
    if language != "sql":
        return Everything(Cause.CODE_OF_USER, changes_names(body))
    if body:
        statements = statements_of(body.encode())
        if isinstance(statements, Why):
            return Everything(Cause.CODE_OF_USER, changes_names(body))
        for statement in statements:
            tree.statement(statement.stmt)
    elif node.HasField("sql_body"):
        _body(tree, node.sql_body)
    return None


def _body(tree: WritingTree, node: Any) -> None:
    """BEGIN ATOMIC, a list of lists, or RETURN."""
    if node.WhichOneof("node") == "list":
        for item in node.list.items:
            _body(tree, item)
    else:
        tree.statement(node)
