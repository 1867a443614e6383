"""PURGE CACHE: what an operator ends is not answered from memory again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import requests
from tests.support.caching import caching
from tests.support.talk import selected, told
from trio_pool.cache.statuses import Status
from trio_pool.daemon.census import Census
from trio_pool.daemon.purging import Purge, PurgeError, purge, read_purge

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

OF_KEPT = "SELECT value FROM kept WHERE id = 1"
OF_OTHER = "SELECT count(*) FROM other"
TAGGED = "/* trio-pool: tag=prices */ SELECT id FROM kept WHERE id = 2"
VIEWED = "SELECT value FROM seen WHERE id = 3"
SETUP = """
DROP TABLE IF EXISTS kept, other CASCADE;
CREATE TABLE kept (id int PRIMARY KEY, value text);
CREATE TABLE other (id int);
CREATE VIEW seen AS SELECT * FROM kept;
INSERT INTO kept SELECT n, 'value ' || n FROM generate_series(1, 100) AS n;
"""


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", Purge()),
        ("app", Purge("app")),
        ('"my app"', Purge("my app")),
        ("app TABLE kept", Purge("app", table="kept")),
        ('app table public."Ke pt"', Purge("app", table='public."Ke pt"')),
        ("app TAG a.b:c-d", Purge("app", tag="a.b:c-d")),
    ],
)
def test_what_is_to_be_purged(text: str, what: Purge) -> None:
    """Names as in SQL, the words in upper or lower case."""
    assert what == read_purge(text)


@pytest.mark.parametrize("text", ["app TABLE", "app TABLE a; DROP TABLE b", "app kept", "app TAG a b"])
def test_what_cannot_be_purged(text: str) -> None:
    """Is refused with the way to say it."""
    with pytest.raises(PurgeError, match="expected PURGE CACHE"):
        read_purge(text)


@pytest.mark.parametrize(
    ("command", "ended"),
    [
        ("", {OF_KEPT, OF_OTHER, TAGGED, VIEWED}),
        ("app", {OF_KEPT, OF_OTHER, TAGGED, VIEWED}),
        ("app TABLE kept", {OF_KEPT, TAGGED, VIEWED}),
        ("app TABLE public.seen", {OF_KEPT, TAGGED, VIEWED}),
        ("app TABLE other", {OF_OTHER}),
        ("app TAG prices", {TAGGED}),
        ("app TAG nothing", set()),
    ],
)
@pytest.mark.e2e
@pytest.mark.trio
async def test_purging_ends_answers(postgres: LocalPostgres, command: str, ended: set[str]) -> None:
    """Exactly those that read the table, or have the tag; their number is told, and their room is free."""
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as peer:
        everything = (OF_KEPT, OF_OTHER, TAGGED, VIEWED)
        for query in everything * 2:  # what comes for the first time may end what is kept
            await shared.keep(peer, query)
        service = shared.running.service
        (before,) = Census(service).caches()
        others = before.entries - len(everything)  # what was asked meanwhile
        count = await purge(service, read_purge(command))
        assert count - len(ended) in ({others} if len(ended) == len(everything) else {0})
        (after,) = Census(service).caches()
        assert (before.entries - count, count) == (after.entries, after.purged)
        assert bool(ended) == (after.bytes < before.bytes)
        for query in everything:
            assert (await shared.asked(peer, query))[1] is (Status.MISS if query in ended else Status.HIT)


@pytest.mark.parametrize(
    ("command", "complaint"),
    [("nowhere", "no such database: nowhere"), ("app TABLE nothing", "no such table: nothing")],
)
@pytest.mark.e2e
@pytest.mark.trio
async def test_what_there_is_not(postgres: LocalPostgres, command: str, complaint: str) -> None:
    """Is an error, and nothing ends."""
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, OF_KEPT)
        with pytest.raises(PurgeError, match=complaint):
            await purge(shared.running.service, read_purge(command))
        assert (await shared.asked(peer, OF_KEPT))[1] is Status.HIT


@pytest.mark.e2e
@pytest.mark.trio
async def test_who_asked_before_the_purge_is_not_kept(postgres: LocalPostgres) -> None:
    """A reading that is under way when an operator purges is older than that."""
    async with caching(postgres, setup=SETUP) as shared, await shared.running.log_in() as peer:
        await shared.keep(peer, OF_OTHER)
        await purge(shared.running.service, Purge("app"))
        overtaken = shared.cached.statistics.overtaken
        await shared.direct.run("BEGIN")
        await shared.direct.run("LOCK TABLE other IN ACCESS EXCLUSIVE MODE")
        await peer.send(requests.query(OF_OTHER))
        blocked = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while await shared.direct.rows(blocked) == ["0"]:
            pass
        await purge(shared.running.service, Purge("app"))
        await shared.direct.run("COMMIT")
        assert selected("0") == await told(peer)
        assert shared.cached.statistics.overtaken == overtaken + 1
        assert (await shared.asked(peer, OF_OTHER))[1] is Status.MISS
