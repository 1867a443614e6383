"""What texts can do to a session: by the facts, and by a real PostgreSQL."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import attrs
import pg8000.native
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.protocol.facts import (
    LONGEST,
    NOTHING,
    UNKNOWN,
    Ask,
    Discard,
    Facts,
    Prepared,
    PreparedAction,
    facts_of,
    read,
)
from trio_pool.protocol.plain import plain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres

BOTH: dict[str, Any] = {"begins": Ask.SETTINGS, "ends": Ask.SETTINGS}
EVERYTHING: dict[str, Any] = {"begins": Ask.ALL, "ends": Ask.ALL}
COMPUTED = "set_config of a computed name"


def settings(*names: str) -> Facts:
    return Facts(**BOTH, settings=frozenset(names))


def resets(name: str, *others: str) -> Facts:
    return Facts(**BOTH, settings=frozenset({name, *others}), resets=frozenset({name}))


def computed() -> Facts:
    return Facts(**BOTH, keeps=frozenset({COMPUTED}), pins=COMPUTED)


def keeps(reason: str) -> Facts:
    return Facts(keeps=frozenset({reason}), pins=reason)


def temporary(noun: str | None = None) -> Facts:
    return Facts(begins=Ask.TEMPORARY, pins=f"temporary {noun}" if noun else None)


DROPS = Facts(ends=Ask.TEMPORARY)
ALTERS = Facts(begins=Ask.TEMPORARY, ends=Ask.TEMPORARY)
LOCKS = Facts(begins=Ask.LOCKS, pins="session advisory lock")
UNLOCKS = Facts(ends=Ask.LOCKS)
RUNS = Facts(**EVERYTHING)

HARMLESS = [
    "",
    ";",
    " -- comment",
    "/* SET work_mem = '1MB' */ ;;",
    "SELECT 1",
    "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
    "select 'set work_mem to 1; select pg_advisory_lock(1)'",
    "select $$ create temp table t () $$",
    "INSERT INTO t (a) VALUES (1) RETURNING a",
    "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
    "UPDATE t SET a = 1 WHERE b = 2",
    "MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE",
    "VALUES (1), (2)",
    "TABLE t",
    "BEGIN ISOLATION LEVEL SERIALIZABLE, READ ONLY",
    "START TRANSACTION",
    "COMMIT AND CHAIN",
    "ROLLBACK TO a",
    "SAVEPOINT a",
    "RELEASE a",
    "PREPARE TRANSACTION 'a'",
    "COMMIT PREPARED 'a'",
    "SET LOCAL work_mem = '1MB'",
    "SET LOCAL ROLE a",
    "SET LOCAL TIME ZONE 'UTC'",
    "SET LOCAL SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    "SET SESSION TRANSACTION READ ONLY",
    "SET TRANSACTION SNAPSHOT 'a'",
    "SET CONSTRAINTS ALL DEFERRED",
    "SHOW work_mem",
    "select current_setting('work_mem')",
    "select set_config('work_mem', '1MB', true)",
    "select set_config('work_mem'::text, $1, is_local => true)",
    "ALTER SYSTEM SET work_mem = '1MB'",
    "ALTER ROLE a SET work_mem = '1MB'",
    "ALTER DATABASE a SET work_mem = '1MB'",
    "ALTER FUNCTION a() SET work_mem = '1MB'",
    "CREATE FUNCTION public.a() RETURNS int SET work_mem = '1MB' LANGUAGE sql AS 'select nextval(a)'",
    "CREATE FUNCTION public.a() RETURNS bool BEGIN ATOMIC SELECT pg_try_advisory_lock(1); END",
    "CREATE VIEW public.a AS SELECT setseed(0.1)",
    "CREATE RULE a AS ON INSERT TO t DO ALSO NOTIFY b",
    "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock_shared(1)",
    "DECLARE c CURSOR FOR SELECT 1",
    "FETCH ALL FROM c",
    "MOVE c",
    "CREATE TEMP TABLE t (a serial) ON COMMIT DROP",
    "CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1",
    "CREATE TABLE public.t (a int)",
    "CREATE TABLE public.t AS SELECT 1",
    "CREATE INDEX ON public.t (a)",
    "CREATE SCHEMA a",
    "CREATE ROLE a",
    "CREATE DATABASE a",
    "CREATE PUBLICATION a",
    "CREATE POLICY a ON t",
    "CREATE TRIGGER a BEFORE INSERT ON t EXECUTE FUNCTION b()",
    "DROP ROLE a",
    "DROP DATABASE a",
    "GRANT SELECT ON t TO a",
    "TRUNCATE t",
    "LOCK TABLE t",
    "VACUUM t",
    "ANALYZE",
    "EXPLAIN ANALYZE SELECT 1",
    "COPY t FROM STDIN",
    "COPY (SELECT 1) TO STDOUT",
    "COMMENT ON TABLE t IS 'a'",
    "REFRESH MATERIALIZED VIEW a",
    "CHECKPOINT",
    "SELECT pg_create_logical_replication_slot('a', 'pgoutput')",
    "SELECT pg_create_physical_replication_slot('a', true, false)",
    "SELECT \"SET_CONFIG\"(a, b, false), \"PG_NOTIFY\"('a', 'b')",
    "SELECT set_configuration(a), my_nextval FROM updated_set OFFSET 1",
]

CASES: dict[str, Facts] = {
    # settings
    "SET work_mem = '1MB'": settings("work_mem"),
    "set session Work_Mem to default": resets("work_mem"),
    'SET "Work_Mem" = 1': settings("work_mem"),
    "SET my.Var = 1": settings("my.var"),
    "SET work_mem FROM CURRENT": settings("work_mem"),
    "RESET work_mem": resets("work_mem"),
    "RESET ALL": Facts(**BOTH, resets_all=True),
    "SET TIME ZONE 'UTC'": settings("timezone"),
    "SET TIME ZONE LOCAL": resets("timezone"),
    "RESET TIME ZONE": resets("timezone"),
    "SET NAMES 'utf8'": settings("client_encoding"),
    "SET SCHEMA 'a'": settings("search_path"),
    "SET XML OPTION DOCUMENT": settings("xmloption"),
    "SET ROLE a": settings("role"),
    "SET ROLE NONE": settings("role"),
    "RESET ROLE": resets("role"),
    "SET SESSION AUTHORIZATION a": settings("session_authorization", "role"),
    "RESET SESSION AUTHORIZATION": resets("session_authorization", "role"),
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY, ISOLATION LEVEL SERIALIZABLE": settings(
        "default_transaction_isolation", "default_transaction_read_only"
    ),
    "SET transaction_isolation = 'serializable'": settings("transaction_isolation"),
    "/* a */ SELECT 1; -- b\nSET a.b = 1": settings("a.b"),
    "SET LOCAL a.b = 1; SET c.d = 1": settings("c.d"),
    "SET SEED TO 0.5": attrs.evolve(settings("seed"), keeps=frozenset({"setseed"}), pins="setseed"),
    "SET LOCAL SEED TO 0.5": keeps("setseed"),
    "SELECT setseed(0.5)": keeps("setseed"),
    "SELECT set_config('seed', '0.5', true)": keeps("setseed"),
    "select set_config('Work_Mem', '1MB', false)": settings("work_mem"),
    "select pg_catalog.set_config('a.b', 'c', $1)": settings("a.b"),
    "select \"set_config\"(E'a\\x2eb'::text, 'c', now() > now())": settings("a.b"),
    "select U&\"set\\005fconfig\"('a.b', 'c', false)": settings("a.b"),
    "select set_config(is_local => false, new_value => 'b', setting_name => 'a.b')": settings("a.b"),
    "select set_config('session_authorization', 'a', false)": settings("session_authorization", "role"),
    "select set_config($2, $1, false)": attrs.evolve(settings(), setting_parameters=frozenset({2})),
    "select set_config($1::text, 'a', true)": attrs.evolve(settings(), setting_parameters=frozenset({1})),
    "select set_config('a' || 'b', 'c', false)": computed(),
    "select set_config('work_mem'::varchar(4), 'c', false)": computed(),
    "select set_config('a\\b', 'c', false)": computed(),
    "select set_config(name, setting, false) from pg_settings": computed(),
    "UPDATE pg_settings SET setting = 'a' WHERE name = 'work_mem'": computed(),
    "with a as (select set_config('a.b', 'c', false)) select * from a": settings("a.b"),
    "select (select set_config('a.b', 'c', false) limit 1)": settings("a.b"),
    "select * from set_config('a.b', 'c', false)": settings("a.b"),
    "insert into t select set_config('a.b', 'c', false)": settings("a.b"),
    "delete from t where set_config('a.b', 'c', false) = 'd'": settings("a.b"),
    "explain analyze select set_config('a.b', 'c', false)": settings("a.b"),
    "copy (select set_config('a.b', 'c', false)) to stdout": settings("a.b"),
    "create table public.t as select set_config('a.b', 'c', false)": settings("a.b"),
    "declare c cursor for select set_config('a.b', 'c', false)": settings("a.b"),
    "select set_conf\u0130g('a.b', 'c', false)": settings("a.b"),
    # temporary objects
    "CREATE TEMP TABLE t (a int)": temporary("table"),
    "create local temporary table if not exists t (a serial) on commit delete rows": temporary("table"),
    "CREATE TABLE pg_temp.t ()": temporary("table"),
    "CREATE TABLE t ()": temporary(),
    "CREATE UNLOGGED TABLE t ()": temporary(),
    "CREATE TEMP TABLE t AS SELECT 1": temporary("table"),
    "CREATE TABLE t AS SELECT 1": temporary(),
    "SELECT 1 INTO t": temporary(),
    "SELECT 1 AS a INTO TEMP t FROM b": temporary("table"),
    "WITH a AS (SELECT 1) SELECT * INTO TEMP t FROM a": temporary("table"),
    "SELECT * INTO pg_temp.t FROM a UNION SELECT 1": temporary("table"),
    "CREATE MATERIALIZED VIEW a AS SELECT 1": temporary(),
    "CREATE VIEW a AS SELECT 1": temporary(),
    "CREATE TEMP VIEW a AS SELECT 1": temporary("view"),
    "CREATE TEMP SEQUENCE a": temporary("sequence"),
    "CREATE TYPE a AS (b int)": temporary(),
    "CREATE TYPE pg_temp.a AS (b int)": temporary("object"),
    "CREATE TYPE a AS ENUM ('b')": temporary(),
    "CREATE TYPE public.a AS RANGE (subtype = int4, multirange_type_name = pg_temp.b)": temporary(),
    "CREATE DOMAIN a AS int": temporary(),
    "CREATE FUNCTION pg_temp.a() RETURNS int LANGUAGE sql AS 'select 1'": temporary("object"),
    "CREATE FUNCTION a() RETURNS int LANGUAGE sql AS 'select 1'": temporary(),
    "CREATE AGGREGATE pg_temp.a(int) (sfunc = int4pl, stype = int4)": temporary("object"),
    'CREATE COLLATION a FROM "C"': temporary(),
    "CREATE STATISTICS a ON b, c FROM t": temporary(),
    "CREATE INDEX ON t (a)": temporary(),
    "CREATE SCHEMA a CREATE TABLE b ()": temporary(),
    "CREATE FOREIGN TABLE a (b int) SERVER c": temporary(),
    "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO pg_temp": temporary("object"),
    "ALTER TABLE t ADD COLUMN a serial": ALTERS,
    "ALTER TABLE t SET SCHEMA public": DROPS,
    "ALTER DOMAIN a DROP CONSTRAINT b CASCADE": DROPS,
    "DROP TABLE t": DROPS,
    "DROP SCHEMA pg_temp CASCADE": DROPS,
    "DROP OWNED BY CURRENT_USER": DROPS,
    # locks
    "select pg_advisory_lock(1)": LOCKS,
    "SELECT pg_catalog.PG_Try_Advisory_Lock /* a */ (1, 2)": LOCKS,
    'select "pg_advisory_lock_shared"(1)': LOCKS,
    "select pg_try_advisory_lock_shared(1)": LOCKS,
    "select pg_advisory_unlock(1)": UNLOCKS,
    "select pg_advisory_unlock_shared(1)": UNLOCKS,
    "select pg_advisory_unlock_all()": UNLOCKS,
    "values (pg_advisory_lock(1))": LOCKS,
    "select from t order by pg_advisory_lock(a) limit 1 for update": LOCKS,
    # cursors
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1": Facts(begins=Ask.CURSORS, pins="cursor WITH HOLD"),
    "DECLARE c BINARY SCROLL CURSOR WITHOUT HOLD FOR SELECT pg_advisory_lock(1)": LOCKS,
    "CLOSE c": Facts(ends=Ask.CURSORS),
    "CLOSE ALL": Facts(ends=Ask.CURSORS),
    # channels
    "LISTEN a": Facts(begins=Ask.CHANNELS, listens=True),
    "UNLISTEN *": Facts(ends=Ask.CHANNELS, listens=True),
    "NOTIFY a, 'b'": Facts(notifies=True),
    "select pg_notify('a', 'b')": Facts(notifies=True),
    "select pg_listening_channels()": Facts(lists_channels=True),
    # sequences
    "select nextval('s')": Facts(moves_sequences=True),
    "insert into t values (NextVal('s'::regclass))": Facts(moves_sequences=True),
    "select setval('s', 1)": Facts(moves_sequences=True),
    "select currval('s')": Facts(reads_sequences=True),
    "select lastval()": Facts(reads_sequences=True),
    # prepared statements
    "SELECT * FROM pg_prepared_statements": Facts(lists_prepared=True),
    "select * from pg_prepared_statement()": Facts(lists_prepared=True),
    'SELECT * FROM U&"pg\\005fprepared_statements"': Facts(lists_prepared=True),
    "EXECUTE a(1)": Facts(prepared=(Prepared(PreparedAction.EXECUTE, b"a"),)),
    "EXPLAIN ANALYZE EXECUTE a": Facts(prepared=(Prepared(PreparedAction.EXECUTE, b"a"),)),
    "CREATE TEMP TABLE t AS EXECUTE a": attrs.evolve(
        temporary("table"), prepared=(Prepared(PreparedAction.EXECUTE, b"a"),)
    ),
    'DEALLOCATE "A"': Facts(prepared=(Prepared(PreparedAction.DEALLOCATE, b"A"),)),
    "DEALLOCATE PREPARE A": Facts(prepared=(Prepared(PreparedAction.DEALLOCATE, b"a"),)),
    "DEALLOCATE ALL": Facts(prepared=(Prepared(PreparedAction.DEALLOCATE, None),)),
    # what stays
    "LOAD 'auto_explain'": keeps("LOAD"),
    "select dblink_connect('a', 'b')": keeps("dblink connection"),
    "select public.dblink_connect_u('b')": keeps("dblink connection"),
    "select pg_replication_origin_session_setup('a')": keeps("replication origin"),
    "select pg_backup_start('a')": keeps("base backup"),
    "select pg_create_logical_replication_slot('a', 'b', true)": keeps("temporary replication slot"),
    "select pg_create_physical_replication_slot('a', temporary => $1)": keeps("temporary replication slot"),
    "select pg_copy_logical_replication_slot('a', 'b', true)": keeps("temporary replication slot"),
    # what runs more than it says
    "DO $$begin end$$": RUNS,
    "CALL a(1)": RUNS,
    "CREATE EXTENSION a": RUNS,
    "ALTER EXTENSION a UPDATE": RUNS,
    "select query_to_xml('se' || 'lect 1', true, true, '')": RUNS,
    "select * from crosstab('select 1')": RUNS,
    "select ts_stat('select a')": RUNS,
    "DO $$begin perform setseed(0.5); execute 'load ''a'''; end$$": attrs.evolve(
        RUNS, keeps=frozenset({"setseed", "LOAD"})
    ),
    "DO 'begin set my.var = 1; perform nextval(''a''); notify b; end'": attrs.evolve(
        RUNS, keeps=frozenset({COMPUTED}), moves_sequences=True, notifies=True
    ),
    # DISCARD
    "DISCARD ALL": Facts(ends=Ask.ALL, discards=frozenset({Discard.ALL})),
    "DISCARD TEMPORARY": Facts(ends=Ask.TEMPORARY, discards=frozenset({Discard.TEMP})),
    "DISCARD PLANS": Facts(discards=frozenset({Discard.PLANS})),
    "DISCARD SEQUENCES": Facts(discards=frozenset({Discard.SEQUENCES})),
    # several
    "select pg_advisory_lock(1); create temp table t (); select pg_notify('a', '')": Facts(
        begins=Ask.LOCKS | Ask.TEMPORARY, pins="session advisory lock", notifies=True
    ),
    # what cannot be read
    "SET SET": UNKNOWN,
    "CREATE FROBNICATION a": UNKNOWN,
    "select '\\'', pg_advisory_lock(1), '": UNKNOWN,
}
CORPUS = [*HARMLESS, *CASES]


@pytest.mark.parametrize("text", HARMLESS)
def test_nothing(text: str) -> None:
    """A text without effect on the session has the very facts NOTHING, with and without its NUL."""
    assert [facts_of(text.encode()) is NOTHING, facts_of(text.encode() + b"\0") is NOTHING] == [True, True]


@pytest.mark.parametrize(("text", "expected"), CASES.items(), ids=[*CASES])
def test_facts(text: str, expected: Facts) -> None:
    """Each statement has exactly its facts, whatever asks for them."""
    assert [facts_of(text.encode()), facts_of(text.encode() + b"\0"), read(text.encode())] == [expected] * 3


@pytest.mark.parametrize("text", CORPUS)
def test_plain_never_hides(text: str) -> None:
    """What is plain has no facts, also in capitals, behind space and comments, and as one of several."""
    for variant in (
        text,
        text.upper(),
        f"\n {text} ;",
        f"select 1; {text}",
        f"{text}; select 1",
        f"/*;*/{text}",
    ):
        assert not plain(variant.encode()) or read(variant.encode()) is NOTHING


EVERYDAY = [
    b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;",
    b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345;\0",
    b"SELECT abalance FROM pgbench_accounts WHERE aid = 12345",
    b"UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1;\0",
    b"INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 2, 3, 4, CURRENT_TIMESTAMP);\0",
    b"BEGIN;\0",
    b"END;\0",
    b"\n    select count(*), updated_set from t where a > now() - interval '1 day' offset 10\0",
    "select * from t where lower(name) = 'm\u00fcller'".encode(),
]


@pytest.mark.parametrize("text", EVERYDAY)
def test_everyday_texts_are_plain(text: bytes) -> None:
    """Everyday statements are not parsed."""
    assert plain(text)


def test_prepare() -> None:
    """A PREPARE among others has its own slice of the text and the facts of what it will run."""
    text = (
        "select 'é'; /* a */ PREPARE \"É\" AS select pg_advisory_lock($1) ;"
        " prepare b(text) as select set_config($1, 'x', true); execute b"
    )
    assert facts_of(text.encode()) == Facts(
        prepared=(
            Prepared(
                PreparedAction.PREPARE,
                "É".encode(),
                'PREPARE "É" AS select pg_advisory_lock($1)'.encode(),
                LOCKS,
            ),
            Prepared(
                PreparedAction.PREPARE,
                b"b",
                b"prepare b(text) as select set_config($1, 'x', true)",
                Facts(**BOTH, setting_parameters=frozenset({1}), keeps=frozenset({COMPUTED})),
            ),
            Prepared(PreparedAction.EXECUTE, b"b"),
        )
    )


def test_prepare_of_nothing() -> None:
    """A prepared statement that does nothing has NOTHING as its facts."""
    (prepared,) = facts_of(b"PREPARE a AS SELECT 1").prepared
    assert prepared.facts is NOTHING


def test_other_encodings() -> None:
    """Names and texts come back as the client's bytes, if they are not UTF-8."""
    text = "/* é */ prepare é as select 'ü'; deallocate é".encode("latin-1")
    assert facts_of(text).prepared == (
        Prepared(PreparedAction.PREPARE, b"\xe9", b"prepare \xe9 as select '\xfc'", NOTHING),
        Prepared(PreparedAction.DEALLOCATE, b"\xe9"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "select pg_typeof(E'ソ'), pg_advisory_lock(1), E'ソ'".encode("sjis"),
        b"select pg_typeof(E'\xe4\xbd\xa0\\'), pg_advisory_lock(1), E'\xe4\xbd\xa0\\'",
        b"select pg_typeof('\\'', pg_advisory_lock(1), ''')",
        b"prepare \x83| as select 1",
    ],
)
def test_texts_that_read_otherwise(text: bytes) -> None:
    """A text that an encoding, or standard_conforming_strings, can give another meaning is unknown."""
    assert facts_of(text) == UNKNOWN


@pytest.mark.parametrize("count", [100, 4_000, LONGEST // 2 - 20, 100_000])
@pytest.mark.parametrize(
    "parts", [("", "1+", "1"), ("", "- ", "a"), ("", "f(", "1"), ("select 1", " union select 1", "")]
)
def test_deep_texts(parts: tuple[str, str, str], count: int) -> None:
    """No text, however deep, ends the process; it is unknown."""
    start, middle, end = parts
    assert (
        facts_of(f"explain select {start}{middle * count}{end}{')' * count * middle.count('(')}".encode())
        == UNKNOWN
    )


def test_long_texts() -> None:
    """A long plain text is plain, a long text that is not is unknown."""
    values = ", ".join(["(1, 'a')"] * LONGEST)
    assert facts_of(f"INSERT INTO t VALUES {values}".encode()) is NOTHING
    assert facts_of(f"INSERT INTO t VALUES {values}; SET a.b = 1".encode()) == UNKNOWN


def test_remembered() -> None:
    """Facts stay the same object while they are remembered."""
    assert facts_of(b"SET a.b = 1") is facts_of(b"SET a.b = 1")


# -- random statements, which embed what is dangerous --------------------------------------------------------

SPACE = st.sampled_from([" ", "\n", "\t ", " /* ; into */ ", " --(\n", "/* a *//**/ "])
CALLING = [
    "set_config('a.b', 'c', false)",
    "set_config('a.b', 'c', true)",
    "pg_catalog.set_config(a, 'c', false)",
    "pg_advisory_lock(1)",
    "pg_try_advisory_lock_shared(1, 2)",
    "pg_advisory_unlock_all()",
    "pg_advisory_xact_lock(1)",
    "\"pg_notify\"('a', 'b')",
    "U&\"set!0063onfig\" UESCAPE '!' ('a', 'b', false)",
    "nextval('s')",
    "setval('s', 1)",
    "currval('s')",
    '"lastval" ()',
    "setseed(0.5)",
    "pg_catalog . setseed (0.5)",
    "dblink_connect('a')",
    "pg_listening_channels()",
    "query_to_xml(a, true, true, '')",
    "query_to_xml_and_xmlschema(a, true, true, '')",
    "ts_stat('select 1')",
    "ts_rewrite('a', 'select 1')",
    "crosstab3('select 1')",
    "connectby('a')",
    "xpath_table('a')",
    "pg_replication_origin_session_setup('a')",
    "pg_create_physical_replication_slot('a', false, true)",
    "pg_backup_start('a')",
    "pg_import_system_collations('a')",
    "lower('a')",
    "count(*)",
    "set_conf\u0130g('a.b', 'c', false)",
]
CALLS = st.sampled_from(CALLING)
ATOMS = CALLS | st.sampled_from(
    ["1", "a", "t.b", "'; into'", "$1", "'pg_'", "$$(;$$", '"u&"', "'\u00e9'", "null"]
)
EXPRESSIONS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "=", "||", "and", "is distinct from"]), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("(select {} limit 1)".format),
        inner.map("lower({})".format),
        inner.map("case when {} then 1 end".format),
        inner.map("array[{}]".format),
        inner.map("exists (with x as (select {}) select from x)".format),
        inner.map("{}::text".format),
    ),
    max_leaves=4,
)
SOURCES = st.sampled_from(
    [
        "t",
        "pg_prepared_statements",
        "pg_catalog.pg_prepared_statements",
        'U&"pg\\005fprepared_statements"',
        "pg_settings",
    ]
)
INTO = st.sampled_from(["", "into b ", "INTO TEMP b ", "into pg_temp.b "])
QUERIES = st.one_of(
    st.builds("select {} {}from {} where {}".format, EXPRESSIONS, INTO, SOURCES, EXPRESSIONS),
    st.builds("select {} {}".format, EXPRESSIONS, INTO),
    st.builds("with a as (select {} from {}) select * {}from a".format, EXPRESSIONS, SOURCES, INTO),
    st.builds("insert into t select {} from {}".format, EXPRESSIONS, SOURCES),
    st.builds(
        "insert into t values (1, {}) on conflict do nothing returning {}".format, EXPRESSIONS, EXPRESSIONS
    ),
    st.builds("update {} set a = {} where {}".format, SOURCES, EXPRESSIONS, EXPRESSIONS),
    st.builds("delete from t using {} where {}".format, SOURCES, EXPRESSIONS),
    st.builds("merge into t using {} on {} when matched then delete".format, SOURCES, EXPRESSIONS),
    st.builds("values ({})".format, EXPRESSIONS),
    st.builds("with a as (select {}) insert into t select from a".format, EXPRESSIONS),
)
STATEMENTS = st.one_of(
    QUERIES,
    st.builds(
        "{} {}".format,
        st.sampled_from(
            [
                "explain analyze",
                "prepare a as",
                "declare a cursor with hold for",
                "create temp table a as",
                "create table public.a on commit drop as",
            ]
        ),
        QUERIES,
    ),
    st.builds("copy ({}) to stdout".format, QUERIES),
    st.sampled_from(CORPUS),
)


def _cased(text: str, capital: list[bool]) -> str:
    return "".join(
        c.upper() if up and c.isascii() else c
        for c, up in zip(text, [*capital, *[False] * len(text)], strict=False)
    )


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """One to three statements, in any case, with any space in and around them."""
    parts = []
    for statement in draw(st.lists(STATEMENTS, min_size=1, max_size=3)):
        pieces = statement.split(" ")
        spaced = "".join(piece + draw(SPACE) for piece in pieces) if draw(st.booleans()) else statement
        parts.append(_cased(spaced, draw(st.lists(st.booleans(), max_size=40))))
    before, after = (
        draw(st.sampled_from(["", " ", "\n", "/* a */", "\f"])),
        draw(st.sampled_from(["", ";", " ; ", ";;", ";\n"])),
    )
    text = before + ";".join(parts) + after
    return text.encode() + draw(st.sampled_from([b"", b"\0"]))


FRAMES = [
    "select {}",
    "select a from t where ({}) is null",
    "with a as (select {}) select from a",
    "with a as (insert into t values ({}) returning *) select from a",
    "values (1, {})",
    "insert into t values ({})",
    "insert into t select from a order by {}",
    "update t set a = {}",
    "delete from t where {} is null",
    "merge into t using u on {} is null when matched then delete",
    "select from t limit (select {})",
    "select from t join lateral (select {}) on true",
    "select sum(a) over (partition by {}) from t",
    "select sum(a) filter (where {} is null) from t",
    "select from t group by rollup (a, {})",
    "select a[{}] from t",
    "select null union all select {}",
]


@pytest.mark.parametrize("frame", FRAMES)
def test_plain_finds_every_call(frame: str) -> None:
    """Wherever a call stands that does something, the text is not plain, and the parser finds it there."""
    found = [read(frame.replace("{}", call).encode()) for call in CALLING]
    alone = [read(f"select {call}".encode()) for call in CALLING]
    assert found == alone
    assert [
        plain(frame.replace("{}", call).encode()) and facts is not NOTHING
        for call, facts in zip(CALLING, found, strict=True)
    ] == [False] * len(CALLING)


@given(texts())
def test_plain_is_sound(text: bytes) -> None:
    """Whatever the parser finds anything in is not plain."""
    facts = read(text)
    assert facts.unknown or not plain(text) or facts is NOTHING


@given(st.text("selctinou;('&_pgu \"/*-\n") | st.text())
def test_any_text(text: str) -> None:
    """Any text has facts, and plain agrees with them unless PostgreSQL refuses it as well."""
    facts = read(text.encode())
    assert facts.unknown or not plain(text.encode()) or facts is NOTHING


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    """Any bytes have facts."""
    assert isinstance(facts_of(data), Facts)


# -- a real PostgreSQL ---------------------------------------------------------------------------------------

OBSERVED = """
select 'SETTINGS', name || '=' || setting from pg_settings
  where source = 'session' and name not like 'transaction\\_%'
union all select 'SETTINGS', n || '=' || coalesce(current_setting(n, true), '')
  from unnest(array['role', 'session_authorization', 'my.var', 'a.b', 'c.d']) n
union all select 'TEMPORARY', concat_ws(' ', classid, objid) from pg_depend
  where refclassid = 'pg_namespace'::regclass and refobjid = pg_my_temp_schema()
union all select 'LOCKS', concat_ws(' ', classid, objid, objsubid, mode) from pg_locks
  where locktype = 'advisory' and pid = pg_backend_pid()
union all select 'CURSORS', name from pg_cursors where is_holdable
union all select 'CHANNELS', pg_listening_channels()
union all select 'PREPARED', name from pg_prepared_statements where from_sql
"""
FRESH = "drop schema if exists public cascade; create schema public; create table public.t (a int, b int)"
FULL = """set work_mem = '1MB'; set my.var = 'b'; set role a; reset role; create temp table tt (a serial);
create temp view tv as select 1; create view pg_temp.t as select 1 as a;
select pg_advisory_lock(1), pg_advisory_lock_shared(2);
begin; declare c cursor with hold for select 1; commit;
listen b; prepare a as select 1"""
STARTS = {"bare": "", "full": FULL, "temporary search path": "set search_path = pg_temp, public"}

# What changes more than one session, or waits for a checkpoint; and COPY, for which pg8000 wants a stream.
ELSEWHERE = (
    *("ALTER SYSTEM", "ALTER ROLE", "ALTER DATABASE", "CREATE ROLE", "CREATE DATABASE", "DROP ROLE"),
    *(
        "DROP DATABASE",
        "COPY",
        "SELECT PG_CREATE",
        "SELECT PG_COPY",
        "SELECT PG_REPLICATION",
        "SELECT PG_BACKUP",
    ),
)

CHANGES: dict[str, set[str]] = {
    "set work_mem = '2MB'": {"SETTINGS"},
    "select set_config('work_mem', '2MB', false)": {"SETTINGS"},
    "set my.var = 'c'": {"SETTINGS"},
    "set role a": {"SETTINGS"},
    "set session authorization a": {"SETTINGS"},
    "set session characteristics as transaction read only": {"SETTINGS"},
    "update pg_settings set setting = 'off' where name = 'enable_seqscan'": {"SETTINGS"},
    "create temp table n (a serial)": {"TEMPORARY"},
    "create table pg_temp.n ()": {"TEMPORARY"},
    "create temp sequence n": {"TEMPORARY"},
    "create temp view n as select 1": {"TEMPORARY"},
    "select 1 as a into temp n": {"TEMPORARY"},
    "create temp table n as select 1 as a": {"TEMPORARY"},
    "create function pg_temp.n() returns int language sql as 'select 1'": {"TEMPORARY"},
    "create type pg_temp.n as enum ('a')": {"TEMPORARY"},
    "create domain pg_temp.n as int": {"TEMPORARY"},
    "create type public.r as range (subtype = int4, multirange_type_name = pg_temp.n)": {"TEMPORARY"},
    "create temp table n (a serial) on commit drop": set(),
    "select pg_advisory_lock(7)": {"LOCKS"},
    "explain analyze select pg_try_advisory_lock_shared(7)": {"LOCKS"},
    "select pg_advisory_xact_lock(7)": set(),
    "declare n cursor with hold for select 1": {"CURSORS"},
    "listen n": {"CHANNELS"},
    "prepare n as select 1": {"PREPARED"},
    "select query_to_xml('select pg_advisory_lock(7)', true, true, '')": {"LOCKS"},
    "select ts_stat('select to_tsvector(''a'') where pg_advisory_lock(7) is not null')": {"LOCKS"},
    "select ts_rewrite('a', 'select ''a''::tsquery, ''b''::tsquery where pg_try_advisory_lock(7)')": {
        "LOCKS"
    },
    "do $$begin perform pg_advisory_lock(7); set my.var = 'd'; create temp table n (); end$$": {
        "LOCKS",
        "SETTINGS",
        "TEMPORARY",
    },
}


class Observer:
    """A session of the superuser in a database of its own."""

    def __init__(self, postgres: LocalPostgres) -> None:
        path = f"{postgres.socket_dir}/.s.PGSQL.{postgres.port}"
        self.connection = pg8000.native.Connection(postgres.superuser, unix_sock=path, database="facts")

    def state(self) -> set[tuple[str, str]]:
        return {(kind, value) for kind, value in self.connection.run(OBSERVED)}

    def changes(self, start: str, text: str) -> set[str]:
        """The kinds of state that a text, as one simple Query, changes in a session with this start."""
        self.connection.run("discard all")
        self.connection.run(FRESH)
        for statement in filter(None, start.split(";")):
            self.connection.run(statement)
        before = self.state()
        with contextlib.suppress(pg8000.native.DatabaseError):
            self.connection.run(text)
        self.connection.run("commit")
        return {kind for kind, _ in before ^ self.state()}


@pytest.fixture(scope="module")
def observer(postgres: LocalPostgres) -> Iterator[Observer]:
    """A session in a database of its own, with a role to name."""
    postgres.run_sql("create role a")
    postgres.run_sql("create database facts")
    observer = Observer(postgres)
    yield observer
    observer.connection.close()
    postgres.run_sql("drop database facts")
    postgres.run_sql("drop role a")


def suspected(text: str) -> set[str]:
    """The kinds that the facts of a text tell to ask about."""
    facts = facts_of(text.encode())
    kinds = {str(kind.name) for kind in facts.begins | facts.ends}
    if facts.prepared or facts.discards_all or facts.unknown:
        kinds.add("PREPARED")
    return kinds


@pytest.mark.parametrize(("text", "expected"), CHANGES.items(), ids=[*CHANGES])
def test_what_changes(observer: Observer, text: str, expected: set[str]) -> None:
    """PostgreSQL changes what it is said here to change, and the facts suspect it."""
    assert observer.changes("", text) == expected
    assert expected <= suspected(text)


@pytest.mark.parametrize("start", STARTS.values(), ids=[*STARTS])
def test_nothing_changes_unsuspected(observer: Observer, start: str) -> None:
    """Whatever a statement changes, its facts suspect."""
    found = {}
    for text in [*CORPUS, *CHANGES]:
        if not text.upper().startswith(ELSEWHERE):
            unsuspected = observer.changes(start, text) - suspected(text)
            if unsuspected:
                found[text] = unsuspected
    assert found == {}


@pytest.mark.parametrize("text", [b"select se1t_config('a.b', '1', false)", b"select p1g_x(1)", b"se1lect 1"])
def test_numbers_do_not_hide_what_is_not_plain(text: bytes) -> None:
    """What was plain with digits in its words says nothing about the same words without them."""
    plain(text)
    assert not plain(text.translate(None, b"1")) or facts_of(text.translate(None, b"1")) is NOTHING
    assert not plain(b"select set_config('a.b', '', false)")
