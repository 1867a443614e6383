"""What is known of the schema: forgotten when it changes, wherever; and not without need."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from tests.net.harness import origin_url
from tests.support.caching import caching
from tests.support.talk import ask, done, selected
from trio_pool.cache.statuses import Status
from trio_pool.net import knowledge
from trio_pool.net.origin import OriginPool

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.touch import TouchInquiry

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

SETUP = """
DROP TABLE IF EXISTS old, new CASCADE;
CREATE TABLE old (value text); CREATE TABLE new (value text);
INSERT INTO old VALUES ('old'); INSERT INTO new VALUES ('new');
CREATE VIEW shown AS SELECT value FROM old;
"""
READ = "SELECT value FROM shown"


def same_database(postgres: LocalPostgres) -> dict[str, dict[str, object]]:
    """Under another name, with a pool of its own."""
    return {"second": {"origin": origin_url(postgres)}}


async def test_a_view_that_is_replaced_through_another_pool(postgres: LocalPostgres) -> None:
    """From then on it is the new table that counts."""
    async with (
        caching(postgres, setup=SETUP, others=same_database(postgres)) as shared,
        await shared.running.log_in() as reader,
        await shared.running.log_in(database="second") as writer,
    ):
        assert selected("old") == await shared.keep(reader, READ)
        await ask(writer, "CREATE OR REPLACE VIEW shown AS SELECT value FROM new")
        assert selected("new") == await ask(reader, READ)
        assert selected("new") == await shared.keep(reader, READ)
        assert done("UPDATE 1") == await ask(writer, "UPDATE new SET value = 'newer'")
        assert selected("newer") == await ask(reader, READ)


async def test_a_trigger_that_is_made_through_another_pool(postgres: LocalPostgres) -> None:
    """What a statement touches is looked up anew."""
    async with (
        caching(postgres, setup=SETUP, others=same_database(postgres)) as shared,
        await shared.running.log_in() as client,
        await shared.running.log_in(database="second") as other,
    ):
        for _ in range(3):
            await ask(client, "UPDATE new SET value = value")  # it is known that only this one is touched
            await ask(client, "select 1")
        create = (
            "CREATE OR REPLACE FUNCTION copied() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN UPDATE old SET value = NEW.value; RETURN NULL; END'"
        )
        assert done("CREATE FUNCTION") == await ask(other, create)
        create = "CREATE TRIGGER copied AFTER UPDATE ON new FOR EACH ROW EXECUTE FUNCTION copied()"
        assert done("CREATE TRIGGER") == await ask(other, create)
        assert selected("old") == await shared.keep(client, READ)
        assert done("UPDATE 1") == await ask(client, "UPDATE new SET value = 'triggered'")
        assert selected("triggered") == await ask(client, READ)


async def test_looking_again_ends_nothing(postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the schema is what it was, answers are kept, and statements are known."""
    monkeypatch.setattr(knowledge, "CATALOG_AGE", 0.02)
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as client:
        await shared.keep(client, READ)
        await ask(client, "UPDATE new SET value = value")
        await shared.keep(client, READ)
        known = shared.running.origin.knowledge.catalog.version
        pool = shared.running.origin.pool
        leases = pool.statistics().leases
        await shared.running.until(lambda: pool.statistics().leases >= leases + 6)
        assert (await shared.asked(client, READ))[1] is Status.HIT
        assert done("UPDATE 1") == await ask(client, "UPDATE new SET value = value")
        assert (await shared.asked(client, READ))[1] is Status.HIT
        assert known == shared.running.origin.knowledge.catalog.version


async def test_a_change_past_the_pooler_is_noticed(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next look."""
    monkeypatch.setattr(knowledge, "CATALOG_AGE", 0.02)
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as client:
        await shared.keep(client, READ)
        known = shared.running.origin.knowledge.catalog.version
        await ask(shared.direct, "CREATE OR REPLACE VIEW shown AS SELECT value FROM new")
        await shared.running.until(lambda: shared.running.origin.knowledge.catalog.version != known)
        assert selected("new") == await ask(client, READ)


async def test_a_change_while_the_last_one_is_looked_into(
    postgres: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that was known is asked again all the same, before anybody needs it."""
    asks, changes = OriginPool.asks, ["again"]

    async def changing(origin: OriginPool, inquiry: Inquiry | TouchInquiry, *, at_once: bool = False) -> bool:
        answered = await asks(origin, inquiry, at_once=at_once)
        if changes:
            changes.pop()
            origin.knowledge.schema_changed()
        return answered

    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as client:
        await shared.keep(client, READ)
        await ask(client, "UPDATE new SET value = value")
        known = shared.running.origin.knowledge
        while known.asks:
            await ask(client, "SHOW server_version")  # the catalog is asked when a lease ends
        names, targets = known.catalog.names, known.touches.names
        assert names
        assert targets
        monkeypatch.setattr(OriginPool, "asks", changing)
        known.schema_changed()
        with trio.fail_after(10):
            while changes or not (names <= known.catalog.names and targets <= known.touches.names):
                await ask(client, "SHOW server_version")
