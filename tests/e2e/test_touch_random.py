"""What statements by chance touch in schemas by chance, against what they do.

`TRIO_POOL_TOUCHES=20` goes through so many schemas with more statements each, and prints how often everything
was touched, exactly what changed, or more.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from random import Random
from typing import TYPE_CHECKING

import pg8000.exceptions
import pytest

from tests.e2e.random_schema import RandomSchema
from tests.e2e.test_reading import connect, create
from tests.e2e.test_touch import Database
from trio_pool.protocol.cacheable import why_not
from trio_pool.protocol.reading import read
from trio_pool.protocol.reading_kinds import Reading
from trio_pool.protocol.watch import EVERYTHING

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

SCHEMAS = int(os.environ.get("TRIO_POOL_TOUCHES", "0"))
STATEMENTS = 100 if SCHEMAS else 30
ROLE = """
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'someone') THEN CREATE ROLE someone; END IF;
END $$
"""
FIRST_SEED = int(os.environ.get("TRIO_POOL_TOUCHES_SEED", "1"))


def results(database: Database, texts: list[str]) -> dict[str, object]:
    return {text: database.session.run(text) for text in texts}


def kept(database: Database, texts: list[str]) -> list[str]:
    """Those of which results may be kept."""
    found: list[str] = []
    for text in texts:
        reading = read(text.encode())
        assert isinstance(reading, Reading)
        if not why_not(reading, database.verdict(text)):
            found.append(text)
    return found


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + (SCHEMAS or 1)))
def test_nothing_changes_that_is_not_touched(
    postgres: LocalPostgres, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """No table changes that was not said to be touched, and no reading that may be kept gives another result
    unless one of its tables was.
    """
    random = Random(seed)
    schema = RandomSchema(random)
    schema.make()
    postgres.run_sql(ROLE)
    name = f"touch_{seed}"
    create(postgres, name, schema.setup)
    counts: Counter[str] = Counter()
    with contextlib.closing(connect(postgres, name)) as session:
        session.run("SET statement_timeout = '5s'")
        database = Database(postgres, session, name)
        possible = kept(database, schema.readings())
        readings = random.sample(possible, min(10, len(possible)))
        for _ in range(STATEMENTS):
            text = schema.statement()
            role = random.choice(["", "", "SET LOCAL ROLE someone"])
            counts[one(database, text, role, readings)] += 1
    postgres.run_sql(f"DROP DATABASE {name}")
    assert counts.total() - counts["failed"] > STATEMENTS // 4
    if SCHEMAS:
        with capsys.disabled():
            print(f"\nseed {seed}: {dict(counts)}, {len(readings)} readings")


def one(database: Database, text: str, role: str, readings: list[str]) -> str:
    """Run it, and compare. Returns how well it was known."""
    touched = database.touched(text)
    run = database.session.run
    run("BEGIN")
    try:
        before = results(database, readings)
        with database.changes() as changes:
            if role:
                run(role)
            run(text)
            run("SET CONSTRAINTS ALL IMMEDIATE")
            if role:
                run("RESET ROLE")
        after = results(database, readings)
    except pg8000.exceptions.DatabaseError:
        return "failed"
    finally:
        run("ROLLBACK")
    if touched >= EVERYTHING:
        return "everything"
    names = {database.names[oid] for oid in touched}
    assert changes <= names, (text, role)
    for reading in readings:
        if after[reading] != before[reading]:
            assert database.verdict(reading).tables & touched, (reading, text, role)
    return "exact" if names & set(database.tables) == changes else "more"
