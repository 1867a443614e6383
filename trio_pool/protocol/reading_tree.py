"""Finds what a statement refers to, in the tree of PostgreSQL's parser, if it is one that can only read.

Harmless nodes of the tree are listed: what a later grammar adds is not among them before somebody looked.

It must never know the text, or what a name means in a database.

Beside the names that are written, PostgreSQL looks some up by itself:

- The grammar turns syntax into functions of pg_catalog (`EXTRACT`, `AT TIME ZONE`, `SIMILAR TO`), which are
  in the tree as such, and into operators *without* a schema: `=` for IN, CASE, NULLIF, IS DISTINCT FROM and
  USING; the four of BETWEEN. These follow search_path like those that are written.
- `a.b` and `(a).b` may call a function `b` and may cast to a type `b`; `f(x)` may cast to a type `f`.
- What ORDER BY, GROUP BY, DISTINCT, UNION, row comparisons and indexes compare with is found by types, not by
  names, and so are implicit casts: `catalog` asks about all of those that a database has.
- Servers before 16 have no JSON constructors, and call functions of such names.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from postgast import pg_query_pb2 as ast

from trio_pool.protocol.reading_kinds import Kind, Name, Reading, Unkept, Why, intern
from trio_pool.protocol.sql import children

if TYPE_CHECKING:
    from collections.abc import Callable

_TELLING = frozenset(
    {
        "inet_client_addr",
        "inet_client_port",
        "inet_server_addr",
        "inet_server_port",
        "pg_backend_pid",
        "pg_conf_load_time",
        "pg_cursor",
        "pg_is_other_temp_schema",
        "pg_listening_channels",
        "pg_my_temp_schema",
        "pg_prepared_statement",
        "pg_show_all_settings",
    }
)
"""Stable functions that tell one server connection from another."""
_DOING = frozenset(
    {
        # They take a number of their own for the transaction.
        "pg_current_xact_id",
        "txid_current",
        # They take the name of a type, whose input may call anything.
        "pg_input_error_info",
        "pg_input_is_valid",
        # Of tablefunc and xml2: they take the text of a query.
        "connectby",
        "xpath_table",
    }
)
"""Stable functions that do more than their arguments show."""
_RUNNING = re.compile(r"(?:query|cursor|table|schema|database)_to_xml|crosstab")
"""Those that read a table by its name, or run a text."""

_OF_BETWEEN = (">=", "<=", "<", ">")
_TIMES = frozenset(
    {
        ast.SVFOP_CURRENT_DATE,
        ast.SVFOP_CURRENT_TIME,
        ast.SVFOP_CURRENT_TIME_N,
        ast.SVFOP_CURRENT_TIMESTAMP,
        ast.SVFOP_CURRENT_TIMESTAMP_N,
        ast.SVFOP_LOCALTIME,
        ast.SVFOP_LOCALTIME_N,
        ast.SVFOP_LOCALTIMESTAMP,
        ast.SVFOP_LOCALTIMESTAMP_N,
    }
)
_TELLING_WHO = {
    ast.SVFOP_CURRENT_ROLE: "current_user",
    ast.SVFOP_CURRENT_USER: "current_user",
    ast.SVFOP_USER: "current_user",
    ast.SVFOP_SESSION_USER: "session_user",
    ast.SVFOP_CURRENT_CATALOG: "current_database",
    ast.SVFOP_CURRENT_SCHEMA: "current_schema",
}
"""Functions that are the same."""
MOMENT = r"(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])"
"""What the input of a time takes for one: a run of letters, whatever is around it."""
_MOMENT = re.compile(MOMENT, re.IGNORECASE)
_STORED = frozenset({"ctid", "xmax", "cmin", "cmax"})
"""Columns that change without a change of the contents."""


class NotOnlyReading(Exception):
    """The tree has something that is not known to be harmless; the argument is the `Why`."""

    def __init__(self, why: Why) -> None:
        super().__init__(why)
        self.why = why


@attrs.define(eq=False)
class ReadingTree:
    """Collects the names of one statement."""

    names: set[Name] = attrs.field(factory=set)
    may_miss: set[Name] = attrs.field(factory=set)
    expressions: set[str] = attrs.field(factory=set)
    """Names of common table expressions."""
    parameters: int = 0
    unkept: Unkept | None = None

    handlers: ClassVar[dict[type, Callable[..., None]]] = {}
    harmless: ClassVar[frozenset[type]] = frozenset()

    def reading(self) -> Reading:
        local = {Name(Kind.RELATION, "", name) for name in self.expressions}
        return intern(
            frozenset(self.names),
            frozenset(self.may_miss | (local & self.names)),
            self.parameters,
            self.unkept,
        )

    def look(self, root: Any) -> None:
        """Go through a tree. Raises NotOnlyReading."""
        stack = [root]
        while stack:
            node = stack.pop()
            kind = type(node)
            handler = self.handlers.get(kind)
            if handler is not None:
                handler(self, node)
            elif kind not in self.harmless:
                raise NotOnlyReading(_WHY.get(kind, Why.SYNTAX))
            if kind not in _CLOSED:
                stack.extend(children(node))

    def add(self, kind: Kind, schema: str, name: str) -> Name:
        if schema.startswith(("pg_temp", "pg_toast_temp")):
            raise NotOnlyReading(Why.TEMPORARY)
        for part in (schema, name):
            # A name of other characters is another name in another client_encoding.
            if not part.isascii() or not part.isprintable():
                raise NotOnlyReading(Why.NAME)
        found = Name(kind, schema, name)
        self.names.add(found)
        return found

    def add_optional(self, kind: Kind, schema: str, name: str) -> None:
        self.may_miss.add(self.add(kind, schema, name))

    def depends(self, unkept: Unkept) -> None:
        self.unkept = self.unkept or unkept

    def operator(self, *names: str) -> None:
        """Operators that are looked up without a schema."""
        for name in names:
            self.add(Kind.OPERATOR, "", name)

    def written_operator(self, parts: Any) -> None:
        self.add(Kind.OPERATOR, *schema_and_name(parts))

    # -- nodes, in the order of _HANDLERS --------------------------------------------------------------------

    def relation(self, node: Any) -> None:
        self.add(Kind.RELATION, node.schemaname, node.relname)

    def call(self, node: Any) -> None:
        schema, name = schema_and_name(node.funcname)
        if name in _TELLING or name in _DOING or _RUNNING.match(name):
            raise NotOnlyReading(Why.SESSION)
        if name == "current_setting" and not (node.args and _is_of_application(node.args[0])):
            self.depends(Unkept.SETTING)
        if len(node.args) == 1:
            self.add_optional(Kind.FUNCTION, schema, name)
            self.add_optional(Kind.TYPE, schema, name)
        else:
            self.add(Kind.FUNCTION, schema, name)

    def column(self, node: Any) -> None:
        """`a` is no call, whatever it names; `a.b` may be one."""
        last = node.fields[-1]
        if last.string.sval in _STORED:
            self.depends(Unkept.ROWS)
        if len(node.fields) > 1 and last.WhichOneof("node") == "string":
            self.attribute(last.string.sval)

    def indirection(self, node: Any) -> None:
        for item in node.indirection:
            if item.WhichOneof("node") == "string":
                self.attribute(item.string.sval)

    def attribute(self, name: str) -> None:
        if name == "current_setting":
            self.depends(Unkept.SETTING)
        if name in _TELLING or name in _DOING or _RUNNING.match(name):
            raise NotOnlyReading(Why.SESSION)
        self.add_optional(Kind.ATTRIBUTE, "", name)

    def expression(self, node: Any) -> None:
        match node.kind:
            case (
                ast.AEXPR_BETWEEN | ast.AEXPR_NOT_BETWEEN | ast.AEXPR_BETWEEN_SYM | ast.AEXPR_NOT_BETWEEN_SYM
            ):
                self.operator(*_OF_BETWEEN)
            case _:
                self.written_operator(node.name)

    def sublink(self, node: Any) -> None:
        if node.oper_name:
            self.written_operator(node.oper_name)
        elif node.sub_link_type == ast.ANY_SUBLINK:
            self.operator("=")

    def join(self, node: Any) -> None:
        if node.is_natural or node.using_clause:
            self.operator("=")

    def case(self, node: Any) -> None:
        if node.HasField("arg"):
            self.operator("=")

    def sort(self, node: Any) -> None:
        if node.use_op:
            self.written_operator(node.use_op)

    def type_name(self, node: Any) -> None:
        if node.setof or node.pct_type or not node.names:
            raise NotOnlyReading(Why.SYNTAX)
        schema, name = schema_and_name(node.names)
        if schema == "pg_catalog" and name in ("float4", "float8"):
            # Which of them `float(n)` means depends on a number, and those are not told apart.
            self.add(Kind.TYPE, schema, "float4")
            name = "float8"
        if name.startswith("reg"):
            self.depends(Unkept.NAMES)
        elif name == "timetz":  # an offset of today's
            self.depends(Unkept.TIME)
        self.add(Kind.TYPE, schema, name)

    def common_table(self, node: Any) -> None:
        self.expressions.add(node.ctename)

    def parameter(self, node: Any) -> None:
        self.parameters = max(self.parameters, node.number)

    def constant(self, node: Any) -> None:
        if node.WhichOneof("val") == "sval" and _MOMENT.search(node.sval.sval):
            self.depends(Unkept.TIME)

    def value_function(self, node: Any) -> None:
        if node.op in _TIMES:
            self.depends(Unkept.TIME)
        if (function := _TELLING_WHO.get(node.op)) is not None:
            self.add_optional(Kind.FUNCTION, "pg_catalog", function)


def _is_of_application(setting: Any) -> bool:
    """Whether the name of a setting is written out, and has a dot; with or without a cast."""
    node = setting.type_cast.arg if setting.WhichOneof("node") == "type_cast" else setting
    return "." in node.a_const.sval.sval


def schema_and_name(parts: Any) -> tuple[str, str]:
    """Of `name`, `schema.name` or `database.schema.name`."""
    return parts[-2].string.sval if len(parts) > 1 else "", parts[-1].string.sval


def _called_before_16(*names: str) -> Callable[[ReadingTree, Any], None]:
    """Of syntax that is a call of a function, or a cast to a type, where the server does not know it."""

    def handler(tree: ReadingTree, _: Any) -> None:
        for name in names:
            tree.add_optional(Kind.FUNCTION, "", name)
            tree.add_optional(Kind.TYPE, "", name)

    return handler


_HANDLERS: dict[type, Callable[[ReadingTree, Any], None]] = {
    ast.RangeVar: ReadingTree.relation,
    ast.FuncCall: ReadingTree.call,
    ast.ColumnRef: ReadingTree.column,
    ast.A_Indirection: ReadingTree.indirection,
    ast.A_Expr: ReadingTree.expression,
    ast.SubLink: ReadingTree.sublink,
    ast.JoinExpr: ReadingTree.join,
    ast.CaseExpr: ReadingTree.case,
    ast.SortBy: ReadingTree.sort,
    ast.TypeName: ReadingTree.type_name,
    ast.CommonTableExpr: ReadingTree.common_table,
    ast.ParamRef: ReadingTree.parameter,
    ast.A_Const: ReadingTree.constant,
    ast.SQLValueFunction: ReadingTree.value_function,
    ast.JsonParseExpr: _called_before_16("json"),
    ast.JsonScalarExpr: _called_before_16("json_scalar"),
    ast.JsonSerializeExpr: _called_before_16("json_serialize"),
    ast.JsonFuncExpr: _called_before_16("json_exists", "json_value", "json_query"),
    ast.JsonTable: _called_before_16("json_table"),
    ast.JsonObjectConstructor: _called_before_16("json_object"),
    ast.JsonArrayConstructor: _called_before_16("json_array"),
    ast.JsonArrayQueryConstructor: _called_before_16("json_array"),
    ast.JsonObjectAgg: _called_before_16("json_objectagg"),
    ast.JsonArrayAgg: _called_before_16("json_arrayagg"),
}

_HARMLESS: frozenset[type] = frozenset(
    {
        ast.Node,
        ast.List,
        ast.SelectStmt,
        ast.ResTarget,
        ast.Alias,
        ast.A_Star,
        ast.A_Indices,
        ast.A_ArrayExpr,
        ast.Integer,
        ast.Float,
        ast.Boolean,
        ast.String,
        ast.BitString,
        ast.TypeCast,
        ast.CollateClause,
        ast.NamedArgExpr,
        ast.RangeSubselect,
        ast.RangeFunction,
        ast.RangeTableFunc,
        ast.RangeTableFuncCol,
        ast.ColumnDef,
        ast.CaseWhen,
        ast.CoalesceExpr,
        ast.MinMaxExpr,
        ast.NullTest,
        ast.BooleanTest,
        ast.BoolExpr,
        ast.RowExpr,
        ast.WindowDef,
        ast.GroupingSet,
        ast.GroupingFunc,
        ast.WithClause,
        ast.CTESearchClause,
        ast.CTECycleClause,
        ast.XmlExpr,
        ast.XmlSerialize,
        ast.JsonFormat,
        ast.JsonReturning,
        ast.JsonValueExpr,
        ast.JsonOutput,
        ast.JsonArgument,
        ast.JsonBehavior,
        ast.JsonTableColumn,
        ast.JsonTablePathSpec,
        ast.JsonKeyValue,
        ast.JsonAggConstructor,
        ast.JsonIsPredicate,
    }
)
_CLOSED: frozenset[type] = frozenset({ast.A_Const, ast.ColumnRef, ast.String, ast.ParamRef})
_WHY: dict[type, Why] = {
    ast.IntoClause: Why.INTO,
    ast.LockingClause: Why.LOCKS,
    ast.RangeTableSample: Why.SAMPLE,
    ast.InsertStmt: Why.WRITES,
    ast.UpdateStmt: Why.WRITES,
    ast.DeleteStmt: Why.WRITES,
    ast.MergeStmt: Why.WRITES,
}
ReadingTree.handlers = _HANDLERS
ReadingTree.harmless = _HARMLESS
