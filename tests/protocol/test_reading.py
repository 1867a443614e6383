"""Which texts are one statement that only reads, what they refer to, and which are remembered as one."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_pool.protocol.reading import (
    REMEMBERED,
    Kind,
    NotReading,
    Reading,
    Why,
    known,
    read,
    reading_of,
    shape_of,
)
from trio_pool.protocol.reading_kinds import Unkept
from trio_pool.protocol.sql import LONGEST


def reading(text: str) -> Reading:
    found = read(text.encode())
    assert isinstance(found, Reading), found
    return found


def names(text: str, kind: Kind) -> set[str]:
    return {f"{n.schema}.{n.name}" if n.schema else n.name for n in reading(text).of(kind)}


# -- what is no reading --------------------------------------------------------------------------------------

NOT_READINGS = [
    ("", Why.EMPTY),
    (" ;; -- nothing", Why.EMPTY),
    ("/* SELECT 1 */", Why.EMPTY),
    ("SELECT 1; SELECT 2", Why.MANY),
    ("SELECT 1; COMMIT", Why.MANY),
    ("SELECT FROM WHERE", Why.BROKEN),
    ("INSERT INTO t VALUES (1)", Why.STATEMENT),
    ("UPDATE t SET a = 1", Why.STATEMENT),
    ("DELETE FROM t", Why.STATEMENT),
    ("MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE", Why.STATEMENT),
    ("WITH a AS (SELECT 1) DELETE FROM t", Why.STATEMENT),
    ("EXPLAIN ANALYZE SELECT 1", Why.STATEMENT),
    ("EXPLAIN SELECT 1", Why.STATEMENT),
    ("SHOW work_mem", Why.STATEMENT),
    ("COPY (SELECT 1) TO STDOUT", Why.STATEMENT),
    ("DECLARE c CURSOR FOR SELECT 1", Why.STATEMENT),
    ("FETCH ALL FROM c", Why.STATEMENT),
    ("PREPARE a AS SELECT 1", Why.STATEMENT),
    ("EXECUTE a", Why.STATEMENT),
    ("CREATE TABLE a AS SELECT 1", Why.STATEMENT),
    ("BEGIN", Why.STATEMENT),
    ("SET work_mem = '1MB'", Why.STATEMENT),
    ("CALL p()", Why.STATEMENT),
    ("DO 'begin end'", Why.STATEMENT),
    ("SELECT 1 INTO t", Why.INTO),
    ("SELECT a INTO TEMP u FROM t", Why.INTO),
    ("SELECT 1 UNION SELECT a INTO u FROM t", Why.INTO),
    ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", Why.WRITES),
    ("WITH a AS (INSERT INTO t VALUES (1)) SELECT 1", Why.WRITES),
    ("WITH a AS (UPDATE t SET a = 1 RETURNING a) SELECT * FROM a", Why.WRITES),
    ("WITH a AS (MERGE INTO t USING u ON true WHEN MATCHED THEN DELETE RETURNING 1) SELECT 1", Why.WRITES),
    ("WITH b AS (WITH a AS (DELETE FROM t) SELECT 1) SELECT 1", Why.WRITES),
    ("SELECT * FROM t FOR UPDATE", Why.LOCKS),
    ("SELECT * FROM t FOR NO KEY UPDATE", Why.LOCKS),
    ("SELECT * FROM t FOR SHARE OF t NOWAIT", Why.LOCKS),
    ("SELECT * FROM t FOR KEY SHARE SKIP LOCKED", Why.LOCKS),
    ("SELECT * FROM (SELECT * FROM t FOR UPDATE) s", Why.LOCKS),
    ("SELECT (SELECT a FROM t FOR SHARE)", Why.LOCKS),
    ("WITH a AS (SELECT * FROM t FOR UPDATE) SELECT * FROM a", Why.LOCKS),
    ("(SELECT * FROM t FOR UPDATE) UNION ALL SELECT * FROM t", Why.LOCKS),
    ("SELECT * FROM t TABLESAMPLE system (1)", Why.SAMPLE),
    ("SELECT * FROM t TABLESAMPLE my.own (1) REPEATABLE (1)", Why.SAMPLE),
    ("SELECT * FROM pg_temp.t", Why.TEMPORARY),
    ("SELECT * FROM pg_temp_3.t", Why.TEMPORARY),
    ("SELECT pg_temp.f()", Why.TEMPORARY),
    ("SELECT 1::pg_temp.d", Why.TEMPORARY),
    ("SELECT 1 OPERATOR(pg_temp.+) 1", Why.TEMPORARY),
    ("SELECT pg_backend_pid()", Why.SESSION),
    ('SELECT "pg_backend_pid"()', Why.SESSION),
    ('SELECT U&"pg_backend_\\0070id"()', Why.SESSION),
    ("SELECT * FROM pg_catalog.pg_listening_channels()", Why.SESSION),
    ("SELECT query_to_xml('select 1', true, true, '')", Why.SESSION),
    ("SELECT table_to_xml_and_xmlschema('v', true, true, '')", Why.SESSION),
    ("SELECT pg_input_is_valid('1', 'd')", Why.SESSION),
    ("SELECT * FROM crosstab3('select f()')", Why.SESSION),
    ("SELECT t.txid_current FROM t", Why.SESSION),
    ("SELECT * FROM größe", Why.NAME),
    ("SELECT t.größe FROM t", Why.NAME),
    ('SELECT "a\tb"()', Why.NAME),
    ('SELECT * FROM "a\nb"', Why.NAME),
    ("SELECT * FROM t WHERE CURRENT OF c", Why.BROKEN),
    ("VALUES (DEFAULT)", Why.SYNTAX),
    ("SELECT E'\\''", Why.AMBIGUOUS),
    (f"SELECT '{'x' * LONGEST}'", Why.LONG),
]


@pytest.mark.parametrize(("text", "why"), NOT_READINGS)
def test_what_is_not_known_to_read_only_is_no_reading(text: str, why: Why) -> None:
    """Anything but one plain query, wherever in it the rest is; with the reason."""
    assert read(text.encode()) == NotReading(why)


def test_what_an_encoding_can_change_is_no_reading() -> None:
    """A byte that is a backslash or an operator only in some encodings; names of other characters."""
    assert read(b"SELECT '\x83\\'") == NotReading(Why.AMBIGUOUS)
    assert read(b"SELECT \x83| FROM t") == NotReading(Why.AMBIGUOUS)
    assert read(b"SELECT * FROM gr\xf6\xdfe") == NotReading(Why.NAME)
    assert isinstance(read(b"SELECT gr\xf6\xdfe, '\xe4' FROM t"), Reading)


def test_deep_texts_are_no_reading() -> None:
    """What the parser gives up on is not eligible, and nothing ends."""
    assert read(b"SELECT 1" + b"+1" * 3000) == NotReading(Why.BROKEN)


# -- what is one, and what it refers to ----------------------------------------------------------------------

OPERATORS = [
    ("SELECT a + 1 <> ALL (ARRAY[1])", {"+", "<>"}),
    ("SELECT 1 OPERATOR(my.@@@) 2", {"my.@@@"}),
    ("SELECT a BETWEEN 1 AND 2", {">=", "<=", "<", ">"}),
    ("SELECT a NOT BETWEEN SYMMETRIC 1 AND 2", {">=", "<=", "<", ">"}),
    ("SELECT a IN (1, 2)", {"="}),
    ("SELECT a NOT IN (1, 2)", {"<>"}),
    ("SELECT a IN (SELECT 1)", {"="}),
    ("SELECT a < ANY (SELECT 1)", {"<"}),
    ("SELECT a LIKE 'x'", {"~~"}),
    ("SELECT a NOT ILIKE 'x'", {"!~~*"}),
    ("SELECT a SIMILAR TO 'x'", {"~"}),
    ("SELECT a IS DISTINCT FROM b", {"="}),
    ("SELECT NULLIF(a, b)", {"="}),
    ("SELECT CASE a WHEN 1 THEN 2 END", {"="}),
    ("SELECT CASE WHEN a THEN 2 END", set()),
    ("SELECT (a, b) < (1, 2)", {"<"}),
    ("SELECT * FROM t JOIN u USING (a)", {"="}),
    ("SELECT * FROM t NATURAL JOIN u", {"="}),
    ("SELECT a FROM t ORDER BY a USING OPERATOR(my.<<<)", {"my.<<<"}),
    ("SELECT -a, @ b, NOT c", {"-", "@"}),
    ('SELECT a[1:2], a COLLATE "C", a IS NULL, a IS TRUE', set()),
]


@pytest.mark.parametrize(("text", "expected"), OPERATORS)
def test_operators(text: str, expected: set[str]) -> None:
    """Those that are written, and those that syntax stands for, which follow search_path as well."""
    assert names(text, Kind.OPERATOR) == expected


FUNCTIONS = [
    ("SELECT f(), s.g(1), db.s.h(1, 2)", {"f", "s.g", "s.h"}),
    ("SELECT F(), \"F\"(1)", {"f", "F"}),
    ("SELECT * FROM f(1) WITH ORDINALITY, LATERAL g(2), ROWS FROM (h(), i())", {"f", "g", "h", "i"}),
    ("SELECT count(*) FILTER (WHERE f(a)) OVER (PARTITION BY g(a) ORDER BY h(a)) FROM t", {*"fgh", "count"}),
    ("SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY f(a)) FROM t", {"percentile_cont", "f"}),
    ("SELECT 1 FROM t GROUP BY GROUPING SETS ((f(a)), ()) HAVING g() LIMIT h() OFFSET i()", {*"fghi"}),
    ("SELECT extract(year FROM a)", {"pg_catalog.extract"}),
    ("SELECT a AT TIME ZONE 'UTC'", {"pg_catalog.timezone"}),
    ("SELECT a LIKE 'x' ESCAPE 'y'", {"pg_catalog.like_escape"}),
    ("SELECT trim(a), (a, b) OVERLAPS (c, d)", {"pg_catalog.btrim", "pg_catalog.overlaps"}),
    ("SELECT ARRAY[f(), (SELECT g())], ROW(h()), COALESCE(i()), GREATEST(j())", {*"fghij"}),
    ("SELECT f(a => g(), VARIADIC h())", {*"fgh"}),
    ("SELECT xmlelement(name a, xmlattributes(f() AS b)), xmlserialize(CONTENT g() AS text)", {*"fg"}),
    ("SELECT * FROM xmltable('/a' PASSING f() COLUMNS b int PATH 'c' DEFAULT g())", {*"fg"}),
    ("SELECT * FROM json_table(f(), '$' COLUMNS (a int PATH '$.a' DEFAULT g() ON EMPTY))",
     {*"fg", "json_table"}),
    ("SELECT JSON_OBJECT('a': f()), JSON_VALUE(g(), '$')", {*"fg", "json_object", "json_value", "json_exists",
                                                            "json_query"}),
    ("WITH RECURSIVE a AS (SELECT f() UNION ALL SELECT g() FROM a) SELECT h() FROM a", {*"fgh"}),
    ("VALUES (f()), (g())", {*"fg"}),
    ("SELECT 'f()', $$g()$$ /* h() */ -- i()", set()),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), FUNCTIONS)
def test_functions(text: str, expected: set[str]) -> None:
    """All that are called, wherever they are, and those that older servers would call."""
    assert names(text, Kind.FUNCTION) == expected


def test_relations() -> None:
    """With the schema, if there is one; what may be a common table expression need not exist."""
    text = 'WITH a AS (TABLE ONLY s.t) SELECT * FROM a, (SELECT 1 FROM "T") x WHERE EXISTS (SELECT FROM u)'
    assert names(text, Kind.RELATION) == {"s.t", "a", "T", "u"}
    assert {name.name for name in reading(text).may_miss} == {"a"}


def test_types() -> None:
    """Of casts, column definitions and functional notation; `float(n)` is both, as a shape has no `n`."""
    text = "SELECT a::s.x, CAST(b AS y[]), int '1' FROM f(1, 2) AS r (c z) JOIN g() ON true"
    assert names(text, Kind.TYPE) == {"s.x", "y", "pg_catalog.int4", "z"}
    assert names("SELECT d(1)", Kind.TYPE) == {"d"}
    assert reading("SELECT a::float(1)") is reading("SELECT a::float(53)")


def test_attributes() -> None:
    """What looks like a column of a row may be a function or a type; a lone name may not."""
    text = "SELECT a, t.b, s.t.c, (x).d.e[1].f, (y).*, z.* FROM t ORDER BY t.g"
    assert names(text, Kind.ATTRIBUTE) == {*"bcdefg"}


@pytest.mark.parametrize(
    ("text", "unkept"),
    [
        ("SELECT current_timestamp", Unkept.TIME),
        ("SELECT localtime(3)", Unkept.TIME),
        ("SELECT date ' Today'", Unkept.TIME),
        ("SELECT * FROM t WHERE d > 'now'", Unkept.TIME),
        ("SELECT '10:00now'", Unkept.TIME),
        ("SELECT '(tomorrow)'", Unkept.TIME),
        ("SELECT a::timetz FROM t", Unkept.TIME),
        ("SELECT 'unknown', 'snow', 'nowhere'", None),
        ("SELECT 't'::regclass", Unkept.NAMES),
        ("SELECT t.ctid FROM t", Unkept.ROWS),
        ("SELECT 1 FROM t WHERE xmax = '0'", Unkept.ROWS),
        ("SELECT current_setting('TimeZone')", Unkept.SETTING),
        ("SELECT current_setting(a) FROM t", Unkept.SETTING),
        ("SELECT current_setting('app.user'::text, true)", None),
        ("SELECT current_user, current_catalog, user", None),
        ("SELECT date '2020-01-01'", None),
    ],
)
def test_what_a_result_depends_on_besides(text: str, unkept: Unkept | None) -> None:
    """The clock in SQL's own words, strings that may become times, names of objects as values, settings."""
    assert reading(text).unkept is unkept


def test_parameters() -> None:
    """The highest number."""
    assert reading("SELECT $2, $1 + 1").parameters == 2
    assert reading("SELECT '$1'").parameters == 0


# -- what is remembered --------------------------------------------------------------------------------------

ONE_SHAPE = [
    ("SELECT a FROM t WHERE b = 17", "SELECT a FROM t WHERE b = 42"),
    ("SELECT f(1,-2), a[3] LIMIT 4;", "SELECT f(5,-6), a[7] LIMIT 8;"),
    ("SELECT 1.5\0", "SELECT 2.7\0"),
    ("SELECT f(2147483647)", "SELECT f(9999999999)"),
]
SHAPELESS = [
    "SELECT t1.a FROM t1",
    "SELECT a1",
    "SELECT a_1",
    "SELECT 1e5",
    "SELECT 0x1F",
    "SELECT 1_000",
    "SELECT 1a",
    "SELECT $1",
    "SELECT '1'",
    'SELECT "1"',
    "SELECT 1 -- 2",
    "SELECT 1 /* 2 */",
    "SELECT 1 \\ 2",
    "SELECT 1 AS ä",
    "SELECT t.1",
    "SELECT .5",
    "SELECT 5.",
    "SELECT 1..2",
    "SELECT 1.2.3",
    "SELECT " + "1," * 600,
]


@pytest.mark.parametrize(("one", "other"), ONE_SHAPE)
def test_texts_that_differ_in_numbers_have_one_shape(one: str, other: str) -> None:
    """If their numbers are as long, whatever their types are."""
    shape = shape_of(one.encode())
    assert shape is not None
    assert shape_of(other.encode()) == shape


@pytest.mark.parametrize("text", SHAPELESS)
def test_where_a_digit_may_be_no_number_there_is_no_shape(text: str) -> None:
    """Names with digits, other ways to write numbers, strings, parameters, comments, other characters."""
    assert shape_of(text.encode()) is None


def test_a_shape_is_read_once() -> None:
    """Other numbers are known from then on; other names are not, although their digits are gone as well."""
    assert known(b"SELECT shape_a FROM x WHERE y = 10") is None
    found = reading_of(b"SELECT shape_a FROM x WHERE y = 10")
    assert known(b"SELECT shape_a FROM x WHERE y = 99") is found
    assert known(b"SELECT shape_a FROM x WHERE y = 100") is None
    reading_of(b"SELECT * FROM shape0 WHERE y = 0")
    assert known(b"SELECT * FROM shape1 WHERE y = 0") is None
    assert known(b"SELECT * FROM shape0 WHERE y = 1") is None


def test_one_number_that_is_not_allowed_spoils_no_shape() -> None:
    """`float(0)` is refused by the grammar, `float(1)` is not."""
    assert reading_of(b"SELECT shape_b::float(0)") == NotReading(Why.BROKEN)
    assert isinstance(reading_of(b"SELECT shape_b::float(1)"), Reading)


def test_memory_is_bounded() -> None:
    """The oldest is forgotten."""
    texts = [f"SELECT 'memory {n}'".encode() for n in range(REMEMBERED + 1)]
    for text in texts:
        reading_of(text)
    assert known(texts[0]) is None
    assert known(texts[-1]) is not None


PIECES = st.sampled_from(
    b"""SELECT FROM WHERE t a.b f( ) ( , = - + * / % < > . .. : :: [ ] ; 1 7 12 1.5 2. .3 1e5 0x1F 1_0 t1 a_1
    $1 float( bit( int numeric( varchar( LIMIT OFFSET ORDER BY AS x IN JOIN USING ON -- /* */ ' " E' \\
    interval CASE WHEN THEN END NOT 99999999999 current_time( ~ ! @ # ^ & | ? U&""".split()
).map(bytes.decode)
SPACES = st.sampled_from(["", " ", "", "\n"])
TEXTS = st.lists(st.tuples(PIECES, SPACES), max_size=14).map(
    lambda parts: "SELECT " + "".join(piece + space for piece, space in parts)
)
TEMPLATES = st.sampled_from(
    [
        "SELECT a FROM t WHERE b = 1",
        "SELECT f(1), g(2, 3), a[4], b[5:6] FROM t7 WHERE c IN (8, 9) ORDER BY 1 LIMIT 2",
        "SELECT a::float(3), b::numeric(10,2), c::varchar(7), -1, +2, 3-4, 5*6, 7%8, 9.0",
        "SELECT 1 a, 2 b3, 4.5c, 6e7, 8E+9, 0x1, .2, 3., 4 .5",
        "VALUES (1), (2), (30)",
        "SELECT current_time(1), interval(2) FROM t3 AS u4(v5, w6)",
        "SELECT '7', $8, $$9$$, \"0\" -- 1",
        "SELECT a FROM t FETCH FIRST 5 ROWS ONLY",
        "SELECT f1(2), f3.g4(5), 6::t7, 8=9,1<2,3>=4,5!=-6",
    ]
)


@given(st.one_of(TEMPLATES, TEXTS), st.data())
def test_texts_of_one_shape_have_one_reading(text: str, data: st.DataObject) -> None:
    """Whatever the digits are; unless a number is one that the grammar refuses, as the server does."""
    other = re.sub("[0-9]", lambda _: data.draw(st.sampled_from("0123456789")), text)
    one_shape, other_shape = shape_of(text.encode()), shape_of(other.encode())
    assert one_shape == other_shape
    if one_shape is not None:
        found = {read(text.encode()), read(other.encode())} - {NotReading(Why.BROKEN)}
        assert len(found) <= 1
