"""What texts write to, as far as their words tell."""

from __future__ import annotations

import pytest

from trio_pool.protocol.plpgsql import writing_of_body
from trio_pool.protocol.reading_kinds import Kind
from trio_pool.protocol.routine import routine, rule
from trio_pool.protocol.writing import (
    NOTHING_WRITTEN,
    Cause,
    Everything,
    Writing,
    known_writing,
    writing_of,
    written_by,
)


def targets(found: Writing | Everything) -> str:
    """Sorted, like `insert a.b`, with commas."""
    assert isinstance(found, Writing), found
    return ", ".join(
        sorted(f"{event.value} {f'{schema}.' * bool(schema)}{name}" for event, schema, name in found.targets)
    )


def functions(found: Writing | Everything) -> set[str]:
    assert isinstance(found, Writing), found
    return {name.name for name in found.names if name.kind is Kind.FUNCTION}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("INSERT INTO a.b VALUES (1)", "insert a.b"),
        ("INSERT INTO a VALUES (1) ON CONFLICT DO NOTHING", "insert a"),
        ("INSERT INTO a VALUES (1) ON CONFLICT (x) DO UPDATE SET x = 1", "insert a, update a"),
        ("UPDATE ONLY a SET x = 1 FROM b RETURNING *", "update a"),
        ("DELETE FROM a USING b", "delete a"),
        ("MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE", "delete a"),
        (
            "MERGE INTO a USING b ON true WHEN MATCHED THEN UPDATE SET x = 1"
            " WHEN NOT MATCHED THEN INSERT DEFAULT VALUES RETURNING merge_action()",
            "insert a, update a",
        ),
        ("MERGE INTO a USING b ON true WHEN NOT MATCHED BY SOURCE THEN DO NOTHING", ""),
        ("WITH x AS (DELETE FROM a RETURNING *) INSERT INTO b SELECT * FROM x", "delete a, insert b"),
        ("WITH x AS (UPDATE a SET y = 1 RETURNING y) SELECT * FROM x", "update a"),
        ("INSERT INTO a VALUES (1) RETURNING WITH (OLD AS o) o.x", "insert a"),
        ("COPY a FROM STDIN", "insert a"),
        ("COPY a TO STDOUT", ""),
        ("COPY (DELETE FROM a RETURNING *) TO STDOUT", "delete a"),
        ("TRUNCATE a, b", "truncate a, truncate b"),
        ("TRUNCATE a CASCADE", "cascade a"),
        ("REFRESH MATERIALIZED VIEW CONCURRENTLY a", "refresh a"),
        ("EXPLAIN DELETE FROM a", ""),
        ("EXPLAIN (ANALYZE) DELETE FROM a", "delete a"),
        ("EXPLAIN (ANALYZE off) DELETE FROM a", ""),
        ("EXPLAIN (ANALYZE 0) DELETE FROM a", "delete a"),
        ("DECLARE c CURSOR FOR SELECT * FROM a", ""),
        ("FETCH c", ""),
        ("SELECT * FROM a FOR UPDATE", ""),
        ("PREPARE p AS DELETE FROM a", ""),
        ("BEGIN; DELETE FROM a; COMMIT", "delete a"),
        ("ROLLBACK PREPARED 'x'", ""),
        (
            "SET x TO y; SHOW z; LISTEN l; NOTIFY l; DISCARD ALL; DEALLOCATE p; CLOSE c; LOCK a; CHECKPOINT",
            "",
        ),
        ("CREATE TEMP TABLE a (x int)", ""),
        ("CREATE TEMP TABLE a AS SELECT 1", ""),
        ("DO 'BEGIN DELETE FROM a; END'", "delete a"),
        ("CALL p(1)", ""),
        ("", ""),
    ],
)
def test_targets(text: str, expected: str) -> None:
    """Of every statement that writes."""
    assert targets(written_by(text.encode())) == expected


@pytest.mark.parametrize(
    ("text", "cause", "ddl"),
    [
        ("CREATE TABLE a (b int)", Cause.DDL, True),
        ("SELECT 1 INTO a", Cause.DDL, True),
        ("GRANT SELECT ON a TO b", Cause.DDL, True),
        ("DROP POLICY p ON a", Cause.DDL, True),
        ("ALTER SYSTEM SET x = 1", Cause.DDL, True),
        ("DELETE FROM a; CREATE TABLE b ()", Cause.DDL, True),
        ("EXECUTE p", Cause.EXECUTE, False),
        ("DO $$ BEGIN EXECUTE 'DELETE FROM a'; END $$", Cause.CODE, False),
        ("DO $$ BEGIN EXECUTE 'DROP TABLE a'; END $$", Cause.CODE, True),
        ("DO LANGUAGE plpython3u 'pass'", Cause.CODE, True),
        ("COMMIT PREPARED 'x'", Cause.PREPARED, False),
        ("VACUUM FULL a", Cause.REWRITES, False),
        ("CLUSTER a", Cause.REWRITES, False),
        ("SELECT query_to_xml('DELETE', true, true, '')", Cause.RUNS_SQL, False),
        ("SELECT dblink_exec('x', 'y')", Cause.RUNS_SQL, False),
        ("INSERT INTO pg_temp.a VALUES (1)", Cause.TEMPORARY, False),
        ("INSERT INTO é VALUES (1)", Cause.NAME, False),
        ("DELETE FRM a", Cause.BROKEN, True),
        ("SELECT 'a\\' FROM b", Cause.AMBIGUOUS, True),
        ("SELECT " + "1," * 9000 + "1", Cause.LONG, True),
    ],
)
def test_everything(text: str, cause: Cause, ddl: bool) -> None:
    """What is not bounded has a reason, and says whether names may mean something else afterwards."""
    assert written_by(text.encode()) == Everything(cause, ddl)


def test_what_is_called_counts() -> None:
    """Functions may write, wherever they stand: also those of operators, and procedures."""
    assert functions(written_by(b"INSERT INTO a SELECT f(x), (y).g FROM h(1)")) == {"f", "h"}
    assert functions(written_by(b"CALL s.p(q(1))")) == {"p", "q"}
    assert functions(written_by(b"EXPLAIN ANALYZE SELECT f()")) == {"f"}


def test_a_text_is_read_once() -> None:
    """And texts that differ in numbers only are one."""
    first = writing_of(b"DELETE FROM remembered WHERE a = 17")
    assert known_writing(b"DELETE FROM remembered WHERE a = 23") is first
    assert writing_of(b"COMMIT") is NOTHING_WRITTEN


# -- code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("BEGIN RETURN 1; END", ""),
        ("BEGIN INSERT INTO a VALUES (NEW.*); RETURN NEW; END", "insert a"),
        ("BEGIN INSERT INTO a VALUES (1) RETURNING x, y INTO STRICT b.c, d; END", "insert a"),
        (
            "BEGIN IF TG_OP = 'DELETE' THEN DELETE FROM a; ELSE UPDATE b SET x = 1; END IF; END",
            "delete a, update b",
        ),
        ("BEGIN LOOP DELETE FROM a; EXIT; END LOOP; END", "delete a"),
        ("<<l>> BEGIN TRUNCATE a; END", "truncate a"),
        ("BEGIN RETURN QUERY UPDATE a SET x = 1 RETURNING *; END", "update a"),
        ("BEGIN WITH w AS (SELECT CASE WHEN b THEN 1 ELSE 2 END) INSERT INTO a TABLE w; END", "insert a"),
        ("BEGIN INSERT INTO a VALUES (1) ON CONFLICT DO UPDATE SET x = 1; END", "insert a, update a"),
        ("BEGIN INSERT INTO a VALUES (1) ON CONFLICT (i) DO UPDATE SET x = 1; END", "insert a, update a"),
        ("BEGIN MERGE INTO a USING b ON true WHEN MATCHED THEN UPDATE SET x = 1; END", "update a"),
        ("BEGIN PERFORM 1 FROM a FOR NO KEY UPDATE; END", ""),
        ("-- DELETE FROM a\nBEGIN /* EXECUTE 'x' */ PERFORM 'DROP TABLE a'; END", ""),
        ("DECLARE comment text; refresh int; BEGIN comment := 'x'; END", ""),
        ("BEGIN FOR r IN DELETE FROM a RETURNING * LOOP NULL; END LOOP; END", None),
        ("BEGIN EXECUTE 'x'; END", None),
        ("BEGIN RETURN QUERY EXECUTE x; END", None),
        ("BEGIN OPEN c FOR EXECUTE x; END", None),
        ("BEGIN COPY a FROM '/x'; END", None),
        ("BEGIN DO 'x'; END", None),
        ("BEGIN COMMENT ON TABLE a IS 'x'; END", None),
        ("BEGIN CREATE TABLE a (); END", None),
        ("BEGIN PERFORM table_to_xml('a', true, true, ''); END", None),
        ('BEGIN PERFORM U&"d\\0061t"(); END', None),
        ("BEGIN PERFORM é(); END", None),
        ("BEGIN x := 'unterminated; END", None),
        ("BEGIN " + "x := 1; " * 3000 + "END", None),
    ],
)
def test_bodies(body: str, expected: str | None) -> None:
    """Of PL/pgSQL: what its statements write to; None if that cannot be told."""
    found = writing_of_body(body)
    if expected is None:
        assert isinstance(found, Everything)
    else:
        assert targets(found) == expected


def test_all_words_of_a_body_may_be_called() -> None:
    """Quoted ones as they are, others in small letters."""
    body = 'DECLARE x int := First(2); BEGIN PERFORM "Second"() FROM third WHERE a === 1; END'
    assert {"first", "Second", "third"} <= functions(writing_of_body(body))
    found = writing_of_body(body)
    assert isinstance(found, Writing)
    assert {"===", "="} <= {name.name for name in found.names if name.kind is Kind.OPERATOR}


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'DELETE FROM a; SELECT 1'", "delete a"),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql"
            " BEGIN ATOMIC INSERT INTO a VALUES (1); DELETE FROM b; END",
            "delete b, insert a",
        ),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN (SELECT 1)", ""),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plpgsql AS 'BEGIN UPDATE a SET b = 1; END'", "update a"),
        ("CREATE FUNCTION f() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN PERFORM g(); END'", ""),
        (
            "CREATE PROCEDURE f() LANGUAGE plpgsql AS 'BEGIN DELETE FROM a; COMMIT; DELETE FROM b; END'",
            "delete a, delete b",
        ),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE plpython3u AS 'pass'", None),
        ("CREATE FUNCTION f() RETURNS int STABLE LANGUAGE plpgsql AS 'BEGIN EXECUTE x; END'", None),
        ("CREATE TABLE f ()", None),
    ],
)
def test_routines(definition: str, expected: str | None) -> None:
    """As pg_get_functiondef spells them."""
    found = routine(definition.encode())
    if expected is None:
        assert isinstance(found, Everything)
    else:
        assert targets(found) == expected


def test_rules() -> None:
    """What a rule adds, its condition included."""
    actions = b"(DELETE FROM b; INSERT INTO c VALUES (new.x))"
    text = b"CREATE RULE r AS ON INSERT TO a WHERE f(new.x) DO ALSO " + actions
    assert targets(rule(text)) == "delete b, insert c"
    assert functions(rule(text)) == {"f"}
    assert targets(rule(b"CREATE RULE r AS ON DELETE TO a DO INSTEAD NOTHING")) == ""
