"""PURGE CACHE: ends kept answers because an operator says so.

It counts like a write to the table or the tag. So a reading that is under way is not kept either, and the
answers of all databases that are the same one at their origin end together, in all processes.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs
import trio

from trio_pool.cache.freshness import EVERYTHING
from trio_pool.errors import ServerFault
from trio_pool.protocol.catalog import Doubt
from trio_pool.protocol.reading import Reading, reading_of

if TYPE_CHECKING:
    from trio_pool.cache.freshness import Freshness
    from trio_pool.daemon.service import Service
    from trio_pool.net.knowledge import Knowledge

PATIENCE: Final = 10.0
"""Seconds for the database to say which table is meant."""
_NAME: Final = r"""(?:"(?:[^"]|"")+"|[a-z_][\w$]*)"""
_PURGE: Final = re.compile(
    rf"""(?P<database>"(?:[^"]|"")+"|[^\s"]+)?
    (?:\s+(?:TABLE\s+(?P<table>{_NAME}(?:\.{_NAME})?)|TAG\s+(?P<tag>"[^"]+"|[\w.:-]+)))?""",
    re.IGNORECASE | re.VERBOSE,
)


class PurgeError(Exception):
    """What is wrong with the command, in a sentence."""


@attrs.frozen
class Purge:
    """What is to end: all of one database, or of a table or tag of it; without a database everything."""

    database: str = ""
    table: str = ""
    """As it would stand in a statement."""
    tag: str = ""


def read_purge(text: str) -> Purge:
    """What follows PURGE CACHE. Raises `PurgeError`."""
    match = _PURGE.fullmatch(text.strip())
    if match is None:
        raise PurgeError("expected PURGE CACHE [database [TABLE name | TAG name]]")
    database, table, tag = (match[name] or "" for name in ("database", "table", "tag"))
    return Purge(_unquoted(database), table, _unquoted(tag))


def _unquoted(word: str) -> str:
    return word[1:-1].replace('""', '"') if word.startswith('"') else word


async def purge(service: Service, what: Purge) -> int:
    """End it. Returns how many answers that were. Raises `PurgeError`."""
    database = service.config.database(what.database) if what.database else None
    if database is None and what.database:
        raise PurgeError(f"no such database: {what.database}")
    caches = service.caches
    if database is None:
        for freshness in caches.freshness.values():
            freshness.invalidate(frozenset({EVERYTHING}))
    else:
        freshness = caches.freshness_of(database)
        if what.tag:
            freshness.purge_tag(what.tag)
        else:
            freshness.invalidate(await _tables(service, what))
    return sum(_sweep(service, name) for name in list(caches.stores))


async def _tables(service: Service, what: Purge) -> frozenset[int]:
    if not what.table:
        return frozenset({EVERYTHING})
    pools = [origin for key, origin in service.pools.items() if key.database == what.database]
    for origin in pools:
        if origin.cached is not None:
            with trio.move_on_after(PATIENCE):
                return await _behind(origin.knowledge, what)
            raise _unknown(what)
    return frozenset()  # nobody has been here, so nothing is kept


async def _behind(knowledge: Knowledge, what: Purge) -> frozenset[int]:
    reading = reading_of(f"SELECT FROM {what.table}\0".encode())
    assert isinstance(reading, Reading)
    try:
        verdict = await knowledge.find_out(reading)
    except ServerFault:
        verdict = None
    if verdict is None:
        raise _unknown(what)
    if verdict.doubt is Doubt.MISSING:
        raise PurgeError(f"no such table: {what.table}")
    return verdict.tables


def _unknown(what: Purge) -> PurgeError:
    return PurgeError(f"the database cannot be asked what table {what.table} is; try again without TABLE")


def _sweep(service: Service, name: str) -> int:
    """Make room at once; what nobody asks for again would stay until others need it."""
    database = service.config.database(name)
    if database is None:
        return 0
    freshness: Freshness = service.caches.freshness_of(database)
    store = service.caches.stores[name]
    return store.purge(lambda entry: freshness.stamp(entry.plan.slots) != entry.stamp)
