"""The question to a database what writing to tables leads to, as one query of ours.

Like `catalog_question`, whose names and rules it shares. From a table and what is done to it it follows
partitions and children, foreign keys that act, and views to what they are made of; it collects the triggers,
rules, policies, defaults and checks on the way, and the functions that these and the text itself call.

It must never know what an answer leads to.

What a row says, by its fourth column:

- `touched`: a table, partition or view that may change, its OID in the fifth column. `foreign`: a foreign
  table that may.
- `routine`: a function or procedure of a user in SQL or PL/pgSQL, its definition in the fifth column, but for
  immutable ones. `code`: a volatile one in another language, and its source.
- `text`: SQL that runs with it: the defaults of a function's arguments. `rule`: the definition of a rule.

The rows of the kind `database` are about what runs without being named: casts, comparisons, in- and output,
and checks of domains.
"""

from __future__ import annotations

from typing import Final

from trio_pool.protocol.catalog_question import FIRST_USER_OID, NAMED, qualified

HARMLESS_EXTENSIONS: Final = (
    "btree_gin", "btree_gist", "citext", "cube", "dict_int", "earthdistance", "fuzzystrmatch", "hstore",
    "intarray", "isn", "ltree", "pg_buffercache", "pg_freespacemap", "pg_prewarm", "pg_stat_statements",
    "pg_trgm", "pg_visibility", "pgcrypto", "pgrowlocks", "pgstattuple", "seg", "sslinfo", "tsm_system_rows",
    "tsm_system_time", "unaccent", "uuid-ossp", "vector",
)  # fmt: skip
"""Whose volatile functions in C change no table: they make random values, or look at statistics."""

_EVENTS = "'insert', 'update', 'delete', 'truncate', 'cascade', 'refresh'"
_TRIGGER_BIT = """CASE t.event WHEN 'insert' THEN 4::int2 WHEN 'delete' THEN 8::int2
  WHEN 'update' THEN 16::int2 WHEN 'relation' THEN 0::int2 WHEN 'refresh' THEN 0::int2 ELSE 32::int2 END"""

# Fixed OIDs: pg_type 1247 (domains have defaults), pg_proc 1255, pg_class 1259, pg_attrdef 2604,
# pg_constraint 2606, pg_operator 2617, pg_rewrite 2618, pg_trigger 2620, pg_extension 3079, pg_policy 3256.
_SQL = f"""{NAMED}, closure (kind, schema, name, oid, event, relkind) AS (
  SELECT s.kind, s.schema, s.name, c.oid, s.kind, c.relkind
    FROM spaces AS s JOIN @pg_class AS c ON c.relname = s.name::name AND c.relnamespace = s.oid
   WHERE s.kind IN ['relation', {_EVENTS}] AND c.relkind IN ['r', 'p', 'v', 'm', 'f']
  UNION
  SELECT t.kind, t.schema, t.name, behind.oid, behind.event, c.relkind
    FROM closure AS t CROSS JOIN LATERAL (
      SELECT i.inhrelid, e.event
        FROM @pg_inherits AS i JOIN (VALUES ('insert'), ('update'), ('delete'), ('truncate'), ('cascade'))
             AS e (event) ON e.event = t.event OR (t.relkind = 'p' AND t.event = 'update'
                             AND e.event IN ['insert', 'delete'])
       WHERE i.inhparent = t.oid AND (t.relkind = 'p' OR t.event <> 'insert')
      UNION ALL
      SELECT k.conrelid, CASE WHEN t.event = 'delete' AND k.confdeltype = 'c' THEN 'delete'
                              WHEN t.event = 'cascade' THEN 'cascade' ELSE 'update' END
        FROM @pg_constraint AS k
       WHERE k.contype = 'f' AND k.confrelid = t.oid
         AND (t.event = 'cascade' OR (t.event = 'delete' AND k.confdeltype IN ['c', 'n', 'd'])
              OR (t.event = 'update' AND k.confupdtype IN ['c', 'n', 'd']))
      UNION ALL
      SELECT d.refobjid, CASE t.event WHEN 'refresh' THEN 'relation' ELSE t.event END
        FROM @pg_rewrite AS r JOIN @pg_depend AS d
          ON d.classid = 2618::oid AND d.objid = r.oid AND d.refclassid = 1259::oid
       WHERE r.ev_class = t.oid AND r.ev_type = '1' AND d.refobjid <> t.oid
         AND (t.relkind = 'v' OR t.event = 'refresh')
      UNION ALL
      SELECT d.refobjid, 'relation'
        FROM @pg_policy AS p JOIN @pg_depend AS d
          ON d.classid = 3256::oid AND d.objid = p.oid AND d.refclassid = 1259::oid
       WHERE p.polrelid = t.oid AND d.refobjid <> t.oid
    ) AS behind (oid, event)
    JOIN @pg_class AS c ON c.oid = behind.oid AND c.relkind IN ['r', 'p', 'v', 'm', 'f']
), parts (kind, schema, name, class, oid) AS (
  SELECT t.kind, t.schema, t.name, part.class, part.oid
    FROM closure AS t CROSS JOIN LATERAL (
      SELECT 2604::oid, a.oid FROM @pg_attrdef AS a
       WHERE a.adrelid = t.oid AND t.event IN ['insert', 'update']
      UNION ALL
      SELECT 1247::oid, a.atttypid FROM @pg_attribute AS a
       WHERE a.attrelid = t.oid AND t.event = 'insert' AND a.attnum > 0::int2
         AND a.atttypid >= {FIRST_USER_OID}::oid
      UNION ALL
      SELECT 2606::oid, k.oid FROM @pg_constraint AS k
       WHERE k.conrelid = t.oid AND k.contype = 'c' AND t.event IN ['insert', 'update']
      UNION ALL
      SELECT 3256::oid, p.oid FROM @pg_policy AS p WHERE p.polrelid = t.oid
      UNION ALL
      SELECT 2618::oid, r.oid FROM @pg_rewrite AS r
       WHERE r.ev_class = t.oid AND r.ev_type = '1' AND (t.relkind = 'v' OR t.event = 'refresh')
      UNION ALL
      SELECT 2620::oid, g.oid FROM @pg_trigger AS g
       WHERE g.tgrelid = t.oid AND g.tgenabled <> 'D'
         AND (g.tgtype OPERATOR(pg_catalog.&) {_TRIGGER_BIT}) <> 0::int2
    ) AS part (class, oid)
  UNION
  SELECT 'database', '', '', 2606::oid, k.oid
    FROM asked JOIN @pg_constraint AS k ON asked.kind = 'database' AND k.contypid <> 0::oid
), first_functions AS (
  SELECT p.kind, p.schema, p.name, p.oid FROM procs AS p
  UNION
  SELECT s.kind, s.schema, s.name, p.oid
    FROM spaces AS s JOIN @pg_proc AS p ON p.proname = s.name::name AND p.pronamespace = s.oid
   WHERE s.kind = 'function' AND p.prokind = 'p'
  UNION
  SELECT p.kind, p.schema, p.name, d.refobjid
    FROM parts AS p JOIN @pg_depend AS d
      ON d.classid = p.class AND d.objid = p.oid AND d.refclassid = 1255::oid
  UNION
  SELECT p.kind, p.schema, p.name, o.oprcode::oid
    FROM parts AS p JOIN @pg_depend AS d
      ON d.classid = p.class AND d.objid = p.oid AND d.refclassid = 2617::oid
    JOIN @pg_operator AS o ON o.oid = d.refobjid
  UNION
  SELECT p.kind, p.schema, p.name, g.tgfoid
    FROM parts AS p JOIN @pg_trigger AS g ON p.class = 2620::oid AND g.oid = p.oid
), ancestors AS (
  SELECT t.kind, t.schema, t.name, i.inhparent AS oid
    FROM closure AS t JOIN @pg_inherits AS i ON i.inhrelid = t.oid
   WHERE t.event <> 'relation'
  UNION
  SELECT a.kind, a.schema, a.name, i.inhparent
    FROM ancestors AS a JOIN @pg_inherits AS i ON i.inhrelid = a.oid
), functions AS (
  SELECT * FROM first_functions
  UNION
  SELECT c.kind, c.schema, c.name, f.oid
    FROM first_functions AS c JOIN @pg_aggregate AS a ON a.aggfnoid::oid = c.oid
    CROSS JOIN LATERAL unnest(ARRAY[a.aggtransfn::oid, a.aggfinalfn::oid, a.aggcombinefn::oid,
      a.aggserialfn::oid, a.aggdeserialfn::oid, a.aggmtransfn::oid, a.aggminvtransfn::oid,
      a.aggmfinalfn::oid]) AS f (oid)
)
SELECT kind, schema, name, finding, encode(convert_to(detail, 'UTF8'), 'hex') FROM (
SELECT DISTINCT t.kind, t.schema, t.name,
       CASE t.relkind WHEN 'f' THEN 'foreign' ELSE 'touched' END AS finding, t.oid::text AS detail
  FROM closure AS t
 WHERE t.event <> 'relation'
UNION ALL
SELECT DISTINCT a.kind, a.schema, a.name, 'touched', a.oid::text FROM ancestors AS a
UNION ALL
SELECT DISTINCT f.kind, f.schema, f.name,
       CASE WHEN l.lanname IN ['sql', 'plpgsql'] THEN 'routine' ELSE 'code' END,
       CASE WHEN l.lanname IN ['sql', 'plpgsql'] THEN pg_get_functiondef(p.oid) ELSE p.prosrc END
  FROM functions AS f JOIN @pg_proc AS p ON p.oid = f.oid JOIN @pg_language AS l ON l.oid = p.prolang
 WHERE p.oid >= {FIRST_USER_OID}::oid AND p.prokind IN ['f', 'w', 'p']
   AND (p.provolatile = 'v' OR (p.provolatile = 's' AND l.lanname IN ['sql', 'plpgsql']))
   AND NOT (p.prolang = 13::oid AND EXISTS (
     SELECT FROM @pg_depend AS d JOIN @pg_extension AS e ON e.oid = d.refobjid
      WHERE d.classid = 1255::oid AND d.objid = p.oid AND d.refclassid = 3079::oid AND d.deptype = 'e'
        AND e.extname IN [{", ".join(f"'{name}'" for name in HARMLESS_EXTENSIONS)}]))
UNION ALL
SELECT DISTINCT f.kind, f.schema, f.name, 'text', 'SELECT ' || pg_get_expr(p.proargdefaults, 0::oid)
  FROM functions AS f JOIN @pg_proc AS p ON p.oid = f.oid
 WHERE p.oid >= {FIRST_USER_OID}::oid AND p.pronargdefaults > 0::int2
UNION ALL
SELECT DISTINCT t.kind, t.schema, t.name, 'rule', pg_get_ruledef(r.oid)
  FROM closure AS t JOIN @pg_rewrite AS r ON r.ev_class = t.oid AND r.ev_enabled <> 'D'
   AND r.ev_type = CASE t.event WHEN 'update' THEN '2' WHEN 'insert' THEN '3' WHEN 'delete' THEN '4' END
) AS found
"""

SQL: Final = qualified(_SQL)
