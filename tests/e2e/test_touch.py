"""What a statement may write to, against what it did: PostgreSQL counts the rows it has changed, per table.

Every statement of `EXACT` and `BOUNDED` runs in a transaction that is rolled back; deferred triggers fire
before. TRUNCATE counts no rows, so contents are compared as well.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_reading import connect, create
from tests.support.direct import direct_bytes
from tests.support.requests import query
from trio_pool.protocol.cacheable import Reason, why_not
from trio_pool.protocol.catalog import Catalog, Doubt, Verdict
from trio_pool.protocol.reading import NotReading, Reading, read
from trio_pool.protocol.touch import Reach, Touches
from trio_pool.protocol.watch import EVERYTHING, EVERYTHING_AND_SCHEMA
from trio_pool.protocol.writing import Cause, Writing, written_by
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pg8000.native

    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.touch import TouchInquiry

pytestmark = pytest.mark.e2e

DATABASE = "touch"
MOST_ROUNDS = 12

SETUP = """
CREATE TABLE alone (a int PRIMARY KEY, b text DEFAULT 'x' || now(), c int GENERATED ALWAYS AS (a * 2) STORED);
INSERT INTO alone (a) SELECT generate_series(1, 5);
CREATE TABLE source (a int PRIMARY KEY, b text);
INSERT INTO source VALUES (1, 's'), (9, 't');

CREATE VIEW simple AS SELECT a, b FROM alone WHERE a > 0;
CREATE VIEW nested AS SELECT a, b FROM simple WHERE a < 100 WITH CHECK OPTION;

CREATE TABLE parts (a int, b text, PRIMARY KEY (a)) PARTITION BY RANGE (a);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (10) TO (100) PARTITION BY RANGE (a);
CREATE TABLE parts2a PARTITION OF parts2 FOR VALUES FROM (10) TO (20);
CREATE TABLE parts2b PARTITION OF parts2 FOR VALUES FROM (20) TO (100);
INSERT INTO parts SELECT n, 'p' FROM generate_series(1, 30) AS n;
CREATE TABLE of_parts (p int REFERENCES parts ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO of_parts VALUES (1), (11), (21);

CREATE TABLE mother (a int, b text);
CREATE TABLE child (c int) INHERITS (mother);
CREATE TABLE grandchild () INHERITS (child);
INSERT INTO mother VALUES (1); INSERT INTO child VALUES (1); INSERT INTO grandchild VALUES (1);

CREATE TABLE root (a int PRIMARY KEY, up int REFERENCES root ON DELETE CASCADE);
CREATE TABLE one (a int PRIMARY KEY REFERENCES root ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE two (a int PRIMARY KEY, o int REFERENCES one ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE three (a int DEFAULT 0 REFERENCES two ON DELETE SET DEFAULT);
CREATE TABLE four (a int REFERENCES two ON DELETE RESTRICT);
INSERT INTO root VALUES (0, NULL), (1, NULL), (2, 1), (3, 2);
INSERT INTO one VALUES (1), (2), (3);
INSERT INTO two VALUES (0, NULL), (1, 1), (2, 2);
INSERT INTO three VALUES (1);

CREATE TABLE log (what text);
CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO log VALUES (TG_OP); RETURN coalesce(NEW, OLD); END $$;
CREATE FUNCTION stamps() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN IF TG_OP = 'UPDATE' AND NEW.b IS NULL THEN NEW.b := lower('Y') || clock_timestamp(); END IF;
  RETURN NEW; END $$;
CREATE FUNCTION calls() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN PERFORM log_it('called'); RETURN NEW; END $$;
CREATE FUNCTION log_it(t text) RETURNS int LANGUAGE sql AS 'INSERT INTO public.log VALUES (t); SELECT 1';
CREATE FUNCTION says(t text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN EXECUTE t; RETURN 1; END $$;
CREATE FUNCTION harmless(i int) RETURNS int LANGUAGE sql AS 'SELECT i + (random() * 0)::int';
CREATE FUNCTION reads_more() RETURNS bigint LANGUAGE plpgsql
  AS $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM calling; RETURN n; END $$;
CREATE VIEW calling AS SELECT log_it('view');
CREATE TABLE by_row (a int); CREATE TRIGGER t AFTER UPDATE ON by_row FOR EACH ROW EXECUTE FUNCTION logs();
CREATE TABLE by_statement (a int);
CREATE TRIGGER t AFTER DELETE OR TRUNCATE ON by_statement FOR EACH STATEMENT EXECUTE FUNCTION logs();
CREATE TABLE deferred (a int);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION logs();
CREATE TABLE disabled (a int); CREATE TRIGGER t AFTER INSERT ON disabled FOR EACH ROW EXECUTE FUNCTION logs();
ALTER TABLE disabled DISABLE TRIGGER t;
CREATE TABLE stamped (a int, b text);
CREATE TRIGGER t BEFORE INSERT OR UPDATE ON stamped FOR EACH ROW EXECUTE FUNCTION stamps();
CREATE TABLE by_call (a int); CREATE TRIGGER t AFTER INSERT ON by_call FOR EACH ROW EXECUTE FUNCTION calls();
INSERT INTO by_row VALUES (1); INSERT INTO by_statement VALUES (1); INSERT INTO stamped VALUES (1);
CREATE TABLE far (a int REFERENCES root ON DELETE CASCADE);
CREATE TABLE of_far (a int PRIMARY KEY); INSERT INTO of_far VALUES (1);
CREATE TABLE fires (a int REFERENCES of_far ON DELETE CASCADE); INSERT INTO fires VALUES (1);
CREATE TRIGGER t AFTER DELETE ON fires FOR EACH ROW EXECUTE FUNCTION logs();
CREATE TABLE part_fires (a int) PARTITION BY RANGE (a);
CREATE TABLE part_fires1 PARTITION OF part_fires FOR VALUES FROM (0) TO (9);
CREATE TRIGGER t AFTER INSERT ON part_fires1 FOR EACH ROW EXECUTE FUNCTION logs();

CREATE TABLE ruled (a int); INSERT INTO ruled VALUES (1);
CREATE RULE r AS ON DELETE TO ruled DO ALSO INSERT INTO log VALUES ('rule');
CREATE TABLE ruled_more (a int); CREATE RULE r AS ON INSERT TO ruled_more DO ALSO SELECT log_it('rule');
CREATE VIEW instead AS SELECT 1 AS a;
CREATE TRIGGER t INSTEAD OF INSERT ON instead FOR EACH ROW EXECUTE FUNCTION logs();
CREATE VIEW ruled_view AS SELECT max(a) AS a FROM alone;
CREATE RULE r AS ON INSERT TO ruled_view DO INSTEAD INSERT INTO source VALUES (NEW.a + 70);

CREATE TABLE by_default (a int DEFAULT log_it('default'));
CREATE TABLE by_good_default (a int DEFAULT harmless(1), i serial);
CREATE TABLE by_check (a int CHECK (log_it('check') > 0));
CREATE TABLE by_policy (a int); ALTER TABLE by_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON by_policy USING (log_it('policy') > 0);
CREATE FUNCTION same(int, int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN log_it('o') = 1; END $$;
CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = same);
CREATE MATERIALIZED VIEW stored AS SELECT count(*) FROM alone;
CREATE FUNCTION stable_writer() RETURNS int STABLE LANGUAGE plpgsql
  AS $$ BEGIN -- it must not execute, insert or update anything
  PERFORM log_it('insert, update'); RETURN 1; END $$;
CREATE DOMAIN logged AS int DEFAULT log_it('domain');
CREATE TABLE by_domain (a logged);
CREATE TABLE audited (a int); INSERT INTO audited VALUES (1);
CREATE FUNCTION audits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  n int; "odd name" text := 'DELETE'; comment text;
BEGIN
  IF TG_OP = 'INSERT' OR NOT FOUND THEN /* delete */ comment := 'x';
  ELSIF TG_OP = 'UPDATE' THEN
    FOR n IN SELECT a FROM source FOR UPDATE LOOP
      INSERT INTO log VALUES (TG_OP || n) ON CONFLICT DO NOTHING RETURNING 1 INTO STRICT n;
    END LOOP;
    WITH x AS (SELECT CASE WHEN true THEN 1 END AS a) UPDATE source SET b = "odd name" FROM x;
  ELSE
    TRUNCATE log;
  END IF;
  RETURN NEW;
EXCEPTION WHEN no_data_found THEN DELETE FROM log; RETURN NULL;
END $$;
CREATE TRIGGER t BEFORE UPDATE ON audited FOR EACH ROW EXECUTE FUNCTION audits();
CREATE PROCEDURE moves(n int) LANGUAGE plpgsql AS $$
<<block>> BEGIN
  DELETE FROM public.alone WHERE a = n;
  INSERT INTO source VALUES (n + 100, 'moved');
END $$;
CREATE PROCEDURE says_procedure(t text) LANGUAGE plpgsql AS $$ BEGIN EXECUTE t; END $$;
CREATE TABLE says_all (a int); INSERT INTO says_all VALUES (1);
CREATE FUNCTION says_log() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN EXECUTE format('INSERT INTO %I VALUES (1)', 'log'); RETURN NEW; END $$;
CREATE TRIGGER t BEFORE UPDATE ON says_all FOR EACH ROW EXECUTE FUNCTION says_log();
CREATE FUNCTION makes_trigger() RETURNS int LANGUAGE plpgsql
  AS $$ BEGIN EXECUTE 'create table made (a int)'; RETURN 1; END $$;
CREATE UNLOGGED TABLE unsafe (a int);
CREATE TABLE with_timetz (at timetz);
CREATE VIEW of_today AS SELECT * FROM source WHERE b > current_date::text;
CREATE TABLE of_tenant (tenant text, a int); ALTER TABLE of_tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON of_tenant USING (tenant = current_setting('app.tenant') OR tenant = current_user
  OR EXISTS (SELECT FROM source WHERE source.b = tenant));
CREATE TABLE by_time_policy (a int, until timestamptz); ALTER TABLE by_time_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON by_time_policy USING (until > now());
CREATE FUNCTION says_it_is_pure(int) RETURNS int IMMUTABLE LANGUAGE plpgsql
  AS $$ BEGIN RETURN $1 + (SELECT count(*) FROM simple, public."log"); END $$;
CREATE FUNCTION only_reads() RETURNS bigint STABLE LANGUAGE sql AS 'SELECT count(*) FROM public.source';
CREATE FUNCTION stable_in_sql() RETURNS int STABLE LANGUAGE sql AS 'SELECT public.log_it($$x$$)';
CREATE TABLE timed (a int, now_at timestamptz);
CREATE VIEW recent AS SELECT * FROM timed WHERE now_at > now();
CREATE VIEW of_whom AS SELECT * FROM source WHERE b = current_user;
CREATE SCHEMA other; CREATE TABLE other.alone2 (a int); CREATE TABLE other.source2 AS SELECT 1 AS a;
CREATE FOREIGN DATA WRAPPER nothing; CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE away (a int) SERVER nowhere;
"""

EXACT = [
    ("INSERT INTO alone (a) VALUES (77)", "alone"),
    ("INSERT INTO alone (a) SELECT a + 50 FROM source", "alone"),
    ("INSERT INTO alone (a) VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 'y'", "alone"),
    ("INSERT INTO alone (a) VALUES (88), (1) ON CONFLICT DO NOTHING", "alone"),
    ("UPDATE alone SET b = source.b FROM source WHERE alone.a = source.a", "alone"),
    ("DELETE FROM alone USING source WHERE alone.a = source.a RETURNING alone.*", "alone"),
    ("TRUNCATE alone", "alone"),
    ("TRUNCATE alone, source", "alone source"),
    ("WITH x AS (DELETE FROM alone RETURNING *) INSERT INTO source SELECT a + 20, b FROM x", "alone source"),
    ("WITH x AS (UPDATE alone SET b = 'z' RETURNING a) SELECT * FROM x", "alone"),
    ("EXPLAIN ANALYZE DELETE FROM alone", "alone"),
    ("EXPLAIN DELETE FROM alone", ""),
    ("SELECT * FROM alone FOR UPDATE", ""),
    ("SELECT harmless(1), count(*) FROM alone, source", ""),
    ("PREPARE p AS DELETE FROM alone", ""),
    ("COPY (SELECT 1) TO '/dev/null'", ""),
    ("COPY alone (a) FROM PROGRAM 'echo 66'", "alone"),
    ("UPDATE stamped SET b = NULL", "stamped"),
    ("INSERT INTO disabled VALUES (1)", "disabled"),
    ("INSERT INTO by_row VALUES (1)", "by_row"),
    ("UPDATE by_statement SET a = 2", "by_statement"),
    ("INSERT INTO simple VALUES (40, 'v')", "simple alone"),
    ("UPDATE nested SET b = 'v'", "nested simple alone"),
    ("DELETE FROM nested WHERE a = 1", "nested simple alone"),
    ("UPDATE mother SET b = 'm'", "mother child grandchild"),
    ("DELETE FROM child", "mother child grandchild"),
    ("INSERT INTO mother VALUES (5)", "mother"),
    ("TRUNCATE mother", "mother child grandchild"),
    ("DELETE FROM root WHERE a = 1", "root one two far"),
    ("UPDATE root SET a = 99 WHERE a = 3", "root one two"),
    ("DELETE FROM one", "one two"),
    ("DELETE FROM two WHERE a = 1", "two three"),
    ("TRUNCATE two CASCADE", "two three four"),
    ("TRUNCATE root CASCADE", "root one two three four far"),
    ("DELETE FROM ruled", "ruled log"),
    ("INSERT INTO ruled VALUES (4)", "ruled"),
    ("INSERT INTO by_good_default DEFAULT VALUES", "by_good_default"),
    ("REFRESH MATERIALIZED VIEW stored", "stored"),
    ("SELECT log_it('select')", "log"),
    ("INSERT INTO by_default DEFAULT VALUES", "by_default log"),
    ("INSERT INTO by_check VALUES (1)", "by_check log"),
    ("INSERT INTO by_call VALUES (1)", "by_call log"),
    ("INSERT INTO ruled_more VALUES (1)", "ruled_more log"),
    ("SELECT * FROM calling", "log"),
    ("SELECT reads_more()", "log"),
    ("SELECT 1 === 2", "log"),
    ("UPDATE by_row SET a = 2", "by_row log"),
    ("DELETE FROM by_statement", "by_statement log"),
    ("TRUNCATE by_statement", "by_statement log"),
    ("INSERT INTO deferred VALUES (1)", "deferred log"),
    ("INSERT INTO instead VALUES (1)", "instead log"),
    ("DELETE FROM of_far", "of_far fires log"),
    ("SELECT stable_writer()", "log"),
    ("INSERT INTO by_domain DEFAULT VALUES", "by_domain log"),
    ("UPDATE audited SET a = 3", "audited log source"),
    ("CALL moves(1)", "alone source"),
    ("DO 'BEGIN DELETE FROM alone; END'", "alone"),
    ("DO $$ BEGIN PERFORM log_it('do'); UPDATE source SET b = 'd' WHERE a = 1; END $$", "log source"),
    ("CREATE TEMP TABLE mine AS SELECT log_it('temp')", "log"),
    ("CREATE TEMP TABLE mine (a int)", ""),
]
"""Statements, and exactly the tables and views that they may touch."""

BOUNDED = [
    ("INSERT INTO parts VALUES (5000 % 97 + 31)", "parts parts1 parts2 parts2a parts2b"),
    ("DELETE FROM parts WHERE a = 11", "parts parts1 parts2 parts2a parts2b of_parts"),
    ("UPDATE parts SET a = 50 WHERE a = 1", "parts parts1 parts2 parts2a parts2b of_parts"),
    ("UPDATE parts2a SET b = 'q'", "parts parts2 parts2a of_parts"),
    ("DELETE FROM parts2", "parts parts2 parts2a parts2b of_parts"),
    ("TRUNCATE parts CASCADE", "parts parts1 parts2 parts2a parts2b of_parts"),
    ("INSERT INTO ruled_view VALUES (3)", "ruled_view alone source"),
    ("INSERT INTO part_fires VALUES (1)", "part_fires part_fires1 log"),
]
"""Here what is touched depends on values."""

UNBOUNDED = [
    ("SELECT says('DELETE FROM alone')", Cause.CODE_OF_USER),
    ("CALL says_procedure('DELETE FROM alone')", Cause.CODE_OF_USER),
    ("UPDATE says_all SET a = 2", Cause.CODE_OF_USER),
    ("DO $$ BEGIN EXECUTE 'DELETE FROM alone'; END $$", Cause.CODE),
    ("EXECUTE prepared", Cause.EXECUTE),
]
"""Statements that do more than can be told."""
RENAMING = [
    "CREATE TABLE another (a int)",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE ' || 'alone RENAME TO lonely'; END $$",
    "SELECT makes_trigger()",
]
"""After these, names may mean something else."""

MERGES = [
    ("MERGE INTO alone USING source AS s ON alone.a = s.a WHEN MATCHED THEN UPDATE SET b = s.b"
     " WHEN NOT MATCHED THEN INSERT (a) VALUES (s.a)", "alone"),
    ("MERGE INTO one USING source AS s ON one.a = s.a WHEN MATCHED THEN DELETE", "one two"),
]  # fmt: skip


class Database:
    """One with `SETUP`, a session in it, and what is known of it."""

    def __init__(
        self, postgres: LocalPostgres, session: pg8000.native.Connection, name: str = DATABASE
    ) -> None:
        self.postgres = postgres
        self.session = session
        self.name = name
        self.touches = Touches()
        self.catalog = Catalog()
        rows = session.run(
            "SELECT c.oid, c.relname, c.relkind::text, c.oid::regclass::text FROM pg_class c"
            " WHERE c.oid >= 16384 AND c.relkind IN ('r', 'v', 'm', 'p', 'f')"
            " AND c.relnamespace <> 'pg_toast'::regnamespace"
        )
        self.names = {oid: name for oid, name, _, _ in rows}
        self.tables = {name: whole for _, name, kind, whole in rows if kind in ("r", "m")}

    def touched(self, text: str) -> frozenset[int]:
        """By asking the server as often as it takes."""
        writing = written_by(text.encode())
        for _ in range(MOST_ROUNDS):
            inquiry = self.touches.inquiry(writing)
            if inquiry is None:
                break
            ask(self.postgres, inquiry, self.name)
            self.touches.learn(inquiry)
        found = self.touches.touched(writing)
        assert found is not None
        return found

    def touched_names(self, text: str) -> set[str]:
        found = self.touched(text)
        assert not found >= EVERYTHING, self.touches.why(written_by(text.encode()))
        return {self.names[oid] for oid in found}

    def verdict(self, text: str) -> Verdict:
        reading = read(text.encode())
        assert isinstance(reading, Reading)
        for _ in range(MOST_ROUNDS):
            inquiry = self.catalog.inquiry(reading)
            if inquiry is None:
                break
            ask(self.postgres, inquiry, self.name)
            self.catalog.learn(inquiry)
        found = self.catalog.verdict(reading)
        assert found is not None
        return found

    def contents(self) -> dict[str, str]:
        """Of all tables by themselves, without what may be volatile to read."""
        union = " UNION ALL ".join(
            f"SELECT '{name}', coalesce(md5(string_agg(x::text, '|' ORDER BY x::text)), '')"
            f" FROM ONLY {whole} AS x"
            for name, whole in self.tables.items()
        )
        return dict(self.session.run(union))

    def changed(self, text: str) -> set[str]:
        """The tables that a statement really changes."""
        run = self.session.run
        run("BEGIN")
        try:
            with self.changes() as changes:
                run(text)
                run("SET CONSTRAINTS ALL IMMEDIATE")
        finally:
            run("ROLLBACK")
        return changes

    @contextlib.contextmanager
    def changes(self) -> Iterator[set[str]]:
        """The tables that change meanwhile; known at the end."""
        before = self.contents()
        earlier = self._counts()
        found: set[str] = set()
        yield found
        found |= {name for name, count in self._counts().items() if count != earlier.get(name, 0)}
        after = self.contents()
        found &= set(self.tables)
        found |= {name for name in after if after[name] != before[name]}

    def _counts(self) -> dict[str, int]:
        return dict(
            self.session.run(
                "SELECT relname, n_tup_ins + n_tup_upd + n_tup_del FROM pg_stat_xact_user_tables"
                " WHERE n_tup_ins + n_tup_upd + n_tup_del > 0"
            )
        )


def ask(postgres: LocalPostgres, inquiry: Inquiry | TouchInquiry, name: str = DATABASE) -> None:
    replies, groups = Assembler(1 << 30), 0
    data = inquiry.request + query("SELECT 'the end'")
    replies.feed(direct_bytes(postgres, data, database=name))
    while (message := replies.message()) is not None:
        tag, body = message
        assert tag != Backend.ERROR_RESPONSE, body
        groups += tag == Backend.READY_FOR_QUERY
        if tag == Backend.DATA_ROW and not groups:
            inquiry.row(body)


@pytest.fixture(scope="module")
def database(postgres: LocalPostgres) -> Iterator[Database]:
    create(postgres, DATABASE, SETUP)
    with contextlib.closing(connect(postgres, DATABASE)) as session:
        yield Database(postgres, session)


@pytest.mark.parametrize(("text", "expected"), EXACT)
def test_exactly_what_may_change_is_touched(database: Database, text: str, expected: str) -> None:
    """Nothing changes that is not touched, and nothing else is touched than what is expected."""
    touched = database.touched_names(text)
    assert set(expected.split()) == touched
    assert database.changed(text) <= touched


@pytest.mark.parametrize(("text", "expected"), BOUNDED)
def test_what_depends_on_values_is_touched(database: Database, text: str, expected: str) -> None:
    """Every partition that may be meant is touched."""
    touched = database.touched_names(text)
    assert set(expected.split()) == touched
    assert database.changed(text) <= touched


@pytest.mark.parametrize(("text", "cause"), UNBOUNDED)
def test_what_code_may_do_is_everything(database: Database, text: str, cause: Cause) -> None:
    """And the reason is told; the statement did more than its tables show."""
    database.session.run("PREPARE prepared AS DELETE FROM alone")
    try:
        assert database.touched(text) >= EVERYTHING
        assert database.touches.why(written_by(text.encode())) == cause.value
        assert database.changed(text)
    finally:
        database.session.run("DEALLOCATE prepared")


@pytest.mark.parametrize("text", RENAMING)
def test_what_may_change_the_schema_says_so(database: Database, text: str) -> None:
    """Not only DDL itself: code that runs it as a text, too."""
    assert database.touched(text) == EVERYTHING_AND_SCHEMA


@pytest.mark.parametrize(("text", "expected"), MERGES)
def test_merge(database: Database, text: str, expected: str) -> None:
    """What its branches do, and no more."""
    touched = database.touched_names(text)
    assert set(expected.split()) == touched
    assert database.changed(text) <= touched


def test_missing_and_foreign_targets_are_everything(database: Database) -> None:
    """The one may be created by now, the other may lead anywhere."""
    for text, reach in [
        ("INSERT INTO nobody VALUES (1)", Reach.MISSING),
        ("DELETE FROM away", Reach.FOREIGN),
    ]:
        assert database.touched(text) >= EVERYTHING
        assert database.touches.why(written_by(text.encode())) == reach.value


KEPT = [
    "SELECT * FROM alone WHERE a = 1",
    "SELECT a, to_char(now_at, 'YYYY'), now_at::date, now_at > '2020-01-01' FROM timed",
    "SELECT date_trunc('day', now_at), now_at AT TIME ZONE 'UTC', extract(year FROM now_at) FROM timed",
    "SELECT count(*), sum(a), json_agg(b) FROM nested JOIN source USING (a, b) GROUP BY a ORDER BY 1 LIMIT 3",
    "WITH x AS (SELECT * FROM parts) SELECT DISTINCT lower(b) FROM x WHERE a BETWEEN 1 AND 2",
    "SELECT * FROM stored",
    "SELECT * FROM unsafe",
    "VALUES (1), (2)",
    "TABLE alone",
    "SELECT current_user, session_user, user, current_role, current_catalog, current_schema",
    "SELECT * FROM of_whom",
    "SELECT current_setting('app.tenant', true)",
    "SELECT * FROM of_tenant",
    "SELECT * FROM source WHERE b IN ('unknown', 'snow', 'nowhere')",
    "SELECT b FROM alone WHERE to_tsvector('english', b) @@ plainto_tsquery('english', 'know')",
    "SELECT xmin, tableoid FROM alone",
    "SELECT says_it_is_pure(1)",
    "SELECT only_reads()",
    "SELECT n FROM generate_series(1, 3) AS n ORDER BY 1",
]
NOT_KEPT = [
    ("SELECT now()", Reason.STABLE),
    ("SELECT current_timestamp", Reason.TIME),
    ("SELECT current_date - 1", Reason.TIME),
    ("SELECT localtime, localtimestamp(2)", Reason.TIME),
    ("SELECT 'now'::timestamptz", Reason.TIME),
    ("SELECT date 'today'", Reason.TIME),
    ("SELECT '{now}'::timestamp[]", Reason.TIME),
    ("SELECT * FROM timed WHERE now_at > 'Yesterday'", Reason.TIME),
    ("SELECT * FROM timed WHERE now_at > 'today 10:00'", Reason.TIME),
    ("SELECT '10:00'::timetz", Reason.TIME),
    ("SELECT * FROM with_timetz WHERE at > '10:00'", Reason.TIME),
    ("SELECT age(now_at) FROM timed", Reason.STABLE),
    ("SELECT * FROM recent", Reason.STABLE),
    ("SELECT * FROM of_today", Reason.TIME),
    ("SELECT clock_timestamp()", Doubt.VOLATILE),
    ("SELECT timeofday()", Doubt.VOLATILE),
    ("SELECT random()", Doubt.VOLATILE),
    ("SELECT * FROM alone ORDER BY random()", Doubt.VOLATILE),
    ("SELECT gen_random_uuid()", Doubt.VOLATILE),
    ("SELECT nextval('by_good_default_i_seq')", Doubt.VOLATILE),
    ("SELECT last_value FROM by_good_default_i_seq", Doubt.KIND),
    ("SELECT pg_sleep(0)", Doubt.VOLATILE),
    ("SELECT pg_total_relation_size(16384)", Doubt.VOLATILE),
    ("SELECT lo_get(1)", Doubt.VOLATILE),
    ("SELECT harmless(1)", Doubt.VOLATILE),
    ("SELECT stable_writer()", Doubt.UNREADABLE),
    ("SELECT stable_in_sql()", Doubt.VOLATILE),
    ("SELECT current_schemas(true)", Reason.PRIVILEGES),
    ("SELECT current_setting('search_path')", Reason.SETTING),
    ("SELECT current_setting(b) FROM source", Reason.SETTING),
    ("SELECT has_table_privilege('alone', 'SELECT')", Reason.PRIVILEGES),
    ("SELECT 'alone'::regclass", Reason.NAMES),
    ("SELECT tableoid::regclass FROM parts", Reason.NAMES),
    ("SELECT ctid FROM alone", Reason.ROWS),
    ("SELECT alone.xmax FROM alone", Reason.ROWS),
    ("SELECT version()", Reason.STABLE),
    ("SELECT statement_timestamp(), transaction_timestamp()", Reason.STABLE),
    ("SELECT pg_current_snapshot()", Reason.STABLE),
    ("SELECT relname FROM pg_class", Reason.CATALOGS),
    ("SELECT table_name FROM information_schema.enabled_roles, pg_description", Reason.CATALOGS),
    ("SELECT * FROM pg_stat_user_tables", Reason.CATALOGS),
    ("SELECT * FROM by_policy", Doubt.VOLATILE),
    ("SELECT * FROM by_time_policy", Reason.STABLE),
    ("SELECT * FROM away", Doubt.FOREIGN),
    ("SELECT * FROM nobody_at_all", Doubt.MISSING),
]


@pytest.mark.parametrize("text", KEPT)
def test_what_depends_on_tables_and_settings_only_may_be_kept(database: Database, text: str) -> None:
    """Whatever formats times: those of the tables, not of the clock."""
    reading = read(text.encode())
    assert isinstance(reading, Reading)
    assert why_not(reading, database.verdict(text)) is None


@pytest.mark.parametrize(("text", "why"), NOT_KEPT)
def test_what_may_change_by_itself_is_not_kept(database: Database, text: str, why: Doubt | Reason) -> None:
    """Each for a reason that can be counted."""
    reading = read(text.encode())
    assert isinstance(reading, Reading)
    verdict = database.verdict(text)
    assert (verdict.doubt or why_not(reading, verdict)) == why
    assert why_not(reading, verdict) is not None


@pytest.mark.parametrize(
    "text",
    [
        "SELECT pg_backend_pid()",
        "SELECT txid_current()",
        "SELECT inet_client_addr()",
        "SELECT * FROM alone TABLESAMPLE system (10)",
        "SELECT * FROM alone FOR SHARE",
        "SELECT * FROM pg_temp.x",
    ],
)
def test_what_tells_of_a_session_is_no_reading_at_all(text: str) -> None:
    """So it is never kept."""
    assert isinstance(read(text.encode()), NotReading)


def test_policies_count(database: Database) -> None:
    """They run for others than the owner."""
    assert database.touched_names("UPDATE by_policy SET a = 1") == {"by_policy", "log"}
    assert database.touched_names("SELECT * FROM by_policy") == {"log"}


@pytest.mark.parametrize(
    ("reading", "writing"),
    [
        ("SELECT * FROM nested", "UPDATE alone SET b = 'r'"),
        ("SELECT * FROM alone", "UPDATE nested SET b = 'r'"),
        ("SELECT * FROM parts", "UPDATE parts2a SET b = 'r'"),
        ("SELECT * FROM parts2b", "UPDATE parts SET b = 'r'"),
        ("SELECT * FROM parts1", "UPDATE parts SET a = 40 WHERE a = 30"),
        ("SELECT * FROM mother", "DELETE FROM grandchild"),
        ("SELECT * FROM grandchild", "DELETE FROM mother"),
        ("SELECT * FROM two", "DELETE FROM root"),
        ("SELECT * FROM of_parts", "DELETE FROM parts2"),
        ("SELECT * FROM stored", "REFRESH MATERIALIZED VIEW stored"),
        ("SELECT count(*) FROM log, source", "DELETE FROM ruled"),
        ("SELECT only_reads()", "DELETE FROM source"),
        ("SELECT says_it_is_pure(1)", "DELETE FROM alone"),
        ("SELECT says_it_is_pure(1)", "DELETE FROM log"),
        ("SELECT * FROM of_tenant", "DELETE FROM source"),
        ("SELECT * FROM parts", "DELETE FROM parts2a"),
    ],
)
def test_readings_meet_the_writings_that_concern_them(database: Database, reading: str, writing: str) -> None:
    """The OIDs of both are of one kind."""
    verdict = database.verdict(reading)
    assert verdict.proven
    assert verdict.tables & database.touched(writing)


def test_a_change_of_the_schema_is_learnt_after_clear(database: Database) -> None:
    """Answers to questions from before it are not taken."""
    writing = written_by(b"DELETE FROM other.alone2")
    assert isinstance(writing, Writing)
    touches = Touches()
    inquiry = touches.inquiry(writing)
    assert inquiry is not None
    touches.clear()
    ask(database.postgres, inquiry)
    touches.learn(inquiry)
    assert touches.touched(writing) is None
    assert touches.inquiry(writing) is not None
