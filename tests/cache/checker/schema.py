"""The tables, views, functions and roles that the checker reads and writes; and what they hold at first.

Every table has the name of the cell in each row, so that all readings look alike: a cell and what it holds.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support.prepared import forget_prepared
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

SLOTS = (1, 2, 3)
ANN, BEN, NOSY = "chk_ann", "chk_ben", "chk_nosy"
ROLES = (ANN, BEN, NOSY)
LENT = "lent to ben"
"""Whether he may read a table."""
FENCE = "fence"
"""Whether a table shows its rows to its owner only."""


def _table(name: str, more: str = "", *, keys: str = "id int PRIMARY KEY, cell text, v int") -> str:
    cell = name.partition(".")[2] + "@" + name.partition(".")[0] if "." in name else name
    return (
        f"CREATE TABLE {name} ({keys}{more});\n"
        f"INSERT INTO {name} (id, cell, v) SELECT n, '{cell}/' || n, 0 FROM generate_series(1, 3) AS n;\n"
    )


FLAVOURED = ", at timestamptz DEFAULT '2026-02-03 04:05:06.789Z', raw bytea DEFAULT '\\x00ff41'"

SETUP = f"""
SET client_min_messages = warning;
DROP SCHEMA IF EXISTS checked, north, south CASCADE;
CREATE SCHEMA checked; CREATE SCHEMA north; CREATE SCHEMA south;
GRANT USAGE ON SCHEMA checked, north, south TO PUBLIC;
SET search_path = checked;

{_table("still")}

{_table("plain", FLAVOURED)}
CREATE VIEW plain_view AS SELECT id, cell, v FROM plain;
CREATE VIEW plain_nested AS SELECT * FROM plain_view WHERE id > 0;
CREATE FUNCTION write_plain(n int, k int) RETURNS int LANGUAGE plpgsql
  AS 'BEGIN UPDATE checked.plain SET v = n WHERE id = k; RETURN n; END';
CREATE FUNCTION write_plain_sql(n int, k int) RETURNS int LANGUAGE sql
  AS 'UPDATE checked.plain SET v = n WHERE id = k RETURNING v';
CREATE PROCEDURE call_plain(n int, k int) LANGUAGE plpgsql
  AS 'BEGIN UPDATE checked.plain SET v = n WHERE id = k; END';
CREATE PROCEDURE commit_plain(n int, k int) LANGUAGE plpgsql
  AS 'BEGIN UPDATE checked.plain SET v = n WHERE id = k; COMMIT; PERFORM pg_sleep(0.002); END';
CREATE FUNCTION read_plain(k int) RETURNS int STABLE LANGUAGE sql
  AS 'SELECT v FROM checked.plain WHERE id = k';
CREATE FUNCTION read_plain_slowly(k int) RETURNS int STABLE LANGUAGE plpgsql
  AS 'BEGIN RETURN (SELECT v FROM checked.plain WHERE id = k); END';
CREATE FUNCTION slowly(x int) RETURNS int IMMUTABLE LANGUAGE plpgsql
  AS 'BEGIN PERFORM pg_sleep(0.004); RETURN x; END';
CREATE FUNCTION zone(z text) RETURNS text LANGUAGE plpgsql
  AS 'BEGIN RETURN set_config(''TimeZone'', z, false); END';

{_table("fleeting")}

CREATE TABLE docs (id int PRIMARY KEY, cell text, body jsonb, list int[]);
INSERT INTO docs SELECT n, 'docs/' || n, '{{"v": 0}}', ARRAY[0] FROM generate_series(1, 3) AS n;

CREATE TABLE parts (id int, cell text, v int, region text) PARTITION BY LIST (region);
CREATE TABLE parts_a PARTITION OF parts FOR VALUES IN ('a');
CREATE TABLE parts_b PARTITION OF parts FOR VALUES IN ('b') PARTITION BY RANGE (id);
CREATE TABLE parts_b_low PARTITION OF parts_b FOR VALUES FROM (0) TO (3);
CREATE TABLE parts_b_high PARTITION OF parts_b FOR VALUES FROM (3) TO (100);
INSERT INTO parts VALUES (1, 'parts/1', 0, 'a'), (2, 'parts/2', 0, 'b'), (3, 'parts/3', 0, 'b'),
  (50, 'parts/mover', 0, 'a');
CREATE TABLE late (id int, cell text, v int, region text);
INSERT INTO late VALUES (70, 'late/1', 0, 'l');

{_table("elder")}
DELETE FROM elder WHERE id > 1;
CREATE TABLE younger (PRIMARY KEY (id)) INHERITS (elder);
CREATE TABLE youngest (PRIMARY KEY (id)) INHERITS (younger);
INSERT INTO younger VALUES (2, 'elder/2', 0);
INSERT INTO youngest VALUES (3, 'elder/3', 0);
CREATE TABLE adopted (id int PRIMARY KEY, cell text, v int);
INSERT INTO adopted VALUES (4, 'adopted/1', 0);

CREATE TABLE owner (id int PRIMARY KEY, cell text, key int UNIQUE);
CREATE TABLE owned (id int PRIMARY KEY, cell text,
  key int UNIQUE REFERENCES owner (key) ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE deep (id int PRIMARY KEY, cell text,
  key int REFERENCES owned (key) ON UPDATE CASCADE ON DELETE CASCADE);
CREATE TABLE nulled (id int PRIMARY KEY, cell text,
  key int REFERENCES owner (key) ON UPDATE CASCADE ON DELETE SET NULL);
INSERT INTO owner SELECT n, 'owner/' || n, n FROM generate_series(1, 3) AS n;
INSERT INTO owned SELECT n, 'owned/' || n, n FROM generate_series(1, 3) AS n;
INSERT INTO deep SELECT n, 'deep/' || n, n FROM generate_series(1, 3) AS n;
INSERT INTO nulled SELECT n, 'nulled/' || n, n FROM generate_series(1, 3) AS n;

{_table("trace")} {_table("trace_of_trace")} {_table("trace_of_statement")} {_table("trace_at_commit")}
{_table("traced")}
CREATE FUNCTION copy_to() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  EXECUTE format('UPDATE checked.%I SET v = $1 WHERE id = $2', TG_ARGV[0]) USING NEW.v, NEW.id; RETURN NEW;
END $$;
CREATE FUNCTION copy_all() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE checked.trace_of_statement AS s SET v = n.v FROM news AS n WHERE s.id = n.id; RETURN NULL;
END $$;
CREATE TRIGGER one AFTER UPDATE ON traced FOR EACH ROW EXECUTE FUNCTION copy_to('trace');
CREATE TRIGGER two BEFORE UPDATE ON trace FOR EACH ROW EXECUTE FUNCTION copy_to('trace_of_trace');
CREATE TRIGGER three AFTER UPDATE ON traced REFERENCING NEW TABLE AS news FOR EACH STATEMENT
  EXECUTE FUNCTION copy_all();
CREATE CONSTRAINT TRIGGER four AFTER UPDATE ON traced DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  EXECUTE FUNCTION copy_to('trace_at_commit');
{_table("hidden")}
CREATE VIEW shown AS SELECT id, cell, v FROM hidden;
CREATE FUNCTION instead() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  UPDATE checked.hidden SET v = NEW.v WHERE id = NEW.id; RETURN NEW; END $$;
CREATE TRIGGER instead INSTEAD OF UPDATE ON shown FOR EACH ROW EXECUTE FUNCTION instead();
{_table("watched")} {_table("copied")}
{_table("slow")}
CREATE FUNCTION sleep() RETURNS trigger LANGUAGE plpgsql
  AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER sleep AFTER UPDATE ON slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  EXECUTE FUNCTION sleep();

{_table("ruled")} {_table("ruled_also")} {_table("ruled_instead")}
CREATE RULE also AS ON UPDATE TO ruled DO ALSO UPDATE ruled_also SET v = NEW.v WHERE id = NEW.id;
CREATE VIEW ruled_view AS SELECT id, cell, v FROM ruled_instead;
CREATE RULE instead AS ON UPDATE TO ruled_view DO INSTEAD
  UPDATE ruled_instead SET v = NEW.v WHERE id = NEW.id;

{_table("ore")}
CREATE MATERIALIZED VIEW metal AS SELECT id, replace(cell, 'ore', 'metal') AS cell, v FROM ore;
CREATE VIEW metal_view AS SELECT * FROM metal;

CREATE TABLE guarded (id int PRIMARY KEY, cell text, v int, who name);
INSERT INTO guarded SELECT n, 'guarded/' || n, 0, ('{{chk_ann,chk_ben,app}}'::name[])[n]
  FROM generate_series(1, 3) AS n;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
ALTER TABLE guarded FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON guarded USING (who = current_user) WITH CHECK (true);
CREATE POLICY writes ON guarded FOR UPDATE TO {USER} USING (true);
CREATE VIEW guarded_view AS SELECT id, cell, v FROM guarded;

{_table("fenced")} {_table("lent")}
{_table("north.things")} {_table("south.things")}
CREATE TABLE south.shadowed (id int, cell text, v int);
INSERT INTO south.shadowed VALUES (1, 'shadowed/1', 0);
CREATE VIEW defined AS SELECT 1 AS id, 'defined/1'::text AS cell, 0 AS v;
CREATE FUNCTION defined_as() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 0';
{_table("choice_a")} {_table("choice_b")}
CREATE FUNCTION chosen_from() RETURNS int STABLE LANGUAGE sql
  AS 'SELECT v FROM checked.choice_a WHERE id = 1';
CREATE VIEW chosen AS SELECT id, 'chosen/1'::text AS cell, v FROM choice_a WHERE id = 1;
CREATE TABLE widened (id int PRIMARY KEY); INSERT INTO widened VALUES (1);
CREATE SEQUENCE counter;

GRANT UPDATE ON guarded TO {ANN}, {BEN};
GRANT SELECT ON ALL TABLES IN SCHEMA checked TO {ANN}, {BEN};
GRANT SELECT ON ALL TABLES IN SCHEMA north, south TO {ANN}, {BEN}, {NOSY};
GRANT SELECT ON still, fenced TO {NOSY};
GRANT SELECT ON counter TO {ANN}, {BEN};
"""

ONES = [
    *("still", "plain", "fleeting", "docs", "elder", "trace", "trace_of_trace", "trace_of_statement"),
    *("trace_at_commit", "traced", "hidden", "watched", "copied", "slow", "ruled", "ruled_also"),
    *("ruled_instead", "ore", "metal", "guarded", "fenced", "lent", "things@north", "things@south"),
    *("choice_a", "choice_b", "parts"),
]


def contents() -> dict[str, str | None]:
    """What the cells hold at first."""
    found: dict[str, str | None] = {f"{name}/{slot}": "0" for name in ONES for slot in SLOTS}
    for name in ("owner", "owned", "deep", "nulled"):
        found |= {f"{name}/{slot}": str(slot) for slot in SLOTS}
    found |= {"parts/mover": "0", "parts_a/mover": "0", "parts_b/mover": None}
    found |= {"late/1": "0", "parts/late": None, "adopted/1": "0", "elder/adopted": None}
    found |= {"shadowed/1": "0", "defined/1": "0", "defined_as/1": "0", "chosen/1": "0", "chosen_from/1": "0"}
    found |= {"widened/columns": "1", "counter/1": "1"}
    found |= {"attached": "no", "inherits": "no", "triggers": "no", "choice": "a", "choice_of_function": "a"}
    found |= {LENT: "yes", FENCE: "no"}
    return found


@contextmanager
def tables(pg: LocalPostgres) -> Iterator[None]:
    """Made anew. A writer whose time is up may leave a transaction prepared."""
    _set_up(pg)
    try:
        yield
    finally:
        forget_prepared(pg)


def _set_up(pg: LocalPostgres) -> None:
    if not pg.run_sql(f"SELECT 1 FROM pg_roles WHERE rolname = '{ANN}'").strip():
        password = PASSWORD.replace("'", "''")
        for role in ROLES:
            pg.run_sql(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'; GRANT {role} TO {USER}")
    pg.run_sql(f"SET ROLE {USER}; {SETUP}", DATABASE)
