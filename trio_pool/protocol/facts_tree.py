"""Finds the facts of statements in the tree of PostgreSQL's parser.

It must never know bytes of a text but to cut a statement out of it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import attrs
from postgast import pg_query_pb2 as ast

from trio_pool.protocol.facts_kinds import NOTHING, Ask, Discard, Facts, Prepared, PreparedAction
from trio_pool.protocol.sql import children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

COMPUTED_NAME = "set_config of a computed name"
TEMPORARY_SLOT = "temporary replication slot"

_LOCKING = frozenset(
    f"pg_{way}advisory_lock{kind}" for way in ("", "try_") for kind in ("", "_shared")
)  # not pg_advisory_xact_lock
_UNLOCKING = frozenset(f"pg_advisory_unlock{kind}" for kind in ("", "_shared", "_all"))
_KEEPING = {
    "setseed": "setseed",
    "dblink_connect": "dblink connection",
    "dblink_connect_u": "dblink connection",
    "pg_replication_origin_session_setup": "replication origin",
    "pg_backup_start": "base backup",
    "pg_start_backup": "base backup",
}
_SLOT_MAKING = frozenset(
    f"pg_{way}_{kind}_replication_slot" for way in ("create", "copy") for kind in ("physical", "logical")
)
# Built-in and of tablefunc and xml2. They take the text of a query, whose functions may do anything.
_TEXT_RUNNING = frozenset(
    {
        "query_to_xml",
        "query_to_xmlschema",
        "query_to_xml_and_xmlschema",
        "ts_stat",
        "ts_rewrite",
        "connectby",
        "xpath_table",
    }
)
_FLAGS = {
    "nextval": "moves_sequences",
    "setval": "moves_sequences",
    "currval": "reads_sequences",
    "lastval": "reads_sequences",
    "pg_notify": "notifies",
    "pg_listening_channels": "lists_channels",
    "pg_prepared_statement": "lists_prepared",
    "pg_prepared_statements": "lists_prepared",
}
_STATEMENT_FLAGS = {"notify": "notifies", "listen": "listens", "unlisten": "listens"}
_KEEPING_SET = re.compile(r"\bset\s+(?:session\s+)?\"?\w+\"?\s*\.|\bset_config\b")
_KEEPING_LOAD = re.compile(r"\bload\s+'")
_KEEPING_SEED = re.compile(r"\bset\s+(?:session\s+|local\s+)?\"?seed\b")

_CURSOR_OPT_HOLD = 0x20  # parsenodes.h
_DISCARDS = {
    ast.DISCARD_ALL: Discard.ALL,
    ast.DISCARD_PLANS: Discard.PLANS,
    ast.DISCARD_SEQUENCES: Discard.SEQUENCES,
    ast.DISCARD_TEMP: Discard.TEMP,
}


@attrs.define(eq=False)
class TreeReader:
    """Collects the facts of statements, each node in the text's order."""

    source: bytes
    encoding: str
    begins: Ask = Ask.NOTHING
    ends: Ask = Ask.NOTHING
    settings: set[str] = attrs.field(factory=set)
    resets: set[str] = attrs.field(factory=set)
    setting_parameters: set[int] = attrs.field(factory=set)
    prepared: list[Prepared] = attrs.field(factory=list)
    flags: set[str] = attrs.field(factory=set)
    keeps: set[str] = attrs.field(factory=set)
    pins: list[str] = attrs.field(factory=list)
    discards: set[Discard] = attrs.field(factory=set)
    statement_text: bytes = b""

    def facts(self) -> Facts:
        found = Facts(
            begins=self.begins,
            ends=self.ends,
            settings=frozenset(self.settings),
            resets=frozenset(self.resets),
            setting_parameters=frozenset(self.setting_parameters),
            prepared=tuple(self.prepared),
            keeps=frozenset(self.keeps),
            pins=self.pins[0] if self.pins else None,
            discards=frozenset(self.discards),
            **dict.fromkeys(self.flags, True),
        )
        return NOTHING if found == NOTHING else found

    def look(self, root: Any) -> None:
        """Go through a tree, parents first."""
        stack = [root]
        while stack:
            node = stack.pop()
            kind = type(node)
            handler = _HANDLERS.get(kind)
            if handler is not None:
                handler(self, node)
            if kind not in _CLOSED:
                stack.extend(reversed([*children(node)]))

    def statement(self, node: Any) -> None:
        """A whole statement. Only as such is a SET one: ALTER ROLE and CREATE FUNCTION have a SET inside."""
        end = node.stmt_location + node.stmt_len if node.stmt_len else len(self.source)
        text = self.source[node.stmt_location : end].decode()
        self.statement_text = text.strip().encode(self.encoding)
        if node.stmt.WhichOneof("node") == "variable_set_stmt":
            self.set_parameter(node.stmt.variable_set_stmt)

    def set_parameter(self, node: Any) -> None:
        if node.kind == ast.VAR_RESET_ALL:
            self.flags.add("resets_all")
            self.change_settings()
            return
        name = _folded(node.name)
        if node.kind in (ast.VAR_RESET, ast.VAR_SET_DEFAULT):
            self.resets.add(name)
        if name == "seed":
            self.keep("setseed")  # its effect is no setting's value, so LOCAL does not undo it
        if node.is_local or node.name in ("TRANSACTION", "TRANSACTION SNAPSHOT"):
            return
        if node.name == "SESSION CHARACTERISTICS":
            names = ["default_" + item.def_elem.defname for item in node.args]
        else:
            names = [name]
        self.change_settings(names)

    def change_settings(self, names: Iterable[str] = ()) -> None:
        """Setting one can put back its default, and resetting one sets it for the server's next client."""
        self.begins |= Ask.SETTINGS
        self.ends |= Ask.SETTINGS
        self.settings.update(names)
        if "session_authorization" in self.settings:
            self.settings.add("role")

    def call(self, node: Any) -> None:
        name = _last(node.funcname)
        if name in _FLAGS:
            self.flags.add(_FLAGS[name])
        if name in _LOCKING:
            self.begins |= Ask.LOCKS
            self.pins.append("session advisory lock")
        elif name in _UNLOCKING:
            self.ends |= Ask.LOCKS
        elif name in _KEEPING:
            self.keep(_KEEPING[name])
        elif name == "set_config":
            self.set_config(node)
        elif name in _SLOT_MAKING:
            temporary = _argument(node, 2, "temporary")
            if temporary is not None and _truth(temporary) is not False:
                self.keep(TEMPORARY_SLOT)
        elif name == "pg_import_system_collations":
            self.begins |= Ask.TEMPORARY
        elif name in _TEXT_RUNNING or name.startswith("crosstab"):
            self.run(_literals(node))

    def set_config(self, call: Any) -> None:
        parameter = _argument(call, 0, "setting_name")
        while parameter is not None and _is_text_cast(parameter):
            parameter = parameter.type_cast.arg
        is_local = _argument(call, 2, "is_local")
        name = _literal(parameter)
        if name is None:
            self.change_settings()
            if parameter is not None and parameter.WhichOneof("node") == "param_ref":
                self.setting_parameters.add(parameter.param_ref.number)
            else:
                self.keep(COMPUTED_NAME)
            return
        name = _folded(name)
        if name == "seed":
            self.keep("setseed")
        if is_local is None or _truth(is_local) is not True:
            self.change_settings([name])

    def table(self, node: Any) -> None:
        """A mention of a table."""
        if node.relname in _FLAGS:
            self.flags.add(_FLAGS[node.relname])

    def update(self, node: Any) -> None:
        if node.relation.relname == "pg_settings":  # its rule calls set_config
            self.change_settings()
            self.keep(COMPUTED_NAME)

    def keep(self, reason: str) -> None:
        self.keeps.add(reason)
        self.pins.append(reason)

    def load(self, _: Any) -> None:
        self.keep("LOAD")

    def run(self, texts: Iterable[str]) -> None:
        """Code of any language, or SQL, runs: there may be more than these texts."""
        self.begins |= Ask.ALL
        self.ends |= Ask.ALL
        for text in texts:
            body = text.lower()
            words = set(re.findall(r"\w+", body))
            flags = _FLAGS | _STATEMENT_FLAGS
            self.flags.update(flags[word] for word in words & flags.keys())
            self.keeps.update(_KEEPING[word] for word in words & _KEEPING.keys())
            if words & _SLOT_MAKING:
                self.keeps.add(TEMPORARY_SLOT)
            if _KEEPING_SET.search(body):
                self.keeps.add(COMPUTED_NAME)
            if _KEEPING_LOAD.search(body):
                self.keeps.add("LOAD")
            if _KEEPING_SEED.search(body):
                self.keeps.add("setseed")

    def run_code(self, node: Any) -> None:
        """DO, CALL, and the scripts of extensions."""
        self.run(_literals(node))

    def discard(self, node: Any) -> None:
        kind = _DISCARDS[node.target]
        self.discards.add(kind)
        if kind is Discard.ALL:
            self.ends |= Ask.ALL
        elif kind is Discard.TEMP:
            self.ends |= Ask.TEMPORARY

    def declare(self, node: Any) -> None:
        if node.options & _CURSOR_OPT_HOLD:
            self.begins |= Ask.CURSORS
            self.pins.append("cursor WITH HOLD")

    def close(self, _: Any) -> None:
        self.ends |= Ask.CURSORS

    def listen(self, _: Any) -> None:
        self.begins |= Ask.CHANNELS
        self.flags.add("listens")

    def unlisten(self, _: Any) -> None:
        self.ends |= Ask.CHANNELS
        self.flags.add("listens")

    def notify(self, _: Any) -> None:
        self.flags.add("notifies")

    def prepare(self, node: Any) -> None:
        inner = TreeReader(self.source, self.encoding)
        inner.look(node.query)
        if inner.setting_parameters:
            inner.keeps.add(COMPUTED_NAME)
        self.prepared.append(
            Prepared(PreparedAction.PREPARE, self.bytes_of(node.name), self.statement_text, inner.facts())
        )

    def execute(self, node: Any) -> None:
        self.prepared.append(Prepared(PreparedAction.EXECUTE, self.bytes_of(node.name)))

    def deallocate(self, node: Any) -> None:
        name = None if node.isall else self.bytes_of(node.name)
        self.prepared.append(Prepared(PreparedAction.DEALLOCATE, name))

    def bytes_of(self, name: str) -> bytes:
        return name.encode(self.encoding)

    def create_table(self, node: Any) -> None:
        if node.oncommit != ast.ONCOMMIT_DROP:
            self.create("table", node.relation)

    def create_table_as(self, node: Any) -> None:
        """CREATE TABLE AS, CREATE MATERIALIZED VIEW, SELECT INTO."""
        if node.on_commit != ast.ONCOMMIT_DROP:
            self.create("table", node.rel)

    def create(self, noun: str, relation: Any) -> None:
        self.create_in(noun, relation.schemaname, relation.relpersistence == "t")

    def create_object(self, names: Any) -> None:
        self.create_in("object", names[-2].string.sval if len(names) > 1 else "", False)

    def create_in(self, noun: str, schema: str, temporary: bool) -> None:
        """A new object. Without a schema, search_path may lead to pg_temp; with another one, nothing does."""
        temporary = temporary or schema.startswith("pg_temp")
        if temporary:
            self.pins.append(f"temporary {noun}")
        if temporary or not schema:
            self.begins |= Ask.TEMPORARY

    def change_temporary(self, _: Any) -> None:
        """May create or drop parts of a table, a sequence for one, and by CASCADE what depends on it."""
        self.begins |= Ask.TEMPORARY
        self.ends |= Ask.TEMPORARY

    def drop(self, _: Any) -> None:
        self.ends |= Ask.TEMPORARY

    def create_range(self, _: Any) -> None:
        self.begins |= Ask.TEMPORARY  # the multirange type may have a schema of its own

    def import_schema(self, node: Any) -> None:
        self.create_in("object", node.local_schema, False)


def _folded(name: str) -> str:
    """As PostgreSQL compares names of parameters, and may fold those of functions: only ASCII, and see
    above."""
    return name.replace("\u0130", "i").replace("\xdd", "i").encode().lower().decode()


def _last(names: Any) -> str:
    """A name without its schema."""
    last: str = names[-1].string.sval
    return last.replace("\u0130", "i").replace("\xdd", "i")


def _argument(call: Any, position: int, name: str) -> Any:
    """An argument by position or name; None if it is not there."""
    for at, argument in enumerate(call.args):
        if argument.WhichOneof("node") == "named_arg_expr":
            if argument.named_arg_expr.name == name:
                return argument.named_arg_expr.arg
        elif at == position:
            return argument
    return None


def _is_text_cast(node: Any) -> bool:
    if node.WhichOneof("node") != "type_cast":
        return False
    name = node.type_cast.type_name
    return not name.typmods and not name.array_bounds and _last(name.names) in ("text", "varchar")


def _literal(node: Any) -> str | None:
    """The value of a string; None if it depends on `standard_conforming_strings`, or is no string."""
    if node is None or node.WhichOneof("node") != "a_const" or node.a_const.WhichOneof("val") != "sval":
        return None
    value: str = node.a_const.sval.sval
    return None if "\\" in value else value


def _truth(node: Any) -> bool | None:
    """The value of TRUE or FALSE; None if it is anything else."""
    if node.WhichOneof("node") != "a_const" or node.a_const.WhichOneof("val") != "boolval":
        return None
    return bool(node.a_const.boolval.boolval)


def _literals(node: Any) -> Iterator[str]:
    """All strings below a node."""
    stack = [node]
    while stack:
        found = stack.pop()
        if type(found) is ast.String:
            yield found.sval
        stack.extend(children(found))


_CREATING_OBJECTS: dict[type, Callable[[Any], Any]] = {
    ast.CreateDomainStmt: lambda node: node.domainname,
    ast.CreateEnumStmt: lambda node: node.type_name,
    ast.DefineStmt: lambda node: node.defnames,
    ast.CreateFunctionStmt: lambda node: node.funcname,
    ast.CreateConversionStmt: lambda node: node.conversion_name,
    ast.CreateOpClassStmt: lambda node: node.opclassname,
    ast.CreateOpFamilyStmt: lambda node: node.opfamilyname,
    ast.CreateStatsStmt: lambda node: node.defnames,
}
_CREATING_RELATIONS: dict[type, tuple[str, Callable[[Any], Any]]] = {
    ast.ViewStmt: ("view", lambda node: node.view),
    ast.CreateSeqStmt: ("sequence", lambda node: node.sequence),
    ast.CompositeTypeStmt: ("object", lambda node: node.typevar),
    ast.IndexStmt: ("table", lambda node: node.relation),
}


def _object_handler(names: Callable[[Any], Any]) -> Callable[[TreeReader, Any], None]:
    return lambda reader, node: reader.create_object(names(node))


def _relation_handler(noun: str, relation: Callable[[Any], Any]) -> Callable[[TreeReader, Any], None]:
    return lambda reader, node: reader.create(noun, relation(node))


# What is missing here does nothing: databases, roles, schemas, publications, servers, casts, triggers and
# policies belong to no schema that could be temporary; ALTER SYSTEM, ROLE and DATABASE change later
# sessions; VACUUM, CLUSTER, REINDEX, LOCK, TRUNCATE, COPY, SET CONSTRAINTS, FETCH and transactions leave
# nothing to the session.
_HANDLERS: dict[type, Callable[[TreeReader, Any], None]] = {
    ast.RawStmt: TreeReader.statement,
    ast.FuncCall: TreeReader.call,
    ast.RangeVar: TreeReader.table,
    ast.UpdateStmt: TreeReader.update,
    ast.LoadStmt: TreeReader.load,
    ast.DoStmt: TreeReader.run_code,
    ast.CallStmt: TreeReader.run_code,
    ast.CreateExtensionStmt: TreeReader.run_code,
    ast.AlterExtensionStmt: TreeReader.run_code,
    ast.DiscardStmt: TreeReader.discard,
    ast.DeclareCursorStmt: TreeReader.declare,
    ast.ClosePortalStmt: TreeReader.close,
    ast.ListenStmt: TreeReader.listen,
    ast.UnlistenStmt: TreeReader.unlisten,
    ast.NotifyStmt: TreeReader.notify,
    ast.PrepareStmt: TreeReader.prepare,
    ast.ExecuteStmt: TreeReader.execute,
    ast.DeallocateStmt: TreeReader.deallocate,
    ast.CreateStmt: TreeReader.create_table,
    ast.IntoClause: TreeReader.create_table_as,
    ast.CreateRangeStmt: TreeReader.create_range,
    ast.ImportForeignSchemaStmt: TreeReader.import_schema,
    ast.AlterTableStmt: TreeReader.change_temporary,
    ast.AlterObjectSchemaStmt: TreeReader.drop,
    ast.AlterDomainStmt: TreeReader.drop,
    ast.DropStmt: TreeReader.drop,
    ast.DropOwnedStmt: TreeReader.drop,
    **{kind: _object_handler(names) for kind, names in _CREATING_OBJECTS.items()},
    **{kind: _relation_handler(*found) for kind, found in _CREATING_RELATIONS.items()},
}

# Definitions, what has a reader of its own, and the most frequent nodes that have nothing to look at inside.
_CLOSED = frozenset(
    {
        ast.CreateFunctionStmt,
        ast.ViewStmt,
        ast.RuleStmt,
        ast.PrepareStmt,
        ast.A_Const,
        ast.ColumnRef,
        ast.String,
        ast.TypeName,
    }
)
