"""What a publication must be so that it shows every change and breaks nobody's writes.

A published table without a replica identity cannot be updated any more (`CheckCmdReplicaIdentity` in
executor/execReplication.c), so only tables that have one are published; the others are not *covered*. Of a
partitioned table with a primary key the root is published, so that new partitions are from the beginning.

Here are the questions, in SQL, and what follows from their answers. Sources: the catalogs of PostgreSQL 13
and later; section "Publication", and `RelationGetIndexList` for which index is an identity.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final
from zlib import crc32

import attrs

from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Row = Sequence[str | None]

FIRST_USER_OID: Final = 16384
COMMENT: Final = "made by trio-pool for its cache; the last trio-pool removes it"
"""Tells our publications from those that somebody has made by hand."""
EVERY_CHANGE: Final = "publish = 'insert, update, delete, truncate', publish_via_partition_root = false"

ABOUT_SERVER: Final = (
    "SELECT current_setting('wal_level'), pg_is_in_recovery(), current_setting('server_version_num'),"
    " current_user"
)
PIN: Final = (
    "SET search_path = pg_catalog, pg_temp; SET client_encoding = 'UTF8'; SET lock_timeout = '200ms'; "
    "SET default_transaction_read_only = off; "
    "SET statement_timeout = '30s'; SET idle_in_transaction_session_timeout = '30s'; "
    "SET synchronous_commit = local"
)
_IDENTITY_OF_PUBLICATION: Final = (
    "p.oid || CASE WHEN p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND NOT p.pubviaroot"
    " THEN '' ELSE ' incomplete' END"
)
PROBE: Final = (
    "SELECT pg_current_wal_flush_lsn(), txid_current_snapshot(),"
    f" (SELECT {_IDENTITY_OF_PUBLICATION} FROM pg_publication AS p WHERE p.pubname = $1)"
)
"""With the publication, since PostgreSQL 18 streams nothing, without a word, when it has been dropped."""
SNAPSHOT: Final = "SELECT txid_current_snapshot()"
NUDGE: Final = "SELECT pg_logical_emit_message(true, 'trio_pool', '')"
"""A commit, so that everything before it is flushed up to the end of a record."""
BLOCKERS: Final = "SELECT pg_blocking_pids($1::int4)"
HELD_BACK: Final = (
    "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::int8 FROM pg_replication_slots"
    " WHERE slot_name = $1"
)
PUBLICATION: Final = (
    f"SELECT {_IDENTITY_OF_PUBLICATION},"
    " pg_has_role(p.pubowner, 'USAGE') AND obj_description(p.oid, 'pg_publication') = $2,"
    " p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, p.pubviaroot, p.puballtables,"
    " pg_has_role(p.pubowner, 'USAGE')"
    " FROM pg_publication AS p WHERE p.pubname = $1"
)
SCHEMA: Final = f"""
SELECT md5(string_agg(mark, ',' ORDER BY mark)) FROM (
  SELECT 'f' || oid || ':' || xmin::text FROM pg_proc WHERE oid >= {FIRST_USER_OID}
  UNION ALL SELECT 'r' || r.oid || ':' || r.xmin::text FROM pg_rewrite AS r JOIN pg_class AS c
    ON c.oid = r.ev_class WHERE r.oid >= {FIRST_USER_OID} AND c.relpersistence <> 't'
  UNION ALL SELECT 'c' || oid || ':' || xmin::text FROM pg_class
    WHERE oid >= {FIRST_USER_OID} AND relpersistence <> 't' AND relkind IN ('v', 'm', 'f')
  UNION ALL SELECT 'a' || a.attrelid || '.' || a.attnum || ':' || a.xmin::text FROM pg_attribute AS a
    JOIN pg_class AS c ON c.oid = a.attrelid
    WHERE a.attrelid >= {FIRST_USER_OID} AND a.attnum > 0 AND c.relpersistence <> 't' AND c.relkind <> 'i'
  UNION ALL SELECT 'p' || oid || ':' || xmin::text FROM pg_policy
  UNION ALL SELECT 'm' || roleid || '.' || member || ':' || xmin::text FROM pg_auth_members
) AS marks (mark)"""
"""Changes when something else changes that decides what a query means: views, functions, columns, policies.
"""
_LOCKS: Final = 0x7470  # any number, the same in all trio-pools


def attend(publication: str) -> str:
    """Marks the session as one that needs the publication."""
    return f"SELECT pg_advisory_lock_shared({_LOCKS}, {_key(publication)})"


def attended(publication: str) -> str:
    """Whether there is such a session, other than $1, the number of one that ends."""
    return (
        f"SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND classid = {_LOCKS} AND objid = "
        f"{_key(publication)} AND pid <> $1::int4"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) LIMIT 1"
    )


def await_unattended(publication: str) -> str:
    """Until the session ends nobody else can mark itself; fails at `lock_timeout` if somebody is marked."""
    return f"SET lock_timeout = '500ms'; SELECT pg_advisory_lock({_LOCKS}, {_key(publication)})"


def _key(publication: str) -> int:
    return crc32(publication.encode(errors="surrogateescape")) & 0x7FFFFFFF


_IDENTITY: Final = """
  CASE c.relreplident
    WHEN 'f' THEN NOT EXISTS (SELECT FROM pg_attribute AS a
      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated <> '')
    WHEN 'n' THEN false
    ELSE EXISTS (SELECT FROM pg_index AS i
      WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND i.indisunique
        AND CASE c.relreplident WHEN 'i' THEN i.indisreplident ELSE i.indisprimary END
        AND NOT EXISTS (SELECT FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attgenerated <> ''
          AND a.attnum = ANY (i.indkey::int2[])))
  END"""


def tables_question(version: int) -> str:
    """All tables of users; `$1` is the publication, which need not exist."""
    unfiltered = "" if version < 150000 else " AND g.qual IS NULL"
    return f"""
  WITH shown AS MATERIALIZED (
    SELECT g.relid FROM pg_publication AS p, LATERAL pg_get_publication_tables(p.pubname::text) AS g
    WHERE p.pubname = $1{unfiltered}
  ), listed AS MATERIALIZED (
    SELECT r.prrelid FROM pg_publication_rel AS r JOIN pg_publication AS p ON p.oid = r.prpubid
    WHERE p.pubname = $1
  )
  SELECT c.oid, n.nspname, c.relname, c.relkind, c.relispartition, c.relpersistence, {_IDENTITY},
    pg_has_role(c.relowner, 'USAGE'),
    c.oid IN (SELECT relid FROM shown), c.oid IN (SELECT prrelid FROM listed),
    ARRAY(SELECT i.inhparent FROM pg_inherits AS i WHERE i.inhrelid = c.oid), c.xmin
  FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= {FIRST_USER_OID} AND c.relpersistence <> 't'"""


class Uncovered(enum.Enum):
    """Why changes to a table are not streamed."""

    NO_IDENTITY = "no primary key or other replica identity"
    NOT_OWNED = "the table belongs to another role"
    UNLOGGED = "unlogged or foreign"
    NOT_PUBLISHED = "not in the publication"
    PENDING = "just published"


@attrs.frozen
class Table:
    """`parents` are tables that it is a partition or an heir of. `shown`: its rows are published.
    `listed`: it is in the publication by its own name.
    """

    oid: int
    schema: str
    name: str
    partitioned: bool
    is_partition: bool
    logged: bool
    has_identity: bool
    owned: bool
    shown: bool
    listed: bool
    parents: frozenset[int]
    version: str
    """Changes when the table is altered, rewritten, or its privileges are."""

    @classmethod
    def read(cls, row: Row) -> Table:
        """From a row of `tables_question`. Raises ValueError."""
        oid, schema, name, kind, is_partition, persistence, identity, owned, shown, listed, *rest = row
        parents, version = rest
        return cls(
            int(oid or ""),
            schema or "",
            name or "",
            kind == "p",
            is_partition == "t",
            persistence == "p" and kind != "f",
            identity == "t",
            owned == "t",
            shown == "t",
            listed == "t",
            frozenset(int(one) for one in (parents or "{}").strip("{}").split(",") if one),
            version or "",
        )

    @property
    def sql(self) -> str:
        """Its name, and that of no heir, as ALTER PUBLICATION takes it."""
        schema, name = (messages.quoted(part.encode()).decode() for part in (self.schema, self.name))
        return f"{schema}.{name}" if self.partitioned else f"ONLY {schema}.{name}"


@attrs.frozen(eq=False)
class Schema:
    """The tables of a database, as they were at one moment."""

    tables: dict[int, Table]
    children: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, tables: Iterable[Table]) -> Schema:
        found = {table.oid: table for table in tables}
        children: dict[int, list[int]] = {}
        for table in found.values():
            for parent in table.parents:
                children.setdefault(parent, []).append(table.oid)
        return cls(found, {parent: tuple(oids) for parent, oids in children.items()})

    def partitions(self, oid: int) -> list[Table]:
        """All below a partitioned table, of all levels."""
        below: list[Table] = []
        for child in self.children.get(oid, ()):
            below += [self.tables[child], *self.partitions(child)]
        return below

    def above(self, oid: int) -> frozenset[int]:
        """The table, and what a reading of which reads this one too: its parents, and theirs."""
        reached = {oid}
        todo = [oid]
        while todo:
            table = self.tables.get(todo.pop())
            for parent in () if table is None else table.parents - reached:
                reached.add(parent)
                todo.append(parent)
        return frozenset(reached)

    def wanted(self) -> frozenset[int]:
        """What to publish by name."""
        wanted: set[int] = set()
        for table in self.tables.values():
            if table.is_partition:
                continue
            if not table.partitioned:
                if _publishable(table):
                    wanted.add(table.oid)
                continue
            wanted |= self._of_tree(table)
        return frozenset(wanted)

    def _of_tree(self, root: Table) -> set[int]:
        """The root, or as much below it as can be published."""
        below = self.partitions(root.oid)
        if (
            root.has_identity
            and root.owned
            and all(_publishable(one) for one in below if not one.partitioned)
        ):
            return {root.oid}
        found: set[int] = set()
        for child in (self.tables[oid] for oid in self.children.get(root.oid, ())):
            if child.partitioned:
                found |= self._of_tree(child)
            elif _publishable(child):
                found.add(child.oid)
        return found

    def shown(self) -> frozenset[int]:
        """Tables all of whose changes are published: those with rows, and partitioned ones whose partitions
        are.
        """
        leaves = {oid for oid, one in self.tables.items() if one.shown and one.logged and not one.partitioned}
        trees = {
            one.oid
            for one in self.tables.values()
            if one.partitioned
            and all(below.oid in leaves for below in self.partitions(one.oid) if not below.partitioned)
        }
        return frozenset(leaves | trees)

    def listed(self) -> frozenset[int]:
        return frozenset(oid for oid, table in self.tables.items() if table.listed)

    def reasons(self, covered: frozenset[int]) -> dict[str, int]:
        """How many tables are not covered, by reason."""
        counts: dict[str, int] = {}
        for table in self.tables.values():
            if table.oid not in covered:
                reason = _why(table).value
                counts[reason] = counts.get(reason, 0) + 1
        return counts


def _publishable(table: Table) -> bool:
    return table.logged and table.has_identity and table.owned


def _why(table: Table) -> Uncovered:
    if not table.logged:
        return Uncovered.UNLOGGED
    if not table.has_identity and not table.partitioned:
        return Uncovered.NO_IDENTITY
    if table.shown:
        return Uncovered.PENDING
    return Uncovered.NOT_PUBLISHED if table.owned else Uncovered.NOT_OWNED


def create(publication: str) -> list[str]:
    name = _quoted(publication)
    return [
        f"CREATE PUBLICATION {name} WITH ({EVERY_CHANGE})",
        f"COMMENT ON PUBLICATION {name} IS '{COMMENT}'",
    ]


def drop(publication: str) -> str:
    return f"DROP PUBLICATION IF EXISTS {_quoted(publication)}"


def add(publication: str, tables: Iterable[Table]) -> str:
    return f"ALTER PUBLICATION {_quoted(publication)} ADD TABLE {', '.join(table.sql for table in tables)}"


def remove(publication: str, tables: Iterable[Table]) -> str:
    return f"ALTER PUBLICATION {_quoted(publication)} DROP TABLE {', '.join(table.sql for table in tables)}"


def touch(publication: str) -> str:
    """Changes nothing, and makes walsenders look at the publication anew.

    Those before 13.21, 14.18, 15.13, 16.9 and 17.5 may otherwise go by what was published when a transaction
    began that was under way while the publication was changed.
    """
    return f"ALTER PUBLICATION {_quoted(publication)} SET ({EVERY_CHANGE})"


def _quoted(name: str) -> str:
    return messages.quoted(name.encode(errors="surrogateescape")).decode(errors="surrogateescape")
