"""The question to a database what names mean in it, as one query of ours.

It asks about names in *all* schemas unless one is given, so the answer holds for every search_path and role;
and about all overloads, so it holds for every type of argument. It must itself not depend on search_path, so
all names are qualified; names travel as one parameter (they are printable ASCII) and texts in hexadecimal,
whatever client_encoding is.

Sources: the system catalogs of PostgreSQL 11 and later. Objects below `FIRST_USER_OID` came with initdb
(`FirstNormalObjectId` in access/transam.h); 12, 13 and 14 are the languages `internal`, `c` and `sql`.

It must never know what an answer leads to.

What a row says, by its fourth column:

- A function that the name may call: `immutable`, `volatile`, `stable` (built-in), `declared` (stable, of a
  user, in C), `unreadable` (stable, of a user, in a language that nobody here reads), `settled` (built-in,
  stable, called by an operator, an aggregate or the like, or of certain extensions: it depends on settings,
  and on what DDL has configured, only), `input` (with arguments that no SQL statement should pass).
- `text`: SQL that runs with it, in the fifth column: the body of a function, the defaults of its arguments,
  the definition of a view, the condition of a policy. `check`: the constraint of a domain that a value can
  come to.
- `table`, a table that is read, `system`, one that came with initdb, and `view`, with their OIDs.
- `foreign`, `temporary`, `kind`: a relation whose reading does more, or may. `timetz`: one with such values,
  whose input depends on the time.
- `promise`: the definition of an immutable function of a user, in SQL or PL/pgSQL.
- `type`: a type that a value is cast to.

The rows of the kind `database` are about what runs without being named: casts, comparisons, in- and output.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_pool.protocol import settings
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.protocol.reading_kinds import Name
    from trio_pool.protocol.writing_kinds import Target

FIRST_USER_OID = 16384
DATABASE = "database"

_WITHOUT_JIT = (
    "SELECT FROM pg_catalog.set_config('jit', 'off', true) AS jit WHERE jit OPERATOR(pg_catalog.<>) 'off'"
)
"""Until the Sync; no row. PostgreSQL overrates what recursive queries give, and would compile for seconds,
once the catalogs have a thousand entries, what runs for milliseconds.
"""


def request(sql: str, names: Iterable[Name | Target | None]) -> bytes:
    """A question, ended by Sync. It reads catalogs only, and leaves no unnamed statement behind."""
    asked = settings.run(sql, [parameter(names)])
    return settings.run(_WITHOUT_JIT) + asked + messages.close_statement(b"") + messages.SYNC


def parameter(names: Iterable[Name | Target | None]) -> str:
    """The query's parameter. None asks for what runs without being named."""
    lines = (
        f"{name.kind.value}\t{name.schema}\t{name.name}" if name else f"{DATABASE}\t\t" for name in names
    )
    return "\n".join(sorted(lines))


_AGGREGATE_FUNCTIONS = ", ".join(
    f"a.agg{part}fn::oid"
    for part in ("trans", "final", "combine", "serial", "deserial", "mtrans", "minvtrans", "mfinal")
)
_TYPE_FUNCTIONS = ", ".join(
    f"t.typ{part}::oid" for part in ("input", "output", "receive", "send", "modin", "modout")
)

# Abbreviated: `=` for OPERATOR(pg_catalog.=), `oid` and the like for types; `qualified` writes them out.
NAMED = f"""
WITH RECURSIVE asked AS (
  SELECT split_part(line, E'\\t', 1) AS kind, split_part(line, E'\\t', 2) AS schema,
         split_part(line, E'\\t', 3) AS name
    FROM unnest(string_to_array($1, E'\\n')) AS line
), spaces AS (
  SELECT n.oid, asked.kind, asked.schema, asked.name
    FROM asked JOIN @pg_namespace AS n ON asked.schema = '' OR asked.schema = n.nspname::text
), called (kind, schema, name, oid, silent) AS (
  SELECT s.kind, s.schema, s.name, p.oid, false
    FROM spaces AS s JOIN @pg_proc AS p ON p.proname = s.name::name AND p.pronamespace = s.oid
   WHERE p.prokind <> 'p' AND (s.kind = 'function' OR s.kind = 'attribute'
     AND p.pronargs - p.pronargdefaults <= 1 AND (p.pronargs >= 1 OR p.provariadic <> 0::oid))
  UNION ALL
  SELECT s.kind, s.schema, s.name, related.oprcode::oid, true
    FROM spaces AS s JOIN @pg_operator AS o ON o.oprname = s.name::name AND o.oprnamespace = s.oid
    JOIN @pg_operator AS related ON related.oid IN [o.oid, o.oprcom, o.oprnegate]
   WHERE s.kind = 'operator'
  UNION ALL
  SELECT 'database', '', '', c.castfunc, true
    FROM asked JOIN @pg_cast AS c ON asked.kind = 'database' AND c.castfunc >= {FIRST_USER_OID}::oid
  UNION ALL
  SELECT 'database', '', '', o.oprcode::oid, true
    FROM asked JOIN @pg_amop AS m ON asked.kind = 'database' JOIN @pg_operator AS o ON o.oid = m.amopopr
   WHERE o.oprcode::oid >= {FIRST_USER_OID}::oid
  UNION ALL
  SELECT 'database', '', '', p.oid, true
    FROM asked JOIN @pg_amproc AS m ON asked.kind = 'database' JOIN @pg_proc AS p ON p.oid = m.amproc::oid
   WHERE p.oid >= {FIRST_USER_OID}::oid AND p.prolang NOT IN [12::oid, 13::oid]
  UNION ALL
  SELECT 'database', '', '', f.oid, true
    FROM asked JOIN @pg_type AS t ON asked.kind = 'database'
    CROSS JOIN LATERAL unnest(ARRAY[{_TYPE_FUNCTIONS}]) AS f (oid)
   WHERE t.oid >= {FIRST_USER_OID}::oid AND f.oid >= {FIRST_USER_OID}::oid
), procs AS (
  SELECT * FROM called
  UNION
  SELECT c.kind, c.schema, c.name, f.oid, true
    FROM called AS c JOIN @pg_aggregate AS a ON a.aggfnoid::oid = c.oid
    CROSS JOIN LATERAL unnest(ARRAY[{_AGGREGATE_FUNCTIONS}]) AS f (oid)
   WHERE f.oid <> 0::oid
)"""
"""What is asked about, and `procs`: the functions that may be called by those names."""
_SQL = f"""{NAMED}, relations AS (
  SELECT s.kind, s.schema, s.name, c.oid
    FROM spaces AS s JOIN @pg_class AS c ON c.relname = s.name::name AND c.relnamespace = s.oid
   WHERE s.kind = 'relation'
), families AS (
  SELECT * FROM relations
  UNION
  SELECT f.kind, f.schema, f.name, i.inhrelid
    FROM families AS f JOIN @pg_inherits AS i ON i.inhparent = f.oid
), types AS (
  SELECT s.kind, s.schema, s.name, t.oid
    FROM spaces AS s JOIN @pg_type AS t ON t.typname = s.name::name AND t.typnamespace = s.oid
   WHERE s.kind IN ['type', 'attribute']
), reached AS (
  SELECT * FROM types
  UNION
  SELECT r.kind, r.schema, r.name, c.reltype FROM relations AS r JOIN @pg_class AS c ON c.oid = r.oid
  UNION
  SELECT p.kind, p.schema, p.name, a.oid
    FROM procs AS p JOIN @pg_proc AS f ON f.oid = p.oid AND f.oid >= {FIRST_USER_OID}::oid
    CROSS JOIN LATERAL unnest(f.proargtypes::oid[] || f.prorettype || coalesce(f.proallargtypes, '{{}}'))
      AS a (oid)
), values_of AS (
  SELECT * FROM reached
  UNION
  SELECT v.kind, v.schema, v.name, part.oid
    FROM values_of AS v JOIN @pg_type AS t ON t.oid = v.oid AND t.oid >= {FIRST_USER_OID}::oid
    CROSS JOIN LATERAL (
      SELECT t.typelem UNION ALL SELECT t.typbasetype
      UNION ALL SELECT r.rngsubtype FROM @pg_range AS r WHERE r.rngtypid = t.oid
      UNION ALL SELECT a.atttypid FROM @pg_attribute AS a
                 WHERE t.typrelid <> 0::oid AND a.attrelid = t.typrelid
                   AND a.attnum > 0::int2 AND NOT a.attisdropped
    ) AS part (oid)
   WHERE part.oid >= {FIRST_USER_OID}::oid
)
SELECT kind, schema, name, finding, encode(convert_to(detail, 'UTF8'), 'hex') FROM (
SELECT DISTINCT p.kind, p.schema, p.name, CASE
         WHEN NOT p.silent AND f.prokind <> 'a'
              AND (2275::oid = ANY (f.proargtypes::oid[]) OR 2281::oid = ANY (f.proargtypes::oid[]))
         THEN 'input'
         WHEN f.provolatile = 'i' THEN 'immutable'
         WHEN f.provolatile = 'v' THEN 'volatile'
         WHEN f.oid < {FIRST_USER_OID}::oid AND p.silent THEN 'settled'
         WHEN f.oid < {FIRST_USER_OID}::oid THEN 'stable'
         WHEN f.prolang = 13::oid AND EXISTS (
           SELECT FROM @pg_depend AS d JOIN @pg_extension AS e ON e.oid = d.refobjid
            WHERE d.classid = 1255::oid AND d.objid = f.oid AND d.refclassid = 3079::oid
              AND d.deptype = 'e' AND e.extname IN ['pg_trgm', 'unaccent']) THEN 'settled'
         WHEN f.prolang IN [12::oid, 13::oid] THEN 'declared'
         WHEN f.prolang = 14::oid AND f.prosrc <> '' THEN 'text'
         ELSE 'unreadable' END AS finding,
       CASE WHEN f.prolang = 14::oid AND f.provolatile = 's' AND f.oid >= {FIRST_USER_OID}::oid
         THEN f.prosrc ELSE '' END AS detail
  FROM procs AS p JOIN @pg_proc AS f ON f.oid = p.oid
UNION ALL
SELECT DISTINCT p.kind, p.schema, p.name, 'text', 'SELECT ' || pg_get_expr(f.proargdefaults, 0::oid)
  FROM procs AS p JOIN @pg_proc AS f ON f.oid = p.oid
 WHERE f.oid >= {FIRST_USER_OID}::oid AND f.pronargdefaults > 0::int2
UNION ALL
SELECT f.kind, f.schema, f.name, CASE
         WHEN c.relpersistence = 't' THEN 'temporary'
         WHEN c.relkind = 'v' THEN 'view'
         WHEN c.relkind = 'f' THEN 'foreign'
         WHEN c.relkind NOT IN ['r', 'p', 'm'] OR c.relam >= {FIRST_USER_OID}::oid THEN 'kind'
         WHEN c.oid < {FIRST_USER_OID}::oid THEN 'system'
         ELSE 'table' END, c.oid::text
  FROM families AS f JOIN @pg_class AS c ON c.oid = f.oid
UNION ALL
SELECT f.kind, f.schema, f.name, 'text', pg_get_viewdef(c.oid)
  FROM families AS f JOIN @pg_class AS c ON c.oid = f.oid
 WHERE c.relkind = 'v'
UNION ALL
SELECT DISTINCT f.kind, f.schema, f.name, 'text', 'SELECT ' || pg_get_expr(p.polqual, p.polrelid)
  FROM families AS f JOIN @pg_class AS c ON c.oid = f.oid AND c.relrowsecurity
  JOIN @pg_policy AS p ON p.polrelid = f.oid
 WHERE p.polcmd IN ['r', '*'] AND p.polqual IS NOT NULL
UNION ALL
SELECT DISTINCT f.kind, f.schema, f.name, 'timetz', ''
  FROM families AS f JOIN @pg_attribute AS a ON a.attrelid = f.oid
 WHERE a.atttypid IN [1266::oid, 1270::oid] AND a.attnum > 0::int2 AND NOT a.attisdropped
UNION ALL
SELECT DISTINCT p.kind, p.schema, p.name, 'promise', pg_get_functiondef(f.oid)
  FROM procs AS p JOIN @pg_proc AS f ON f.oid = p.oid JOIN @pg_language AS l ON l.oid = f.prolang
 WHERE f.oid >= {FIRST_USER_OID}::oid AND f.provolatile = 'i' AND f.prokind <> 'a'
   AND l.lanname IN ['sql', 'plpgsql']
UNION ALL
SELECT DISTINCT v.kind, v.schema, v.name, 'check', pg_get_constraintdef(k.oid)
  FROM values_of AS v JOIN @pg_constraint AS k ON k.contypid = v.oid
 WHERE v.oid >= {FIRST_USER_OID}::oid AND k.contype = 'c'
UNION ALL
SELECT t.kind, t.schema, t.name,
       CASE WHEN y.typtype = 'm' AND y.oid >= {FIRST_USER_OID}::oid THEN 'kind' ELSE 'type' END, ''
  FROM types AS t JOIN @pg_type AS y ON y.oid = t.oid
) AS found
"""


def qualified(sql: str) -> str:
    """Everything written out, in one line."""
    sql = re.sub(r"@(?=pg_)", "pg_catalog.", sql)
    sql = re.sub(r"NOT IN \[(.*?)\]", r"<> ALL (ARRAY[\1])", sql)
    sql = re.sub(r"IN \[(.*?)\]", r"= ANY (ARRAY[\1])", sql)
    sql = re.sub(r"(?<= )(=|<>|[<>]=?|-|\|\|)(?= )", r"OPERATOR(pg_catalog.\1)", sql)
    sql = re.sub(r"::(?=(?:oid|name|text|int2)\b)", "::pg_catalog.", sql)
    sql = re.sub(
        r"(?<![.\w])(?=(?:split_part|unnest|string_to_array|encode|convert_to)\()", "pg_catalog.", sql
    )
    sql = re.sub(r"(?<![.\w])(?=pg_get_\w+\()", "pg_catalog.", sql)
    return re.sub(r"\s+", " ", sql).strip()


SQL = qualified(_SQL)
