"""What is cached and what ends it, by views, policies, triggers and code of a real database."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.caching import caching, unnamed
from tests.support.talk import ask, done, selected
from trio_pool.cache.statuses import Status
from trio_pool.protocol.cacheable import Reason
from trio_pool.protocol.watch import EVERYTHING

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from tests.support.caching import Caching
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

MOST_REQUESTS = 5000
"""While the catalog is asked on another connection."""
SETUP = """
DROP TABLE IF EXISTS ruled, ruled_log, ruled_alone, ruled_rows CASCADE;
CREATE TABLE ruled (id int PRIMARY KEY, value text); INSERT INTO ruled VALUES (1, 'a');
CREATE TABLE ruled_log (value text);
CREATE TABLE ruled_alone (value text); INSERT INTO ruled_alone VALUES ('alone');
CREATE OR REPLACE FUNCTION ruled_fires() RETURNS trigger LANGUAGE plpgsql
  AS $$ BEGIN INSERT INTO ruled_log VALUES (NEW.value); RETURN NEW; END $$;
CREATE TRIGGER fires AFTER UPDATE ON ruled FOR EACH ROW EXECUTE FUNCTION ruled_fires();
CREATE VIEW ruled_view AS SELECT count(*) FROM ruled_log;
CREATE TABLE ruled_rows (tenant text, value text); INSERT INTO ruled_rows VALUES ('a', 'of a'), ('b', 'of b');
ALTER TABLE ruled_rows ENABLE ROW LEVEL SECURITY;
ALTER TABLE ruled_rows FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON ruled_rows USING (tenant = current_setting('app.tenant', true));
"""


async def find_out(shared: Caching, peer: Peer, *texts: str) -> None:
    """Until it is known what these statements touch; what is not known touches everything."""
    knowledge = shared.running.origin.knowledge
    for _ in range(MOST_REQUESTS):
        unknown = [text for text in texts if knowledge.touched(text.encode()) >= EVERYTHING]
        if not unknown:
            return
        await ask(peer, "SHOW lock_timeout")  # the catalog is asked when a lease ends
    raise AssertionError(unknown)


async def test_what_a_trigger_writes_to_ends_and_nothing_else(postgres: LocalPostgres) -> None:
    """Through the trigger's code, to a view of what it writes to; another table's answers stay."""
    async with (
        caching(postgres, setup=SETUP) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in() as writer,
    ):
        counted, alone = "SELECT * FROM ruled_view", "SELECT * FROM ruled_alone"
        write = "UPDATE ruled SET value = value || 'x' WHERE id = 1"
        await find_out(shared, writer, write, counted, alone)
        await shared.keep(reader, counted)
        await shared.keep(reader, alone)
        for number in range(5):
            assert await ask(writer, write) == done("UPDATE 1")
            assert await ask(reader, counted) == selected(str(number + 1))
        assert await shared.asked(reader, alone) == (selected("alone"), Status.HIT)


async def test_what_do_and_call_write_to_ends(postgres: LocalPostgres) -> None:
    """As far as their code can be read."""
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as peer:
        counted, alone = "SELECT * FROM ruled_view", "SELECT * FROM ruled_alone"
        write = (
            "DO $$ BEGIN IF true THEN DELETE FROM ruled_log; END IF;"
            " INSERT INTO ruled_log VALUES ('x'); END $$"
        )
        await find_out(shared, peer, write, counted, alone)
        await shared.keep(peer, alone)
        for _ in range(3):
            await shared.keep(peer, counted)
            await ask(peer, write)
            assert await ask(peer, counted) == selected("1")
        stored = shared.cached.statistics.stored
        assert await shared.keep(peer, alone) == selected("alone")
        assert shared.cached.statistics.stored == stored


async def test_rows_of_one_tenant_never_reach_another(postgres: LocalPostgres) -> None:
    """A policy on a setting of the application: each tenant has answers of its own, from memory."""
    read = "SELECT value FROM ruled_rows"
    async with (
        caching(postgres, setup=SETUP) as shared,
        await shared.running.log_in() as one,
        await shared.running.log_in() as other,
    ):
        await ask(one, "SET app.tenant = 'a'")
        await ask(other, "SET app.tenant = 'b'")
        for _ in range(3):
            assert await shared.keep(one, read) == selected("of a")
            assert await shared.keep(other, read) == selected("of b")
        await ask(one, "SET app.tenant = 'b'")
        assert await shared.keep(one, read) == selected("of b")


async def test_a_parameter_that_is_now_is_not_kept(postgres: LocalPostgres) -> None:
    """It would be the time at which it was asked first."""
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as peer:
        sql = "SELECT $1::timestamptz > '2020-01-01' FROM ruled_alone"
        await shared.keep(peer, unnamed(sql, "2021-01-01"))
        _, status = await shared.asked(peer, unnamed(sql, "now"))
        assert status is Status.VOLATILE
        assert shared.cached.statistics.reasons()[Status.VOLATILE, Reason.PARAMETER] == 1
