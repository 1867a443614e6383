"""Finds what statements write to, and what they call, in the tree of PostgreSQL's parser.

Nodes that are understood are listed, so that what a later grammar adds is taken for one that writes to
everything before somebody looked.

It must never know the text, or what a name means in a database.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from postgast import pg_query_pb2 as ast

from trio_pool.protocol.reading_kinds import Kind, Why
from trio_pool.protocol.reading_tree import NotOnlyReading, ReadingTree, schema_and_name
from trio_pool.protocol.writing_kinds import Cause, Event, Everything, Target, Writing, intern

if TYPE_CHECKING:
    from collections.abc import Callable

RUNNING = re.compile(
    # Built-in: they run a query given as text, read a table by its name (it may be a view that calls
    # anything), or call the input function of any type.
    r"(?:query|table|schema|database)_to_xml.*|ts_stat|ts_rewrite|pg_input_(?:is_valid|error_info)"
    # They change catalogs, and so the meaning of names.
    r"|pg_import_system_collations|binary_upgrade_.*"
    # Of dblink, tablefunc and xml2.
    r"|dblink.*|crosstab.*|connectby|xpath_table"
)
"""Functions that do more than their arguments show. See `touch` for how they were found."""

_OF_COMMANDS = {ast.CMD_INSERT: Event.INSERT, ast.CMD_UPDATE: Event.UPDATE, ast.CMD_DELETE: Event.DELETE}


class WritesEverything(Exception):
    """The statement is not known to be bounded; the argument is the `Everything`."""

    def __init__(self, cause: Cause, *, ddl: bool = False) -> None:
        super().__init__(cause)
        self.everything = Everything(cause, ddl)


@attrs.define(eq=False)
class WritingTree(ReadingTree):
    """Collects the targets and the names of statements."""

    targets: set[Target] = attrs.field(factory=set)

    statements: ClassVar[dict[type, Callable[[WritingTree, Any], None]]] = {}

    def writing(self) -> Writing:
        return intern(frozenset(self.targets), frozenset(self.names))

    def statement(self, root: Any) -> None:
        """Look at a whole statement. Raises WritesEverything."""
        node = getattr(root, root.WhichOneof("node")) if type(root) is ast.Node else root
        handler = self.statements.get(type(node))
        try:
            if handler is not None:
                handler(self, node)
            elif type(node) in _QUERIES:
                self.look(node)
            elif type(node) not in _QUIET:
                raise WritesEverything(Cause.DDL, ddl=True)
        except NotOnlyReading as found:
            raise _everything(found.why) from None

    def target(self, event: Event, relation: Any) -> None:
        name = self.add(Kind.RELATION, relation.schemaname, relation.relname)
        self.targets.add(Target(event, name.schema, name.name))

    # -- nodes -----------------------------------------------------------------------------------------------

    def call(self, node: Any) -> None:
        schema, name = schema_and_name(node.funcname)
        self._mind(name)
        self.add(Kind.FUNCTION, schema, name)
        if len(node.args) == 1:
            self.add(Kind.TYPE, schema, name)

    def attribute(self, name: str) -> None:
        self._mind(name)
        self.add(Kind.ATTRIBUTE, "", name)

    def type_name(self, node: Any) -> None:
        if node.names and not node.pct_type:
            self.add(Kind.TYPE, *schema_and_name(node.names))

    def _mind(self, name: str) -> None:
        if RUNNING.fullmatch(name):
            raise WritesEverything(Cause.RUNS_SQL)

    def insert(self, node: Any) -> None:
        self.target(Event.INSERT, node.relation)
        if node.on_conflict_clause.action == ast.ONCONFLICT_UPDATE:
            self.target(Event.UPDATE, node.relation)

    def update(self, node: Any) -> None:
        self.target(Event.UPDATE, node.relation)

    def delete(self, node: Any) -> None:
        self.target(Event.DELETE, node.relation)

    def merge(self, node: Any) -> None:
        for when in node.merge_when_clauses:
            event = _OF_COMMANDS.get(when.merge_when_clause.command_type)
            if event is not None:
                self.target(event, node.relation)

    def merge_action(self, _: Any) -> None:
        """A function of that name, where the server does not know the syntax (before 17)."""
        self.add(Kind.FUNCTION, "", "merge_action")

    def into(self, _: Any) -> None:
        """SELECT INTO."""
        raise WritesEverything(Cause.DDL, ddl=True)

    # -- statements ------------------------------------------------------------------------------------------

    def copy(self, node: Any) -> None:
        if node.is_from:
            self.target(Event.INSERT, node.relation)
        elif node.HasField("relation"):
            self.relation(node.relation)
        for part in ("query", "where_clause"):
            if node.HasField(part):
                self.look(getattr(node, part))

    def truncate(self, node: Any) -> None:
        event = Event.CASCADE if node.behavior == ast.DROP_CASCADE else Event.TRUNCATE
        for relation in node.relations:
            self.target(event, relation.range_var)

    def refresh(self, node: Any) -> None:
        self.target(Event.REFRESH, node.relation)

    def explain(self, node: Any) -> None:
        """A number in an option could be another one in a text of the same shape, so it counts as true."""
        for option in node.options:
            found = option.def_elem
            if found.defname != "analyze":
                continue
            value = found.arg.WhichOneof("node")
            if value != "string" or found.arg.string.sval.lower() not in ("false", "off"):
                self.statement(node.query)
                return

    def declare(self, node: Any) -> None:
        self.look(node.query)

    def transaction(self, node: Any) -> None:
        if node.kind == ast.TRANS_STMT_COMMIT_PREPARED:
            raise WritesEverything(Cause.PREPARED)

    def vacuum(self, node: Any) -> None:
        if any(option.def_elem.defname == "full" for option in node.options):
            raise WritesEverything(Cause.REWRITES)

    def cluster(self, _: Any) -> None:
        raise WritesEverything(Cause.REWRITES)

    def code(self, _: Any) -> None:
        """DO inside of something else; `writing` reads one that is a statement of its own."""
        raise WritesEverything(Cause.CODE, ddl=True)

    def called(self, node: Any) -> None:
        """CALL."""
        self.look(node.funccall)

    def create(self, node: Any) -> None:
        """A temporary table changes nothing for others."""
        relation = node.relation if type(node) is ast.CreateStmt else node.into.rel
        if relation.relpersistence != "t":
            raise WritesEverything(Cause.DDL, ddl=True)
        if type(node) is ast.CreateTableAsStmt:
            self.statement(node.query)

    def execute(self, _: Any) -> None:
        """Of a query: PREPARE takes no other, and DDL that the protocol has prepared shows by its tag."""
        raise WritesEverything(Cause.EXECUTE)

    def returned(self, node: Any) -> None:
        """RETURN in the body of an SQL function."""
        self.look(node.returnval)

    def rule(self, node: Any) -> None:
        """What a rule on a table adds to a statement, not the definition of the rule."""
        if node.HasField("where_clause"):
            self.look(node.where_clause)
        for action in node.actions:
            self.statement(action)


def _everything(why: Why) -> WritesEverything:
    match why:
        case Why.TEMPORARY:
            return WritesEverything(Cause.TEMPORARY)
        case Why.NAME:
            return WritesEverything(Cause.NAME)
        case _:
            return WritesEverything(Cause.SYNTAX)


WritingTree.handlers = ReadingTree.handlers | {
    ast.FuncCall: WritingTree.call,
    ast.TypeName: WritingTree.type_name,
    ast.InsertStmt: WritingTree.insert,
    ast.UpdateStmt: WritingTree.update,
    ast.DeleteStmt: WritingTree.delete,
    ast.MergeStmt: WritingTree.merge,
    ast.MergeSupportFunc: WritingTree.merge_action,
    ast.IntoClause: WritingTree.into,
}
WritingTree.harmless = ReadingTree.harmless | {
    ast.MergeWhenClause,
    ast.OnConflictClause,
    ast.InferClause,
    ast.IndexElem,
    ast.CurrentOfExpr,
    ast.MultiAssignRef,
    ast.SetToDefault,
    ast.LockingClause,
    ast.RangeTableSample,
    ast.ReturningClause,
    ast.ReturningOption,
}
WritingTree.statements = {
    ast.CopyStmt: WritingTree.copy,
    ast.TruncateStmt: WritingTree.truncate,
    ast.RefreshMatViewStmt: WritingTree.refresh,
    ast.ExplainStmt: WritingTree.explain,
    ast.DeclareCursorStmt: WritingTree.declare,
    ast.TransactionStmt: WritingTree.transaction,
    ast.VacuumStmt: WritingTree.vacuum,
    ast.ClusterStmt: WritingTree.cluster,
    ast.DoStmt: WritingTree.code,
    ast.CallStmt: WritingTree.called,
    ast.CreateStmt: WritingTree.create,
    ast.CreateTableAsStmt: WritingTree.create,
    ast.ExecuteStmt: WritingTree.execute,
    ast.ReturnStmt: WritingTree.returned,
}
_QUERIES = frozenset({ast.SelectStmt, ast.InsertStmt, ast.UpdateStmt, ast.DeleteStmt, ast.MergeStmt})
_QUIET = frozenset(
    {
        ast.VariableSetStmt,
        ast.VariableShowStmt,
        ast.ListenStmt,
        ast.UnlistenStmt,
        ast.NotifyStmt,
        ast.PrepareStmt,  # EXECUTE counts
        ast.DeallocateStmt,
        ast.DiscardStmt,
        ast.FetchStmt,  # DECLARE counts
        ast.ClosePortalStmt,
        ast.LockStmt,
        ast.ConstraintsSetStmt,  # what fires now was counted when it was deferred
        ast.CheckPointStmt,
        ast.LoadStmt,
        ast.ReindexStmt,
    }
)
"""Statements that change no table's contents. Everything else that is not listed changes the schema."""
