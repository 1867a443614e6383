"""Schemas and statements by chance, in which one thing leads to another: keys, triggers, rules, functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from random import Random

TABLES = 9
FUNCTIONS = 6
ACTIONS = ("NO ACTION", "CASCADE", "CASCADE", "SET NULL", "SET DEFAULT")
EVENTS = ("INSERT", "UPDATE", "DELETE")


@attrs.define(eq=False)
class RandomSchema:
    """What is written to has a number; triggers, rules and functions lead to higher ones only, and so end."""

    random: Random
    sql: list[str] = attrs.field(factory=list)
    writable: list[str] = attrs.field(factory=list)
    """Tables, partitions and views, which all have the columns id, v and r."""
    tables: list[str] = attrs.field(factory=list)
    functions: list[str] = attrs.field(factory=list)
    procedures: list[str] = attrs.field(factory=list)
    stored: list[str] = attrs.field(factory=list)

    @property
    def setup(self) -> str:
        return "\n".join(statement + ";" for statement in self.sql)

    def make(self) -> None:
        for number in reversed(range(FUNCTIONS)):
            self._function(f"f{number}", number + TABLES - FUNCTIONS)
        for number in range(TABLES):
            self._table(number)
        for number in range(TABLES):
            self._fill(f"t{number}")
            self._trigger(number)
        for number in range(4):
            self._view(number)
        for number in range(2):
            self.stored.append(f"m{number}")
            self.sql.append(f"CREATE MATERIALIZED VIEW m{number} AS SELECT * FROM {self._any(self.writable)}")
        self._procedure()
        self.sql += ["GRANT ALL ON ALL TABLES IN SCHEMA public TO someone"]

    def statement(self) -> str:
        """One that writes, or may."""
        random = self.random
        target, other = self._any(self.writable), self._any(self.writable)
        number, function = random.randrange(9), self._any(self.functions)
        choices = [
            self._write(target),
            self._write(target),
            self._write(target),
            self._write(target),
            f"WITH w AS ({self._write(target)} RETURNING *) {self._write(other)}",
            f"WITH w AS ({self._write(target)} RETURNING *) SELECT count(*) FROM w",
            f"INSERT INTO {target} SELECT id + 20, {function}(v), r FROM {other} ON CONFLICT DO NOTHING",
            f"MERGE INTO {self._any(self.tables)} AS x USING {other} AS y ON x.id = y.id + {number}"
            f" WHEN MATCHED AND x.v > 2 THEN DELETE WHEN MATCHED THEN UPDATE SET v = x.v + 1"
            f" WHEN NOT MATCHED THEN INSERT VALUES (y.id + {40 + number}, 0, NULL)",
            f"TRUNCATE {self._any(self.tables)} {random.choice(['', 'CASCADE', 'CASCADE'])}",
            f"COPY {self._any(self.tables)} (id) FROM PROGRAM 'echo {30 + number}'",
            f"SELECT {function}(v) FROM {target}",
            f"SELECT * FROM {target} WHERE {function}(v) > 0 FOR UPDATE",
            f"EXPLAIN (ANALYZE, COSTS off) {self._write(target)}",
            f"DO $$ BEGIN IF {number} > 2 THEN {self._write(target)}; END IF; {self._write(other)}; END $$",
            f"CALL {self._any(self.procedures)}({number})",
            f"REFRESH MATERIALIZED VIEW {self._any(self.stored)}",
        ]
        return random.choice(choices)

    def readings(self) -> list[str]:
        """Of which results could be kept."""
        everything = [*self.writable, *self.stored]
        return [f"SELECT * FROM {name} ORDER BY 1, 2, 3" for name in everything] + [
            f"SELECT count(*), sum(a.v) FROM {self._any(everything)} AS a, {self._any(everything)} AS b"
            for _ in range(4)
        ]

    def _any(self, names: list[str]) -> str:
        return self.random.choice(names)

    def _write(self, target: str) -> str:
        random = self.random
        number = random.randrange(9)
        only = random.choice(["", "", "ONLY "])
        function = random.choice(["", "", *self.functions])
        key = random.choice(["NULL", str(random.randrange(6))])
        return random.choice(
            [
                f"INSERT INTO {target} VALUES ({10 + number}, {function}({number}), {key})",
                f"INSERT INTO {target} (id) SELECT n + {random.randrange(20)} FROM (VALUES (1), (2)) x (n)",
                f"UPDATE {only}{target} SET v = {function}(v + 1) WHERE id < {number}",
                f"UPDATE {only}{target} SET id = id + 7 WHERE id = {number}",
                f"UPDATE {target} SET r = {key} FROM (VALUES (1), (2)) AS x (n) WHERE id = x.n",
                f"DELETE FROM {only}{target} WHERE id > {number}",
                f"DELETE FROM {only}{target} WHERE id = {number}",
            ]
        )

    def _above(self, number: int) -> str:
        return f"t{self.random.randrange(number + 1, TABLES)}" if number + 1 < TABLES else "t0_log"

    def _table(self, number: int) -> None:
        random, name = self.random, f"t{number}"
        if number == 0:
            self.sql.append("CREATE TABLE t0_log (id int DEFAULT 0, v int, r int)")
        value = "v int"
        if random.random() < 0.2:
            value += f" DEFAULT {self._any(self.functions)}(1)"
        if random.random() < 0.15:
            value += f" CHECK ({self._any(self.functions)}(1) IS NOT NULL)"
        columns = f"id int PRIMARY KEY, {value}, r int DEFAULT 1"
        kind = random.choice(["plain", "plain", "parted", "parted", "mother"])
        if kind == "parted":
            self.sql += [
                f"CREATE TABLE {name} ({columns}) PARTITION BY RANGE (id)",
                f"CREATE TABLE {name}a PARTITION OF {name} FOR VALUES FROM (0) TO (4)",
                f"CREATE TABLE {name}b PARTITION OF {name} FOR VALUES FROM (4) TO (90)"
                " PARTITION BY HASH (id)",
                f"CREATE TABLE {name}c PARTITION OF {name}b FOR VALUES WITH (MODULUS 2, REMAINDER 0)",
                f"CREATE TABLE {name}d PARTITION OF {name}b FOR VALUES WITH (MODULUS 2, REMAINDER 1)",
            ]
            self.writable += [f"{name}a", f"{name}b"]
        else:
            self.sql.append(f"CREATE TABLE {name} ({columns})")
        if kind == "mother":
            self.sql.append(f"CREATE TABLE {name}k (x int) INHERITS ({name})")
            self.writable.append(f"{name}k")
        self.tables.append(name)
        self.writable.append(name)
        if number and random.random() < 0.7:
            deferred = random.choice(["", " DEFERRABLE INITIALLY DEFERRED"])
            self.sql.append(
                f"ALTER TABLE {name} ADD FOREIGN KEY (r) REFERENCES t{random.randrange(number + 1)} (id)"
                f" ON DELETE {random.choice(ACTIONS)} ON UPDATE {random.choice(ACTIONS)}{deferred}"
            )
        if random.random() < 0.2:
            self.sql += [
                f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY",
                f"CREATE POLICY p ON {name} USING ({self._any(self.functions)}(v) IS NOT NULL)",
            ]

    def _fill(self, name: str) -> None:
        self.sql.append(f"INSERT INTO {name} SELECT n, n, n FROM generate_series(1, 6) AS n")

    def _trigger(self, number: int) -> None:
        random = self.random
        if random.random() < 0.5:
            return
        when = random.choice(["BEFORE", "AFTER"])
        how = random.choice(["ROW", "STATEMENT"])
        events = " OR ".join(random.sample(EVENTS, random.choice([1, 2])))
        body = self._body(number)
        self.sql += [
            f"CREATE FUNCTION fires{number}() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE n int := 1;"
            f" BEGIN {body} RETURN coalesce(NEW, OLD); END $$",
            f"CREATE TRIGGER fires {when} {events} ON t{number} FOR EACH {how}"
            f" EXECUTE FUNCTION fires{number}()",
        ]

    def _body(self, number: int) -> str:
        """Statements of PL/pgSQL; `n` is a variable."""
        random, target = self.random, self._above(number)
        insert = f"INSERT INTO {target} VALUES (60 + (random() * 9)::int, n, NULL) ON CONFLICT DO NOTHING"
        return random.choice(
            [
                f"{insert};",
                f"{insert} RETURNING id INTO n;",
                f"IF n > 0 THEN {insert}; ELSE DELETE FROM t0_log; END IF;",
                f"FOR n IN 1..2 LOOP UPDATE {target} SET v = v + n WHERE id = n; END LOOP;",
                f"PERFORM 1; -- then, delete\n DELETE FROM {target} WHERE id = 3;",
                f"WITH x AS (SELECT CASE WHEN n = 1 THEN 2 ELSE 3 END AS i) UPDATE {target} SET v = 9"
                f" FROM x WHERE id = x.i;",
                f"SELECT {self._any(self.functions) if number < 3 else 'abs'}(n) INTO n;",
                f"EXECUTE 'DELETE FROM {target}';",
            ]
        )

    def _function(self, name: str, number: int) -> None:
        random = self.random
        kind = random.choice(["sql", "plpgsql", "plpgsql", "stable", "reads", "pure"])
        log = "INSERT INTO t0_log VALUES (1, $1)"
        called = self._any(self.functions) if self.functions else "abs"
        if kind == "sql":
            body = f"LANGUAGE sql AS 'INSERT INTO public.{self._above(number)} VALUES (70, $1, NULL)"
            body += f" ON CONFLICT DO NOTHING; {log}; SELECT {called}($1)'"
        elif kind == "plpgsql":
            body = f"LANGUAGE plpgsql AS $$ DECLARE n int := 1; BEGIN {self._body(number)} RETURN $1; END $$"
        elif kind == "stable":
            body = f"STABLE LANGUAGE plpgsql AS $$ BEGIN RETURN {called}($1); END $$"
        elif kind == "reads":
            body = "STABLE LANGUAGE sql AS 'SELECT $1 + (SELECT count(*) FROM public.t0_log)::int'"
        else:
            body = "IMMUTABLE LANGUAGE sql AS 'SELECT $1 + 1'"
        self.sql += ["SET check_function_bodies = off", f"CREATE FUNCTION {name}(int) RETURNS int {body}"]
        self.functions.append(name)

    def _procedure(self) -> None:
        for number in range(2):
            self.sql.append(
                f"CREATE PROCEDURE p{number}(n int) LANGUAGE plpgsql AS $$ BEGIN {self._body(number)} END $$"
            )
            self.procedures.append(f"p{number}")

    def _view(self, number: int) -> None:
        random, name, base = self.random, f"w{number}", self._any(self.writable)
        self.writable.append(name)
        kind = random.choice(["simple", "simple", "calling", "instead", "ruled"])
        if kind == "calling":
            self.sql.append(
                f"CREATE VIEW {name} AS SELECT id, {self._any(self.functions)}(v) AS v, r FROM {base}"
            )
            return
        if kind in ("simple", "ruled"):
            self.sql.append(f"CREATE VIEW {name} AS SELECT id, v, r FROM {base} WHERE id < 60")
        else:
            self.sql += [
                f"CREATE VIEW {name} AS SELECT id, max(v) AS v, min(r) AS r FROM {base} GROUP BY id",
                f"CREATE FUNCTION instead{number}() RETURNS trigger LANGUAGE plpgsql AS"
                f" $$ DECLARE n int := 1; BEGIN {self._body(5)} RETURN NEW; END $$",
                f"CREATE TRIGGER i INSTEAD OF INSERT OR UPDATE OR DELETE ON {name}"
                f" FOR EACH ROW EXECUTE FUNCTION instead{number}()",
            ]
        if kind == "ruled":
            event = random.choice(EVENTS)
            how = random.choice(["ALSO", "INSTEAD"])
            target = self._above(5)
            self.sql.append(
                f"CREATE RULE l AS ON {event} TO {name} DO {how} INSERT INTO {target} (id) VALUES (80)"
            )
