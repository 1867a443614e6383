"""Answers from memory: the cache of one pool, in the data plane.

A request of a client that has nothing else under way is looked up by its very bytes (`serves`), before the
client's machine has seen it. What is not there, but may be kept, becomes a *flight*: the client asks
PostgreSQL as always, and its answer is looked at as it passes. Others who want the same meanwhile wait for
it, instead of asking, too.

What may be kept is a `Plan`, made once per statement from PostgreSQL's parser and catalog (`knowledge`).
What ends an answer before its time is `Freshness`: everything that is written through this daemon counts
there before its client learns that it is written (`Server.tells_of_writes`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

import trio

from trio_pool.cache.flight import Flight
from trio_pool.cache.plan import MARK, NO_DIRECTIVES, Plan, directives_of
from trio_pool.cache.shelf import Shelf, identity
from trio_pool.cache.statuses import CacheStatistics, Status
from trio_pool.cache.store import MOST_CREDIT, Entry, Store, footprint
from trio_pool.config.model import Invalidation
from trio_pool.net.mailbox import Mailbox
from trio_pool.protocol.cacheable import Reason, may_be_momentary, why_not
from trio_pool.protocol.catalog import Doubt
from trio_pool.protocol.reading import Reading, Why
from trio_pool.protocol.statements import Statement
from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.cache.flight import Joiner
    from trio_pool.cache.freshness import Freshness
    from trio_pool.cache.plan import Directives
    from trio_pool.config.model import Cache
    from trio_pool.net.changes import Changes
    from trio_pool.net.client import Client
    from trio_pool.net.origin import OriginPool
    from trio_pool.protocol.catalog import Verdict
    from trio_pool.protocol.client import ClientSession
    from trio_pool.protocol.settings import Settings

BIND: Final = Frontend.BIND
QUERY: Final = Frontend.QUERY
MOST_PLANS: Final = 4096
PATIENCE: Final = 60.0
"""Seconds that somebody waits for another's answer before he asks himself."""
LOOK_EVERY: Final = 0.25
EXPENSIVE: Final = 0.01
"""Seconds. An answer that took longer has credit from the start."""

_WHYS: Final = {
    Why.LONG: Status.OVERSIZED_QUERY,
    Why.AMBIGUOUS: Status.PARSE_ERROR,
    Why.BROKEN: Status.PARSE_ERROR,
    Why.EMPTY: Status.MULTIPLE,
    Why.MANY: Status.MULTIPLE,
    Why.STATEMENT: Status.NOT_A_QUERY,
    Why.WRITES: Status.NOT_A_QUERY,
    Why.INTO: Status.NOT_A_QUERY,
    Why.LOCKS: Status.NOT_A_QUERY,
    Why.SAMPLE: Status.VOLATILE,
    Why.SESSION: Status.VOLATILE,
}
_DOUBTS: Final = {Doubt.VOLATILE: Status.VOLATILE, Doubt.UNREADABLE: Status.VOLATILE}


class CachedReads:
    """Of one pool. The store is the database's, the freshness the origin's."""

    def __init__(self, origin: OriginPool, store: Store, freshness: Freshness, settings: Cache) -> None:
        self.origin = origin
        self.store = store
        self.freshness = freshness
        self.counters = freshness.counters
        self.settings = settings
        self.statistics = CacheStatistics()
        self.valid_until = math.inf
        """Until when it may be supposed that everything has been told (`net.feed_reader`)."""
        self.ended = trio.Event()
        """Set when the pool has another one, or none."""
        self.bypassed = False
        """Whether nobody tells of what others write, so that nothing may be answered from memory."""
        tally = self.statistics.tally
        self._hit = tally(Status.HIT)
        self._stale = tally(Status.STALE)
        self._shared = tally(Status.SHARED)
        self._miss = tally(Status.MISS)
        self._dry_hit = tally(Status.DRY_HIT)
        self._not_lone = tally(Status.MULTIPLE, "not one plain statement")
        self._unknown = Plan(tally(Status.UNKNOWN, "the statement has come for the first time"))
        self._being_asked = Plan(tally(Status.UNKNOWN, "the catalog is being asked"))
        self._momentary = tally(Status.VOLATILE, Reason.PARAMETER)
        self._bypass = tally(Status.BYPASSED, "the stream of changes lags or is broken")
        self._standby = tally(Status.UNCACHEABLE, "a standby, which is behind what has been committed")
        self._shelves: WeakValueDictionary[object, Shelf] = WeakValueDictionary()
        self._plans: dict[Reading, Plan] = {}
        self._directed: dict[bytes, Plan] = {}
        """By text, of statements with directives."""
        self._unreadable: dict[Why, Plan] = {}
        self._version = -1
        """Of the catalog from which the plans were made."""
        self._awaited: dict[Flight, None] = {}
        """Flights for whose answer somebody else waits, too."""
        self._joins = Mailbox()
        self._hits_until_verified = 0.0
        self.covers: Callable[[frozenset[int]], bool] = lambda tables: True
        """Whether somebody tells of all changes to these tables."""
        self.changes: Changes | None = None
        """What tells of changes made elsewhere; None if nothing does."""

    def goes_on(self, store: Store, freshness: Freshness, settings: Cache) -> bool:
        """Take other settings; False if it takes another one."""
        before = self.settings
        if (store, freshness) != (self.store, self.freshness) or (
            (before.invalidation, before.strict) != (settings.invalidation, settings.strict)
        ):
            return False
        self.settings = settings
        self.forget_plans()
        return True

    def follow(self, changes: Changes | None) -> None:
        """Answer only what `changes` vouches for; None if nobody has to."""
        if changes is not self.changes:
            if self.changes is not None:
                self.changes.leave(self)
            self.changes = changes
            if changes is not None:
                changes.join(self)

    # -- data plane ------------------------------------------------------------------------------------------

    def serves(self, client: Client, data: bytes) -> bool:
        """Whether what has come from a client without a server is answered from memory, or waits for an
        answer that is under way. Hot path.
        """
        session = client.session
        if not session.is_unencumbered:
            self._not_lone.count += 1
            return False
        shelf = client.shelf
        if (
            shelf is None
            or client.shelf_for is not session.settings
            or client.shelf_told is not session.reported
        ):
            shelf = self._shelf_of(client)
        key = self._key_of(session, data)
        if key is None:
            self._not_lone.count += 1
            return False
        entry = shelf.entries.get(key)
        if entry is not None and self._serves_from(entry, client, data):
            return True
        return self._misses(client, shelf, key, data)

    def _serves_from(self, entry: Entry, client: Client, data: bytes) -> bool:
        """Hot path."""
        now = client.poller.now
        seen = self.counters.any
        if entry.seen != seen:
            if self.freshness.stamp(entry.plan.slots) != entry.stamp:
                self.store.drop(entry)
                return False
            entry.seen = seen
        if now >= entry.stale_until:
            self.store.drop(entry)
            return False
        session = client.session
        if self.bypassed or now >= self.valid_until or client.transport.pending:
            return False
        if self.settings.dry_run:
            self._dry_hit.count += 1
            return False
        client.heard_at = client.active_at = now
        session.was_answered(data)
        client.write(entry.reply)
        if entry.credit < MOST_CREDIT:
            entry.credit += 1
        if now < entry.fresh_until:
            self._hit.count += 1
            if self.settings.verify:
                self._verify_some(entry)
        else:
            self._stale.count += 1
            if not entry.refreshing:
                entry.refreshing = True
                self.origin.refresh(entry)
        return True

    def _verify_some(self, entry: Entry) -> None:
        """One in so many is asked again."""
        self._hits_until_verified -= self.settings.verify
        if self._hits_until_verified <= 0.0 and not entry.refreshing:
            self._hits_until_verified += 1.0
            entry.refreshing = True
            self.origin.refresh(entry)

    @staticmethod
    def _key_of(session: ClientSession, data: bytes) -> bytes | None:
        """What the request is found by; None if it certainly is none that is kept. Hot path.

        A prepared statement goes by our name for its content.
        """
        if data[0] != BIND:
            return data
        if len(data) < 8 or data[5] != 0 or session.statements is None:
            return None
        end = data.find(b"\0", 6)
        statement = session.statements.get(data[6:end])
        return statement.name + data[end:] if isinstance(statement, Statement) else None

    def _shelf_of(self, client: Client) -> Shelf:
        session = client.session
        client.shelf_for, client.shelf_told = session.settings, session.reported
        client.shelf = self.shelf(session.settings, session.reported)
        return client.shelf

    def shelf(self, settings: Settings, reported: Settings) -> Shelf:
        """For all clients of the pool with these settings."""
        who = identity(self.origin.pool.key, dict(settings.items()), dict(reported.items()))
        shelf = self._shelves.get(who)
        if shelf is None:
            on_standby = reported.get("in_hot_standby") == "on"
            shelf = self._shelves[who] = Shelf(settings, reported, on_standby)
        return shelf

    def _misses(self, client: Client, shelf: Shelf, key: bytes, data: bytes) -> bool:
        """Let the client ask PostgreSQL, or wait for somebody who does. True if it waits."""
        session = client.session
        text = session.lone(data)
        if text is None:
            self._not_lone.count += 1
            return False
        plan = self._plan(text)
        if plan.refused is not None:
            plan.refused.count += 1
            return False
        if data[0] != QUERY and may_be_momentary(data):
            self._momentary.count += 1
            return False
        if self.bypassed or client.poller.now >= self.valid_until:
            self._bypass.count += 1
            return False
        if shelf.on_standby and self.settings.invalidation is not Invalidation.TTL:
            self._standby.count += 1
            return False
        stamp = self.freshness.stamp(plan.slots)
        flight = shelf.flights.get(key)
        if flight is not None and flight.stamp == stamp and not flight.spoiled:
            self._shared.count += 1
            self._awaited[flight] = None
            self._joins.wake()
            client.joins(flight, data)
            return True
        statement = None
        if data[0] == BIND and session.statements is not None:
            statement = session.statements.get(data[6 : data.find(b"\0", 6)])
        if client.flight is not None:
            self.abandoned(client.flight)
        flight = Flight(
            shelf,
            key,
            plan,
            stamp,
            client.poller.now,
            limit=self.largest,
            statement=statement if isinstance(statement, Statement) else None,
        )
        if not self.settings.dry_run:
            shelf.flights[key] = flight
        client.flight = flight
        self._miss.count += 1
        return False

    @property
    def largest(self) -> int:
        """Bytes of the largest answer that is kept."""
        return min(self.settings.max_result_size, self.store.max_size // 2)

    # -- what may be kept ------------------------------------------------------------------------------------

    def _plan(self, text: bytes) -> Plan:
        """For one statement. Hot path of what is not kept."""
        knowledge = self.origin.knowledge
        knowledge.notice()
        if self._version != knowledge.catalog.version:
            self.forget_plans()
        directed = MARK in text
        plan = self._directed.get(text) if directed else None
        if plan is not None:
            return plan
        reading = knowledge.reading_of(text)
        if reading is None:
            return self._unknown
        if not isinstance(reading, Reading):
            return self._plan_of_unreadable(reading.why)
        plan = None if directed else self._plans.get(reading)
        if plan is not None:
            return plan
        verdict = knowledge.verdict(reading)
        if verdict is None and not knowledge.is_unanswered(reading):
            return self._being_asked
        plan = self._made(reading, verdict, directives_of(text) if directed else NO_DIRECTIVES)
        if len(self._plans) + len(self._directed) >= MOST_PLANS:
            self.forget_plans()
        if directed:
            self._directed[text] = plan
        else:
            self._plans[reading] = plan
        return plan

    def _plan_of_unreadable(self, why: Why) -> Plan:
        plan = self._unreadable.get(why)
        if plan is None:
            plan = self._unreadable[why] = self._refusal(_WHYS.get(why, Status.UNCACHEABLE), why.value)
        return plan

    def _refusal(self, status: Status, why: str) -> Plan:
        return Plan(self.statistics.tally(status, why))

    def _made(self, reading: Reading, verdict: Verdict | None, directives: Directives) -> Plan:
        if directives.wrong:
            return self._refusal(Status.DISABLED, "its comment says something that is no directive")
        if directives.off:
            return self._refusal(Status.DISABLED, "its comment says cache=off")
        if verdict is None:
            return self._refusal(Status.UNCACHEABLE, "the catalog could not be asked")
        if verdict.doubt is not None:
            doubt = verdict.doubt
            return self._refusal(_DOUBTS.get(doubt, Status.UNCACHEABLE), doubt.value)
        why = why_not(reading, verdict)
        if why:
            return self._refusal(Status.UNCACHEABLE if why is Reason.CATALOGS else Status.VOLATILE, why)
        if not self.covers(verdict.tables):
            return self._refusal(Status.UNCACHEABLE, "a table whose changes are not in the stream")
        settings = self.settings
        return Plan(
            None,
            max_age=settings.max_age if directives.max_age is None else directives.max_age,
            stale=settings.stale_while_revalidate if directives.stale is None else directives.stale,
            slots=self.freshness.slots_of(verdict.tables, directives.tags),
        )

    def forget_plans(self) -> None:
        """The schema, or what may be kept, has changed."""
        self._version = self.origin.knowledge.catalog.version
        self._plans.clear()
        self._directed.clear()

    # -- answers that arrive ---------------------------------------------------------------------------------

    def landed(self, flight: Flight, now: float) -> None:
        """Whoever asked has had the answer: keep it, and hand it to those who wait for the same."""
        reply = flight.reply
        if reply:
            self.keep(flight, reply, now)
        elif flight.spoiled:
            status = Status.OVERSIZED_RESULT if flight.size > flight.limit else Status.UNCACHEABLE
            self.statistics.tally(status, flight.spoiled).count += 1
        for joiner in self._taken_off(flight):
            if reply:
                joiner.landed(reply)
            else:
                joiner.forsaken()

    def abandoned(self, flight: Flight) -> None:
        """Whoever asked will not get the answer."""
        for joiner in self._taken_off(flight):
            joiner.forsaken()

    def _taken_off(self, flight: Flight) -> list[Joiner]:
        """Nobody joins it any more. Returns who has."""
        if flight.shelf.flights.get(flight.key) is flight:
            del flight.shelf.flights[flight.key]
        self._awaited.pop(flight, None)
        joiners = list(flight.joiners)
        flight.joiners.clear()
        return joiners

    def keep(self, flight: Flight, reply: bytes, now: float) -> bool:
        """Keep an answer unless something was written since it was asked for. True if it is kept."""
        plan = flight.plan
        seen = self.counters.any
        if self.freshness.stamp(plan.slots) != flight.stamp or not self.freshness.is_settled(plan.slots, now):
            self.statistics.overtaken += 1
            return False
        entry = Entry(
            flight.shelf,
            flight.key,
            reply,
            fresh_until=flight.began_at + plan.max_age,
            stale_until=flight.began_at + plan.max_age + plan.stale,
            plan=plan,
            stamp=flight.stamp,
            seen=seen,
            credit=1 if now - flight.began_at >= EXPENSIVE else 0,
            size=footprint(flight.key, reply),
            statement=flight.statement,
        )
        self.store.put(entry, now)
        self.statistics.stored += 1
        return True

    # -- control plane ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Nobody waits for ever for another's answer."""
        while True:
            await self._joins.wait()
            while self._awaited:
                await trio.sleep(LOOK_EVERY)
                self._look(self.origin.poller.tick())

    def _look(self, now: float) -> None:
        patience = min(PATIENCE, self.origin.database.timeouts.query)
        for flight in list(self._awaited):
            if now - flight.began_at > patience:
                self.abandoned(flight)
