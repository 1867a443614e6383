"""One run: a pooler, readers and writers, for so many seconds or until something is wrong."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from random import Random
from typing import TYPE_CHECKING, Any
from unittest import mock

import attrs
import trio

import trio_pool
from tests.cache.checker.ledger import Ledger
from tests.cache.checker.reader import Reader
from tests.cache.checker.reads import OUTPUTS, PATHS, STYLES, ZONES, Identity
from tests.cache.checker.schema import ANN, BEN, NOSY, ROLES, contents, tables
from tests.cache.checker.speaking import Common
from tests.cache.checker.writer import Writer
from tests.net.harness import origin_url, served
from tests.net.peer import Peer
from tests.support.linked import EDGE, collecting, edge_table, origin_table, serving, url
from tests.support.serving import superuser
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.cache.freshness import Freshness
from trio_pool.cache.statuses import Status
from trio_pool.net.cached import CachedReads

Address = tuple[str, int]

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from tests.net.harness import Running
    from trio_pool.cache.store import Entry
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.net.client import Client


def _freshness(running: Running) -> set[Freshness]:
    return {pool.freshness for pool in running.service.pools.values() if pool.freshness is not None}


def _hits(poolers: Sequence[Running]) -> int:
    pools = [pool for running in poolers for pool in running.service.pools.values()]
    return sum(pool.cached.statistics.statuses()[Status.HIT] for pool in pools if pool.cached is not None)


AGAIN, OWN = "again", "own"
"""Other names of the same database: one with the same user, one where every user has a pool of its own."""
AGEING = {"max_age": "100ms", "stale_while_revalidate": "5s", "verify": 0.1}
"""So that answers are fetched anew all the time, where `AGAIN` is."""
ENOUGH, LONGER = 20, 60.0
"""Hits that a run must have, and seconds that it may take longer until it has them."""
DOUBT = 0.5
"""Seconds for which a killed server may still commit here, instead of a minute: the machine is the same."""


@attrs.define(eq=False)
class Report:
    """What has happened."""

    seed: object
    seconds: float
    ledger: Ledger
    common: Common
    statuses: Counter[Status]
    reasons: Counter[tuple[Status, str]]
    invalidations: int
    still_hits: int

    @classmethod
    def of(
        cls, poolers: Sequence[Running], mix: Mix, common: Common, seconds: float, still_hits: int = 0
    ) -> Report:
        """After a run."""
        statuses: Counter[Status] = Counter()
        reasons: Counter[tuple[Status, str]] = Counter()
        for running in poolers:
            for pool in running.service.pools.values():
                if pool.cached is not None:
                    statuses += pool.cached.statistics.statuses()
                    reasons += pool.cached.statistics.reasons()
        invalidations = sum(f.invalidations for running in poolers for f in _freshness(running))
        return cls(mix.seed, seconds, common.ledger, common, statuses, reasons, invalidations, still_hits)

    @property
    def hits(self) -> int:
        return self.statuses[Status.HIT]

    def __str__(self) -> str:
        reads = sum(self.common.reads.values())
        ledger, statuses = self.ledger, self.statuses
        per_minute = {
            "reads": reads,
            "hits": self.hits,
            "stale": statuses[Status.STALE],
            "shared": statuses[Status.SHARED],
            "misses": statuses[Status.MISS],
            "commits": ledger.commits,
            "unknown": ledger.unknown,
            "invalidations": self.invalidations,
        }
        still = self.common.reads["still"]
        lines = [
            f"seed {self.seed}, {self.seconds:.1f} s; per minute: "
            + ", ".join(f"{count * 60 / self.seconds:.0f} {name}" for name, count in per_minute.items()),
            f"never written: {self.still_hits} hits of {still} reads; violations: {len(ledger.violations)}",
            "statuses: " + ", ".join(f"{status.value} {n}" for status, n in statuses.most_common()),
            "errors: " + ", ".join(f"{error} x {n}" for error, n in self.common.errors.most_common(12)),
        ]
        return "\n".join([*lines, *self.ledger.violations[:10]])


@contextmanager
def _hits_of(address: Callable[[Entry], bool], found: Counter[str]) -> Iterator[None]:
    """Count hits on answers of one table."""
    serves = CachedReads._serves_from

    def counting(cached: CachedReads, entry: Entry, client: Client, data: bytes) -> bool:
        served = serves(cached, entry, client, data)
        found["still"] += served and address(entry)
        return served

    with mock.patch.object(CachedReads, "_serves_from", counting):
        yield


@contextmanager
def _short_doubts() -> Iterator[None]:
    doubt = Freshness.doubt

    def shorter(freshness: Freshness, tables: frozenset[int], now: float, seconds: float = DOUBT) -> None:
        doubt(freshness, tables, now, min(seconds, DOUBT))

    with mock.patch.object(Freshness, "doubt", shorter):
        yield


def configuration(pg: LocalPostgres, cache: dict[str, Any], pool_size: int) -> trio_pool.Config:
    """The databases of a run."""
    shared: dict[str, Any] = {
        "origin": origin_url(pg),
        "password": PASSWORD,
        "cache": {"enabled": True, **cache},
    }
    own: dict[str, Any] = {**shared, "origin": origin_url(pg).replace(f"{USER}@", ""), "pool_size": 2}
    del own["password"]
    if cache.get("invalidation") == "replication":
        own["cache"] = {**own["cache"], "replication_user": USER}
    return trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "users": {user: {"password": PASSWORD} for user in (USER, *ROLES)},
            "databases": {
                DATABASE: {**shared, "pool_size": pool_size},
                AGAIN: {**shared, "pool_size": 2, "cache": {**shared["cache"], **AGEING}},
                OWN: own,
            },
            "timeouts": {"lease_wait": "20s"},
        }
    )


WRITERS = (DATABASE, DATABASE, AGAIN, OWN)
READERS = (
    *((DATABASE, USER), (DATABASE, USER), (DATABASE, USER), (AGAIN, USER), (AGAIN, USER), (OWN, USER)),
    *((OWN, ANN), (OWN, BEN), (OWN, NOSY)),
)


@attrs.frozen
class Mix:
    """What happens in a run.

    `share_past`: how many of the writes are made past all poolers, which may stay unnoticed for `lag()`
    seconds. `bound`: for so many a write through one pooler may stay unnoticed at another.
    """

    seed: object
    seconds: float
    keep_going: bool = False
    """Not only until the first violation."""
    share_of_schema: float = 0.05
    share_of_kills: float = 0.003
    pause: float = 0.06
    share_past: float = 0.0
    lag: Callable[[], float] = lambda: 0.0
    bound: float = 0.0
    writers: tuple[str, ...] = WRITERS
    readers: tuple[tuple[str, str], ...] = READERS


async def check(
    pg: LocalPostgres, addresses: Sequence[Address], mix: Mix, enough: Callable[[], bool]
) -> Common:
    """Readers and writers of the poolers at these addresses in turn, each of which has all databases of the
    mix. It goes on until that was `enough`.
    """
    ledger = Ledger(lag=mix.lag, bound=mix.bound)
    ledger.begin(contents())
    async with AsyncExitStack() as stack:
        direct = await stack.enter_async_context(superuser(pg))
        killer = await stack.enter_async_context(superuser(pg))
        common = Common(ledger, direct)
        with trio.move_on_after(mix.seconds + LONGER):
            async with trio.open_nursery() as nursery:
                for number, (database, user) in enumerate(mix.readers):
                    own = Random(f"{mix.seed} reader {number}")
                    who = _identity(database, user, own if number % 2 else None)
                    address = addresses[number % len(addresses)]
                    nursery.start_soon(Reader(common, address, own, who).run)
                for number, database in enumerate(mix.writers):
                    past = await stack.enter_async_context(_past(pg)) if mix.share_past else None
                    writer = Writer(
                        common,
                        addresses[number % len(addresses)],
                        Random(f"{mix.seed} writer {number}"),
                        Identity(database, USER),
                        share_of_schema=mix.share_of_schema,
                        share_of_kills=mix.share_of_kills,
                        share_past=mix.share_past,
                        pause=mix.pause,
                        killer=killer,
                        past=past,
                    )
                    nursery.start_soon(writer.run)
                stop = trio.Event() if mix.keep_going else ledger.found
                with trio.move_on_after(mix.seconds):
                    await stop.wait()
                while not (stop.is_set() or enough()):  # noqa: ASYNC110 - it is counted, not told
                    await trio.sleep(0.05)
                nursery.cancel_scope.cancel()
    return common


def _identity(database: str, user: str, chosen_by: Random | None) -> Identity:
    if chosen_by is None:
        return Identity(database, user)
    choice = chosen_by.choice
    return Identity(
        database, user, zone=choice(ZONES), style=choice(STYLES), output=choice(OUTPUTS), path=choice(PATHS)
    )


@asynccontextmanager
async def _past(pg: LocalPostgres) -> AsyncIterator[Peer]:
    """A connection to PostgreSQL itself."""
    peer = await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}")
    async with peer:
        await peer.start({"user": USER, "database": DATABASE, "search_path": PATHS[0]})
        yield peer


async def run(
    pg: LocalPostgres, mix: Mix, *, cache: dict[str, Any] | None = None, pool_size: int = 4
) -> Report:
    """Check one pooler."""
    with tables(pg):
        hits: Counter[str] = Counter()
        oid = int(pg.run_sql("SELECT 'checked.still'::regclass::oid", DATABASE))
        freshness: set[Freshness] = set()

        def of_still(entry: Entry) -> bool:
            if not freshness:
                freshness.update(_freshness(running))
            return any(entry.plan.slots == f.slots_of(frozenset({oid})) for f in freshness)

        async with served(configuration(pg, cache or {}, pool_size), mix.seconds + 2 * LONGER) as running:
            began_at = trio.current_time()
            with _short_doubts(), _hits_of(of_still, hits):
                common = await check(pg, [running.address], mix, lambda: _hits([running]) >= ENOUGH)
            seconds = trio.current_time() - began_at
            return Report.of([running], mix, common, seconds, hits["still"])


@asynccontextmanager
async def _two_edges(
    pg: LocalPostgres, cache: dict[str, Any], pool_size: int
) -> AsyncIterator[tuple[Running, Running]]:
    """Of one origin that has no cache itself. All their clients are one user there."""
    own: dict[str, Any] = {"cache": {"enabled": True, **cache}, "pool_size": pool_size}
    async with (
        collecting(3600) as log,
        serving(origin_table(pg, pool_size=2 * pool_size), log) as origin,
        serving(edge_table(url(origin.address[1]), **own), log, EDGE) as near,
        serving(edge_table(url(origin.address[1]), **own), log, EDGE) as far,
    ):
        yield near, far


async def run_edges(
    pg: LocalPostgres, mix: Mix, *, cache: dict[str, Any] | None = None, pool_size: int = 6
) -> Report:
    """Check two edges of one origin. Readers and writers are of one database and user only."""
    with tables(pg):
        async with _two_edges(pg, cache or {}, pool_size) as edges:
            addresses = [edge.address for edge in edges]
            began_at = trio.current_time()
            with _short_doubts():
                common = await check(pg, addresses, mix, lambda: _hits(edges) >= ENOUGH)
            return Report.of(edges, mix, common, trio.current_time() - began_at)
