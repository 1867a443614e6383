"""Readings and verdicts against real PostgreSQL, by statements that try to do more than they show.

The dangers are real ones: `trip()` moves the sequence `trips`, and a test first sees the statement move it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pg8000.native
import pytest

from tests.support.direct import direct, direct_bytes
from tests.support.requests import query
from trio_pool.protocol import catalog_question
from trio_pool.protocol.catalog import Catalog, Doubt, Verdict, Volatility
from trio_pool.protocol.reading import Reading, read
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

DATABASE = "reading"
MOST_ROUNDS = 12

TRIP = """
CREATE SEQUENCE trips;
CREATE FUNCTION trip() RETURNS int LANGUAGE sql AS $$ SELECT nextval('public.trips')::int $$;
CREATE FUNCTION tripped(anyelement) RETURNS bool LANGUAGE plpgsql
  AS $$ BEGIN PERFORM nextval('public.trips'); RETURN true; END $$;
CREATE TABLE t (a int, b text, c int[]);
INSERT INTO t VALUES (1, 'x', '{1,2}'), (2, 'y', '{3}');
"""

SETUP = (
    TRIP
    + """
CREATE TABLE u (a int PRIMARY KEY, w numeric, at timestamptz, j jsonb);
INSERT INTO u VALUES (1, 1.5, now(), '{"k": 1}');
CREATE SCHEMA evil;
CREATE FUNCTION of_row(t) RETURNS int LANGUAGE sql AS 'SELECT public.trip()';
CREATE FUNCTION twice(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * $1';
CREATE FUNCTION evil.twice(text) RETURNS int LANGUAGE sql AS 'SELECT public.trip()';
CREATE FUNCTION "Odd Name"(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 2 * $1';
CREATE FUNCTION "Evil Name"(int) RETURNS int LANGUAGE sql AS 'SELECT public.trip()';
CREATE FUNCTION good_sql(i int) RETURNS text STABLE LANGUAGE sql AS 'SELECT b FROM public.t WHERE a = i';
CREATE FUNCTION bad_sql() RETURNS int STABLE LANGUAGE sql AS 'SELECT public.trip()';
CREATE FUNCTION two_sql() RETURNS int STABLE LANGUAGE sql AS 'SELECT 1; SELECT public.trip()';
CREATE FUNCTION sets() RETURNS text STABLE LANGUAGE plpgsql
  AS $$ BEGIN RETURN set_config('my.secret', 'x', false); END $$;
CREATE FUNCTION pure() RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE FUNCTION by_default(i int DEFAULT public.trip()) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';
CREATE FUNCTION by_good_default(i int DEFAULT 1 + 1) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT i';
CREATE FUNCTION step(int, int) RETURNS int LANGUAGE sql AS 'SELECT public.trip()';
CREATE FUNCTION finish(int) RETURNS int LANGUAGE sql AS 'SELECT public.trip()';
CREATE AGGREGATE bad_sum(int) (SFUNC = step, STYPE = int, INITCOND = 0);
CREATE AGGREGATE bad_end(int) (SFUNC = int4pl, STYPE = int, INITCOND = 0, FINALFUNC = finish);
CREATE AGGREGATE good_sum(int) (SFUNC = int4pl, STYPE = int, INITCOND = 0);
CREATE FUNCTION same(int, int) RETURNS bool LANGUAGE sql AS 'SELECT public.trip() > 0';
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
CREATE FUNCTION like_same(int, int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN $1 = $2; END';
CREATE OPERATOR ==== (LEFTARG = int, RIGHTARG = int, FUNCTION = like_same);
CREATE OPERATOR !=== (LEFTARG = int, RIGHTARG = int, FUNCTION = like_same, NEGATOR = !!!);
CREATE OPERATOR !!! (LEFTARG = int, RIGHTARG = int, FUNCTION = same, NEGATOR = !===);
CREATE DOMAIN bad AS int CHECK (public.tripped(VALUE));
CREATE DOMAIN worse AS bad;
CREATE DOMAIN good AS int CHECK (VALUE > 0) CHECK (VALUE IN (1, 2, 3));
CREATE DOMAIN of_t AS t CHECK (public.tripped(VALUE));
CREATE TYPE color AS ENUM ('red', 'blue');
CREATE TYPE pair AS (x int, y bad);
CREATE TYPE good_pair AS (x int, y good);
CREATE TABLE with_bad (x pair);
CREATE FUNCTION takes_bad(bad) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';
CREATE VIEW fine AS SELECT a, twice(a) AS b FROM t WHERE b LIKE 'x%';
CREATE VIEW fine2 AS SELECT * FROM fine JOIN u USING (a);
CREATE VIEW tripping AS SELECT trip();
CREATE VIEW tripping2 AS SELECT * FROM tripping;
CREATE VIEW locking AS SELECT * FROM t FOR UPDATE;
CREATE MATERIALIZED VIEW stored AS SELECT * FROM t;
CREATE TABLE secret (a int);
ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON secret USING (trip() > 0);
CREATE VIEW over_secret AS SELECT * FROM secret;
CREATE TABLE parts (a int) PARTITION BY RANGE (a);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE far_parts (a int) PARTITION BY RANGE (a);
CREATE TABLE far_parts1 PARTITION OF far_parts FOR VALUES FROM (0) TO (10) PARTITION BY RANGE (a);
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE far_parts2 PARTITION OF far_parts1 FOR VALUES FROM (0) TO (5) SERVER nowhere;
CREATE TABLE mother (a int);
CREATE FOREIGN TABLE child () INHERITS (mother) SERVER nowhere;
CREATE TABLE hidden (a int);
CREATE VIEW evil.hidden AS SELECT public.trip() AS a;
CREATE FUNCTION "json_value"(text, text) RETURNS text LANGUAGE sql AS 'SELECT public.trip()::text';
"""
)


def connect(postgres: LocalPostgres, database: str) -> pg8000.native.Connection:
    """A superuser's session."""
    sock = f"{postgres.socket_dir}/.s.PGSQL.{postgres.port}"
    return pg8000.native.Connection(postgres.superuser, database=database, unix_sock=sock)


def create(postgres: LocalPostgres, database: str, setup: str) -> None:
    postgres.run_sql(f'DROP DATABASE IF EXISTS "{database}"')
    postgres.run_sql(f'CREATE DATABASE "{database}"')
    postgres.run_sql(setup, database=database)


@pytest.fixture(scope="module")
def database(postgres: LocalPostgres) -> str:
    """A database of dangers."""
    create(postgres, DATABASE, SETUP)
    return DATABASE


@pytest.fixture(scope="module")
def session(postgres: LocalPostgres, database: str) -> Iterator[pg8000.native.Connection]:
    """A session in it whose search_path leads to the evil schema as well."""
    with contextlib.closing(connect(postgres, database)) as connection:
        connection.run("SET search_path = evil, public")
        yield connection


def verdict(postgres: LocalPostgres, database: str, text: str, catalog: Catalog | None = None) -> Verdict:
    """What is found about a text, by asking the server as often as it takes."""
    found = read(text.encode())
    assert isinstance(found, Reading), found
    catalog = catalog or Catalog()
    for _ in range(MOST_ROUNDS):
        inquiry = catalog.inquiry(found)
        if inquiry is None:
            result = catalog.verdict(found)
            assert result is not None
            return result
        # Nothing of the client's session may change the question.
        client = query("SET client_encoding = LATIN1; SET standard_conforming_strings = off")
        data = client + inquiry.request + query("SELECT 'the end'")
        assembler, groups = Assembler(1 << 30), 0
        assembler.feed(direct_bytes(postgres, data, database=database))
        while (message := assembler.message()) is not None:
            assert message[0] != Backend.ERROR_RESPONSE, messages.read_error(message[1])
            groups += message[0] == Backend.READY_FOR_QUERY
            if message[0] == Backend.DATA_ROW and groups == 1:
                inquiry.row(message[1])
        catalog.learn(inquiry)
    raise AssertionError("no end of questions")


def test_nothing_is_compiled_for_a_question(postgres: LocalPostgres) -> None:
    """PostgreSQL overrates our recursive queries in large catalogs, and would compile for seconds."""
    show = "SELECT pg_catalog.current_setting('jit') || ' for ' || $1"
    question = catalog_question.request(show, [None])
    after = query("SHOW jit") + query("SELECT 'the end'")
    replies = direct(postgres, query("SET jit = on") + question + after)
    rows = [reply.content for reply in replies if reply.tag == "D"]
    assert rows == ["off for database\t\t", "on", "the end"]


TRIPPING = [
    "SELECT trip()",
    "SELECT public.trip()",
    'SELECT "trip"()',
    "SELECT * FROM trip()",
    "SELECT * FROM t, LATERAL trip()",
    "SELECT 1 WHERE trip() > 0",
    "SELECT 1 ORDER BY trip()",
    "SELECT count(*) FROM t HAVING trip() > 0",
    "SELECT 1 LIMIT trip()",
    "SELECT sum(a) FILTER (WHERE trip() > 0) FROM t",
    "WITH x AS (SELECT trip()) SELECT * FROM x",
    "VALUES (trip())",
    "SELECT ARRAY[trip()], ROW(trip()), CASE WHEN trip() > 0 THEN 1 END",
    "SELECT c[trip()] FROM t",
    "SELECT (SELECT trip())",
    "SELECT nextval('trips')",
    "SELECT tripped(t) FROM t",
    "SELECT t.tripped FROM t",
    "SELECT (t).tripped FROM t",
    "SELECT t.of_row FROM t",
    "SELECT public.t.of_row FROM public.t",
    "SELECT twice('x')",
    "SELECT evil.twice('x')",
    'SELECT "Evil Name"(1)',
    "SELECT bad_sql()",
    "SELECT two_sql(), trip()",
    "SELECT by_default()",
    "SELECT bad_sum(a) FROM t",
    "SELECT bad_sum(a) OVER (ORDER BY a) FROM t",
    "SELECT bad_end(a) FROM t",
    "SELECT 1 === 2",
    "SELECT 1 OPERATOR(public.===) 2",
    "SELECT 1 === ANY (ARRAY[1, 2])",
    "SELECT 1 === ALL (SELECT 1)",
    "SELECT 1 FROM t WHERE NOT (a !=== 2)",
    "SELECT 1::bad",
    "SELECT 1::worse",
    "SELECT CAST('1' AS bad)",
    "SELECT bad '1'",
    "SELECT bad(1)",
    "SELECT '{1}'::bad[]",
    "SELECT '(1,2)'::pair",
    "SELECT ROW(1, 2)::public.pair",
    "SELECT takes_bad(1)",
    "SELECT * FROM json_to_record('{\"x\": 1}') AS r (x bad)",
    'SELECT json_populate_record(null::with_bad, \'{"x": {"y": 1}}\')',
    'SELECT json_populate_record(w, \'{"x": {"y": 1}}\') FROM (SELECT 1) s LEFT JOIN with_bad w ON true',
    "SELECT t.of_t FROM t",
    "SELECT * FROM tripping",
    "TABLE tripping2",
    "SELECT (SELECT trip FROM tripping2)",
    "SELECT * FROM hidden",
]


@pytest.mark.parametrize("text", TRIPPING)
def test_what_writes_is_not_proven(
    postgres: LocalPostgres, session: pg8000.native.Connection, database: str, text: str
) -> None:
    """However it is hidden: the server shows that it does, the verdict that it might."""
    before = session.run("SELECT last_value, is_called FROM trips")
    session.execute_simple(text)
    assert session.run("SELECT last_value, is_called FROM trips") != before
    assert not verdict(postgres, database, text).proven


DOUBTFUL = [
    ("SELECT random()", Doubt.VOLATILE),
    ("SELECT pg_sleep(1)", Doubt.VOLATILE),
    ("SELECT set_config('a.b', 'c', false)", Doubt.VOLATILE),
    ("SELECT pg_advisory_lock(1)", Doubt.VOLATILE),
    ("SELECT pg_try_advisory_xact_lock(1)", Doubt.VOLATILE),
    ("SELECT currval('trips')", Doubt.VOLATILE),
    ("SELECT lastval()", Doubt.VOLATILE),
    ("SELECT setseed(0.5)", Doubt.VOLATILE),
    ("SELECT clock_timestamp()", Doubt.VOLATILE),
    ("SELECT gen_random_uuid()", Doubt.VOLATILE),
    ("SELECT pg_notify('a', 'b')", Doubt.VOLATILE),
    ("SELECT lo_creat(1)", Doubt.VOLATILE),
    ("SELECT pg_terminate_backend(1)", Doubt.VOLATILE),
    ("SELECT pg_export_snapshot()", Doubt.VOLATILE),
    ("SELECT ts_stat('select trip()')", Doubt.VOLATILE),
    ("SELECT ts_rewrite('a'::tsquery, 'select trip()')", Doubt.VOLATILE),
    ("SELECT twice(1)", Doubt.VOLATILE),
    ("SELECT json_value('1', '$')", Doubt.VOLATILE),
    ("SELECT sets()", Doubt.UNREADABLE),
    ("SELECT two_sql()", Doubt.TEXT),
    ("SELECT domain_in('1', 'bad'::regtype, -1)", Doubt.INPUT),
    ("SELECT array_in('{1}', 'bad'::regtype, -1)", Doubt.INPUT),
    ("SELECT int4in('1')", Doubt.INPUT),
    ("SELECT * FROM locking", Doubt.TEXT),
    ("SELECT * FROM secret", Doubt.VOLATILE),
    ("SELECT * FROM over_secret", Doubt.VOLATILE),
    ("SELECT * FROM child", Doubt.FOREIGN),
    ("SELECT * FROM mother", Doubt.FOREIGN),
    ("SELECT * FROM far_parts", Doubt.FOREIGN),
    ("SELECT last_value FROM trips", Doubt.KIND),
    ("SELECT * FROM nowhere_at_all", Doubt.MISSING),
    ("SELECT nothing_at_all(1, 2)", Doubt.MISSING),
    ("SELECT 1 <<<<<< 2", Doubt.MISSING),
    ("SELECT 1::no_type_at_all", Doubt.MISSING),
    ("SELECT * FROM evil.t", Doubt.MISSING),
    ("SELECT * FROM pg_locks", Doubt.VOLATILE),
    ("SELECT * FROM pg_settings", Doubt.TEXT),
    ("SELECT * FROM pg_prepared_statements", Doubt.TEXT),
    ("SELECT * FROM pg_cursors", Doubt.TEXT),
]


@pytest.mark.parametrize(("text", "doubt"), DOUBTFUL)
def test_doubts(postgres: LocalPostgres, database: str, text: str, doubt: Doubt) -> None:
    """What depends on the session or is not known is not proven, and says why."""
    found = verdict(postgres, database, text)
    assert (found.proven, found.doubt) == (False, doubt)


IMMUTABLE = [
    "SELECT 1",
    "SELECT a, b, c[1], c[1:2] FROM t WHERE a = 1 AND b LIKE 'x%' ORDER BY b COLLATE \"C\" DESC LIMIT 5",
    "SELECT t.a, u.w FROM t JOIN u USING (a) WHERE t.a BETWEEN 1 AND 2 OR t.b IN ('x', 'y')",
    "SELECT * FROM t NATURAL LEFT JOIN u WHERE (t.a, t.b) < (2, 'z') AND t.a IS DISTINCT FROM 3",
    "SELECT count(*), sum(a), max(b), array_agg(a ORDER BY b), string_agg(b, ',') FROM t",
    "SELECT a, row_number() OVER (PARTITION BY b ORDER BY a), lag(a) OVER w FROM t WINDOW w AS (ORDER BY a)",
    "SELECT a, b, count(*) FROM t GROUP BY GROUPING SETS ((a), (b), ()) HAVING grouping(a) = 0",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY a) FROM t",
    "SELECT DISTINCT ON (a) a FROM t UNION SELECT a FROM u EXCEPT SELECT 3 ORDER BY 1",
    "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT n.i FROM n",
    "SELECT a FROM t ORDER BY a USING >",
    "SELECT * FROM t, LATERAL unnest(c) WITH ORDINALITY AS x (y, z), generate_series(1, 2) AS g",
    "SELECT extract(year FROM at), date_trunc('day', at), to_char(at, 'YYYY') FROM u WHERE at > '2020-01-01'",
    "SELECT j->'k', j->>'k', j @> '{}', jsonb_build_object('a', a), to_jsonb(u) FROM u",
    "SELECT lower(b), b || 'x', coalesce(b, 'x'), nullif(a, 1), greatest(a, 2), b ~ '^x' FROM t",
    "SELECT 'red'::color, '{red,blue}'::color[], 1::good, '(1,2)'::good_pair, 1.5::float(3)",
    "SELECT a IN (SELECT a FROM u), EXISTS (SELECT FROM u), ARRAY(SELECT a FROM u) FROM t",
    "SELECT pure(), good_sum(a) FROM t",
    'SELECT "Odd Name"(1), by_good_default(), 1 ==== 2',
    "SELECT pg_catalog.lower('X'), 1 OPERATOR(pg_catalog.+) 1, good_sql(1)",
    "TABLE parts",
    "SELECT * FROM stored",
    "VALUES (1, 'x'), (2, 'y')",
    "SELECT current_user, current_catalog",
]
STABLE = [
    "SELECT now()",
    "SELECT current_timestamp",
    "SELECT current_setting('work_mem')",
    "SELECT version()",
]


@pytest.mark.parametrize("text", [*IMMUTABLE, *STABLE])
def test_what_reads_is_proven(
    postgres: LocalPostgres, session: pg8000.native.Connection, database: str, text: str
) -> None:
    """Everyday queries are, and run where nothing may be written; functions of time are told apart."""
    expected = Volatility.IMMUTABLE if text in IMMUTABLE else Volatility.STABLE
    found = verdict(postgres, database, text)
    assert (found.proven, found.volatility, found.doubt) == (True, expected, None)
    session.run("BEGIN READ ONLY")
    session.execute_simple(text)
    session.run("COMMIT")


def test_views_are_proven_by_what_they_are(postgres: LocalPostgres, database: str) -> None:
    """Two deep, with all tables below; one function of theirs that is in doubt is enough."""
    found = verdict(postgres, database, "SELECT * FROM fine2")
    assert found.doubt is Doubt.VOLATILE  # of the evil twice(text)
    postgres.run_sql("CREATE OR REPLACE VIEW fine AS SELECT a, 2 * a AS b FROM t WHERE b LIKE 'x%'", database)
    found = verdict(postgres, database, "SELECT * FROM fine2")
    with contextlib.closing(connect(postgres, database)) as connection:
        rows = connection.run("SELECT oid FROM pg_class WHERE relname IN ('fine', 'fine2', 't', 'u')")
    assert found == Verdict(True, Volatility.IMMUTABLE, tables=frozenset(oid for (oid,) in rows))


def test_partitions_are_tables_that_are_read(postgres: LocalPostgres, database: str) -> None:
    """A write to a partition changes what its parent shows."""
    found = verdict(postgres, database, "SELECT * FROM parts")
    assert len(found.tables) == 2


def test_system_catalogs_are_told_apart(postgres: LocalPostgres, database: str) -> None:
    """They are proven, but nobody sees when they change."""
    found = verdict(postgres, database, "SELECT c.relname FROM pg_class c JOIN t ON t.a = 1")
    assert (found.proven, found.catalog_tables) == (True, True)
    assert not verdict(postgres, database, "SELECT * FROM t").catalog_tables


def test_temporary_tables_are_not_proven(postgres: LocalPostgres, database: str) -> None:
    """Whosever they are."""
    assert verdict(postgres, database, "SELECT * FROM u").proven
    with contextlib.closing(connect(postgres, database)) as other:
        other.run("CREATE TEMP TABLE u (a int)")
        assert verdict(postgres, database, "SELECT * FROM u").doubt is Doubt.TEMPORARY


def test_a_schema_that_changed_is_asked_again(postgres: LocalPostgres, database: str) -> None:
    """Once the catalog is cleared, and not before."""
    text, catalog = "SELECT changing()", Catalog()
    postgres.run_sql("CREATE FUNCTION changing() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1'", database)
    assert verdict(postgres, database, text, catalog).proven
    postgres.run_sql("ALTER FUNCTION changing() VOLATILE", database)
    assert verdict(postgres, database, text, catalog).proven
    catalog.clear()
    assert not verdict(postgres, database, text, catalog).proven


HOSTILE = {
    "operator": (
        "CREATE SCHEMA evil; CREATE FUNCTION evil.same(int, int) RETURNS bool LANGUAGE sql"
        " AS 'SELECT public.trip() > 0';"
        " CREATE OPERATOR evil.= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.same)",
        [
            "SELECT * FROM t WHERE a = 1",
            "SELECT 1 FROM t WHERE a IN (1, 2)",
            "SELECT CASE a WHEN 1 THEN 2 END FROM t",
            "SELECT * FROM t JOIN t AS u USING (a)",
            "SELECT * FROM t NATURAL JOIN (SELECT 1 AS a) u",
            "SELECT nullif(a, 1) FROM t",
            "SELECT a IS DISTINCT FROM 1 FROM t",
            "SELECT a IN (SELECT 1) FROM t",
        ],
        Doubt.VOLATILE,
    ),
    "between": (
        "CREATE SCHEMA evil; CREATE FUNCTION evil.le(int, int) RETURNS bool LANGUAGE sql"
        " AS 'SELECT public.trip() > 0';"
        " CREATE OPERATOR evil.<= (LEFTARG = int, RIGHTARG = int, FUNCTION = evil.le)",
        ["SELECT * FROM t WHERE a BETWEEN 1 AND 2", "SELECT * FROM t WHERE a BETWEEN SYMMETRIC 2 AND 1"],
        Doubt.VOLATILE,
    ),
    "like": (
        "CREATE SCHEMA evil; CREATE FUNCTION evil.like(text, text) RETURNS bool LANGUAGE sql"
        " AS 'SELECT public.trip() > 0';"
        " CREATE OPERATOR evil.~~ (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.like)",
        ["SELECT * FROM t WHERE b LIKE 'x'"],
        Doubt.VOLATILE,
    ),
    "function": (
        "CREATE SCHEMA evil; CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql"
        " AS 'SELECT public.trip()::text'",
        ["SELECT lower(b) FROM t", "SELECT LOWER(b) FROM t"],
        Doubt.VOLATILE,
    ),
    "cast": (
        "CREATE TYPE own AS (x int); CREATE TABLE owns (o own); INSERT INTO owns VALUES (ROW(1));"
        " CREATE FUNCTION to_text(own) RETURNS text LANGUAGE sql AS 'SELECT public.trip()::text';"
        " CREATE CAST (own AS text) WITH FUNCTION to_text(own) AS IMPLICIT",
        ["SELECT upper(o) FROM owns", "SELECT o LIKE 'x' FROM owns", "SELECT o::text FROM owns"],
        Doubt.DATABASE,
    ),
    "comparison": (
        "CREATE TYPE own AS ENUM ('a', 'b'); CREATE TABLE owns (o own);"
        " INSERT INTO owns VALUES ('a'), ('b'), ('a');"
        " CREATE FUNCTION cmp(own, own) RETURNS int LANGUAGE sql"
        " AS 'SELECT 0 * public.trip() + enum_cmp($1, $2)';"
        " CREATE FUNCTION always(own, own) RETURNS bool IMMUTABLE LANGUAGE plpgsql"
        " AS 'BEGIN RETURN true; END';"
        + "".join(
            f" CREATE OPERATOR {name} (LEFTARG = own, RIGHTARG = own, FUNCTION = always);"
            for name in ("<#", "<=#", "=#", ">=#", ">#")
        )
        + " CREATE OPERATOR CLASS own_ops DEFAULT FOR TYPE own USING btree AS FUNCTION 1 cmp(own, own),"
        " OPERATOR 1 <#, OPERATOR 2 <=#, OPERATOR 3 =#, OPERATOR 4 >=#, OPERATOR 5 >#",
        ["SELECT o FROM owns ORDER BY o", "SELECT greatest('a'::own, o) FROM owns"],
        Doubt.DATABASE,
    ),
}


@pytest.mark.parametrize("way", HOSTILE)
def test_what_runs_without_being_named_is_minded(postgres: LocalPostgres, way: str) -> None:
    """Operators and functions in front of PostgreSQL's own on the search_path; casts and comparisons."""
    setup, texts, doubt = HOSTILE[way]
    database = f"hostile {way}"
    create(postgres, database, TRIP + setup)
    with contextlib.closing(connect(postgres, database)) as session:
        session.run("SET search_path = evil, pg_catalog, public")
        for text in texts:
            before = session.run("SELECT last_value, is_called FROM trips")
            session.execute_simple(text)
            assert session.run("SELECT last_value, is_called FROM trips") != before, text
            found = verdict(postgres, database, text)
            assert (found.proven, found.doubt) == (False, doubt), text
    postgres.run_sql(f'DROP DATABASE "{database}"')


EXTENSIONS = [
    "citext",
    "hstore",
    "ltree",
    "pg_trgm",
    "cube",
    "seg",
    "isn",
    "intarray",
    "btree_gist",
    "unaccent",
]


@pytest.mark.parametrize("name", EXTENSIONS)
def test_extensions_leave_everyday_queries_proven(postgres: LocalPostgres, name: str) -> None:
    """Their casts, types and operators are declared well, so they spoil nothing."""
    database = f"extended {name}"
    create(postgres, database, TRIP)
    with contextlib.closing(connect(postgres, database)) as session:
        if not session.run("SELECT FROM pg_available_extensions WHERE name = :name", name=name):
            pytest.fail(f"this PostgreSQL has no {name}")
        session.run(f"CREATE EXTENSION {name}")
    text = "SELECT a, b || 'x' FROM t WHERE a = 1 AND b LIKE 'x' AND c @> '{1}' ORDER BY b"
    assert verdict(postgres, database, text).proven
    postgres.run_sql(f'DROP DATABASE "{database}"')
