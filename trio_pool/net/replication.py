"""Learning of every write to a database, whoever makes it: its logical replication, consumed by one task.

Nothing is stored, so everything that has come is confirmed at once, and the slot is a temporary one: it goes
with the connection, however that ends. What was missed in between does not matter, because with every new
stream all cached readings go.

Three things must be known to answer from memory, and this is how.

**That nothing is missing.** A walsender does not say how far behind it is. So the second connection asks the
server, a few times in a second, how far its WAL has been flushed. When the stream has come to that position,
it is *proven* that at the time of the question nothing was missing.

**That a reading after a change sees the change.** A commit is streamed as soon as its record is flushed,
which is before other sessions can see it; with a synchronous standby, long before. A reading in between is an
old one. So every change is told twice: when it comes, and when a snapshot of the server has shown that its
transaction has ended. For the same reason those transactions are suspect that run while the stream begins:
when one has ended, everything goes once more.

**Which tables it holds for**: replication_upkeep.py.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

import attrs
import structlog
import trio

from trio_pool.errors import Reason, ServerFault, SqlState, internal_fault
from trio_pool.net.backoff import Backoff
from trio_pool.net.dial import OriginAccess
from trio_pool.net.mailbox import Mailbox
from trio_pool.net.replication_connection import Asking, Streaming
from trio_pool.net.replication_slot import bound, explained, limited, make_slot, slot_name
from trio_pool.net.replication_state import Phase, StreamState
from trio_pool.net.replication_upkeep import Unusable, Upkeep
from trio_pool.protocol import publication
from trio_pool.protocol.pgoutput import Committed, Ended, Keepalive, read_lsn
from trio_pool.protocol.running import Snapshot
from trio_pool.protocol.watch import EVERYTHING

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from trio_pool.config.model import Cache, Database

__all__ = ["EVERYTHING", "ChangeStream", "Phase", "StreamState", "replication_access"]

log = structlog.get_logger()

SILENCE = 10.0
"""Seconds without a word of a walsender that was asked several times. Then the connection is given up."""
UPKEEP = 10.0
"""Seconds between looks at the catalog. What DDL does elsewhere is unknown for so long."""
UNUSABLE = 30.0
"""Seconds between attempts where the origin must be set up differently."""
LEAVING = 1.0
"""Seconds for removing the publication."""
SETTLING = 0.005
"""Seconds between questions, at least; doubled up to the next while changes cannot be seen yet."""
SETTLING_LONG = 0.05
UNSEEN = 0.02
"""Seconds that a question takes, most likely."""
MOST_PROOFS = 64


def replication_access(database: Database, tls_context: ssl.SSLContext | None = None) -> OriginAccess:
    """What it takes to stream a database's changes. Raises OSError if a certificate cannot be loaded."""
    origin, cache = database.origin, database.cache
    user, password = cache.replication_user, cache.replication_password
    if user is None:
        user, password = origin.user, origin.password
    assert user is not None, "as config.checks demands"
    parameters = {"application_name": "trio-pool changes", **origin.parameters}
    origin = attrs.evolve(origin, parameters=parameters)
    secret = None if password is None else password.reveal()
    return OriginAccess.to(attrs.evolve(database, origin=origin), user, secret, tls_context)


class ChangeStream:
    """The changes of one database. `run` is its task; everything else is for the data plane.

    `on_change` gets the OIDs of tables of which nothing that was read before may be used any more; the OID 0
    (`EVERYTHING`) stands for all. `on_state` is called when it begins or ends to be `fresh`, when other
    tables are covered, and when there is another error. `on_doubt` gets tables of which nothing that is read
    within so many seconds is to be kept, because a change to them cannot be seen yet. `on_proof` is called
    when `valid_until` is another time. None may await or raise.
    """

    def __init__(
        self,
        access: OriginAccess,
        *,
        name: str,
        cache: Cache,
        on_change: Callable[[frozenset[int]], None],
        on_state: Callable[[StreamState], None],
        on_doubt: Callable[[frozenset[int], float], None] = lambda tables, seconds: None,
        on_proof: Callable[[], None] = lambda: None,
    ) -> None:
        self.access = access
        self.name = name
        self.cache = cache
        self.on_change = on_change
        self.on_state = on_state
        self.on_doubt = on_doubt
        self.on_proof = on_proof
        self.commits = 0
        self.good_at = trio.current_time()
        """The last time of which it is proven that nothing was missing; before that, when this began."""
        self._phase = Phase.CONNECTING
        self._error: str | None = None
        self._slot: str | None = None
        self._upkeep: Upkeep | None = None
        self._since: float | None = None
        self._asking_pid = 0
        self._mailbox = Mailbox()
        self._proof = Mailbox()
        self._schema_changed = False
        self._begin_session()

    def _begin_session(self) -> None:
        self._position = 0
        self._flushed = 0
        self._proven_at: float | None = None
        self._heard_at: float | None = None
        self._server_time = 0.0
        self._proofs: deque[tuple[int, float]] = deque()
        self._unsettled: list[tuple[int, frozenset[int]]] = []
        self._suspects: frozenset[int] = frozenset()

    # -- for the cache ---------------------------------------------------------------------------------------

    def covers(self, tables: frozenset[int]) -> bool:
        """Whether changes to all of these are streamed."""
        covered = self.covered
        return covered is not None and tables <= covered

    @property
    def covered(self) -> frozenset[int] | None:
        """The tables whose changes are streamed; None without a stream. The same object until they change."""
        return None if self._since is None or self._upkeep is None else self._upkeep.covered

    @property
    def valid_until(self) -> float:
        """Until when it is `fresh`."""
        if self._since is None or self._proven_at is None:
            return -math.inf
        return self._proven_at + self.cache.max_lag

    def fresh(self, now: float) -> bool:
        """Whether it is proven that nothing was missing `max_lag` ago."""
        return now <= self.valid_until

    def schema_changed(self) -> None:
        """Look at the catalog at once: DDL has passed."""
        self._schema_changed = True
        self._mailbox.wake()

    @property
    def state(self) -> StreamState:
        now = trio.current_time()
        up = self._since is not None
        proven = self._proven_at
        covered = self._upkeep.covered if up and self._upkeep is not None else frozenset[int]()
        return StreamState(
            self._phase,
            self.cache.publication,
            self._slot,
            self._since,
            max(0, self._flushed - self._position) if up else None,
            now - proven if up and proven is not None else None,
            self._heard_at,
            self.commits,
            len(covered),
            {} if self._upkeep is None else self._upkeep.schema.reasons(covered),
            self._error,
        )

    # -- the task --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Stream until cancelled, whatever the origin does; then remove the publication."""
        backoff = Backoff()
        try:
            while True:
                fault = await self._stream_once()
                if self._since is not None:
                    backoff.reset()
                self._end(fault)
                if isinstance(fault, Unusable):
                    await trio.sleep(UNUSABLE)
                else:
                    await backoff.wait()
        finally:
            self._since = None
            with trio.move_on_after(LEAVING, shield=True):
                await self._withdraw()

    async def _stream_once(self) -> ServerFault:
        """One stream, from the connection to its end."""
        self._begin_session()
        try:
            await self._session()
        except ServerFault as fault:
            return explained(fault, self.access.startup_parameters["user"])
        except Exception as error:
            log.error("internal error in a stream of changes", database=self.name, exc_info=error)
        return internal_fault()

    async def _session(self) -> None:
        with limited("connecting"):
            asking = await Asking.open(self.access)
        self._asking_pid = asking.process_id
        try:
            with limited("the publication"):
                upkeep = self._upkeep = await self._prepared(asking)
            with limited("connecting"):
                streaming = await Streaming.open(self.access, asking.dialled)
            try:
                await self._begin(streaming, asking)
                await self._follow(streaming, upkeep)
            finally:
                streaming.close()
        finally:
            asking.close()

    async def _prepared(self, asking: Asking) -> Upkeep:
        ((level, standby, version, role),) = await asking.rows(publication.ABOUT_SERVER)
        if standby == "t":
            raise Unusable("the server is a standby: changes are streamed from a primary only")
        if level != "logical":
            raise Unusable(
                f"wal_level is {level}: set wal_level = logical in postgresql.conf and restart PostgreSQL"
            )
        upkeep = Upkeep(self.cache.publication, asking, role or "", int(version or 0), self.on_change)
        await upkeep.prepare()
        return upkeep

    async def _begin(self, streaming: Streaming, asking: Asking) -> None:
        """Make a slot and start. Waits for transactions, so it has no time limit, but one of WAL."""
        slot = self._slot = slot_name(self.cache)
        start = await make_slot(streaming, asking, slot, self.cache.max_slot_wal, self._look)
        self._position = self._flushed = start
        with limited("starting"):
            if not await asking.rows(publication.HELD_BACK, slot):
                raise ServerFault("two connections have led to two servers", reason=Reason.SERVER_UNSUITABLE)
            await streaming.start(slot, self.cache.publication)
            ((text,),) = await asking.rows(publication.SNAPSHOT)
        self._suspects = Snapshot.parse(text or "").running

    def _look(self, why: str) -> None:
        if self._phase is not Phase.WAITING or self._error != why:
            self._phase, self._error = Phase.WAITING, why
            log.info("changes cannot be streamed yet", database=self.name, why=why)
            self.on_state(self.state)

    async def _follow(self, streaming: Streaming, upkeep: Upkeep) -> None:
        """Until the stream breaks. Raises `ServerFault`, and never ends otherwise."""
        now = trio.current_time()
        self._since = self._heard_at = now
        self._error = None
        self.on_change(EVERYTHING)
        log.info("changes are streamed", database=self.name, slot=self._slot, tables=len(upkeep.covered))
        faults: list[ServerFault] = []
        async with trio.open_nursery() as nursery:

            async def guarded(task: Callable[[], object]) -> None:
                try:
                    await task()  # type: ignore[misc]
                except ServerFault as fault:
                    faults.append(fault)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(guarded, lambda: self._receive(streaming))
            nursery.start_soon(guarded, lambda: self._ask(streaming, upkeep))
            nursery.start_soon(self._watch)
        raise faults[0]

    # -- what comes ------------------------------------------------------------------------------------------

    async def _receive(self, streaming: Streaming) -> None:
        while True:
            events = await streaming.receive()
            self._heard_at = trio.current_time()
            reply = False
            for event in events:
                match event:
                    case Committed():
                        self._take(event)
                    case Keepalive():
                        self._reach(event.position)
                        self._server_time = event.at
                        reply = reply or event.reply_requested
                    case Ended(error):
                        summary = "the server has ended the stream" if error is None else error.summary
                        state = SqlState.CONNECTION_FAILURE if error is None else error.sqlstate
                        raise ServerFault(summary, state, reason=Reason.SERVER_CLOSED)
            if reply:
                await streaming.confirm(self._position, self._server_time, reply=False)

    def _take(self, commit: Committed) -> None:
        self.commits += 1
        self._server_time = commit.at
        if commit.tables:
            assert self._upkeep is not None
            schema = self._upkeep.schema
            if commit.tables <= schema.tables.keys():
                tables = frozenset[int]().union(*map(schema.above, commit.tables))
            else:  # a table that is newer than the last look at the catalog
                tables = EVERYTHING
                self.schema_changed()
            self.on_doubt(tables, UNSEEN)
            self.on_change(tables)
            self._unsettled.append((commit.xid, tables))
            self._mailbox.wake()
        self._reach(commit.end)

    def _reach(self, position: int) -> None:
        self._position = max(self._position, position)
        while self._proofs and self._proofs[0][0] <= self._position:
            self._proven_at = self.good_at = self._proofs.popleft()[1]
            self._proof.wake()
            self.on_proof()

    # -- what is asked ---------------------------------------------------------------------------------------

    async def _ask(self, streaming: Streaming, upkeep: Upkeep) -> None:
        interval = self.cache.max_lag / 4
        regular = upkeep_at = trio.current_time()
        upkeep_at += UPKEEP
        pause = SETTLING
        while True:
            began = trio.current_time()
            with limited("a question"):
                waiting = len(self._unsettled)
                snapshot = await self._probe(upkeep)
                more = await upkeep.settle(snapshot)
                if self._schema_changed or began >= upkeep_at:
                    self._schema_changed = False
                    upkeep_at = began + UPKEEP
                    covered = upkeep.covered
                    await upkeep.refresh()
                    assert self._slot is not None
                    await bound(upkeep.asking, self._slot, self.cache.max_slot_wal)
                    more = more or covered != upkeep.covered
                if began >= regular:
                    regular = began + interval
                    await self._keep_moving(streaming, upkeep.asking, began)
            if more:
                self.on_state(self.state)
            await trio.sleep_until(began + SETTLING)
            longest = SETTLING_LONG if self._unsettled else interval
            pause = SETTLING if len(self._unsettled) < waiting else min(2 * pause, longest)
            if self._unsettled:
                tables = frozenset[int]().union(*(tables for _, tables in self._unsettled))
                self.on_doubt(tables, pause + UNSEEN)
                await trio.sleep(pause)
            else:
                with trio.move_on_at(min(regular, began + pause) if upkeep.settling else regular):
                    await self._mailbox.wait()

    async def _probe(self, upkeep: Upkeep) -> Snapshot:
        began, asking = trio.current_time(), upkeep.asking
        rows = await asking.rows(publication.PROBE, self.cache.publication)
        ((flushed, text, there),) = rows
        if there != upkeep.identity:
            raise ServerFault("the publication is another one", reason=Reason.SERVER_UNSUITABLE)
        self._flushed = read_lsn(flushed or "")
        snapshot = Snapshot.parse(text or "")
        if gone := self._suspects - snapshot.running:
            self._suspects -= gone
            self.on_change(EVERYTHING)
        self._settle(snapshot)
        if len(self._proofs) < MOST_PROOFS:
            self._proofs.append((self._flushed, began))
        self._reach(self._position)
        return snapshot

    def _settle(self, snapshot: Snapshot) -> None:
        """Tell once more of those changes that can be seen now."""
        if not self._unsettled:
            return
        seen: set[int] = set()
        left: list[tuple[int, frozenset[int]]] = []
        for xid, tables in self._unsettled:
            if snapshot.has_seen(xid):
                seen |= tables
            else:
                left.append((xid, tables))
        self._unsettled = left
        if seen:
            self.on_change(frozenset(seen))

    async def _keep_moving(self, streaming: Streaming, asking: Asking, now: float) -> None:
        """Ask the walsender how far it is."""
        assert self._heard_at is not None
        if now - self._heard_at > SILENCE:
            raise ServerFault(f"the server has been silent for {SILENCE:.0f} s", reason=Reason.SERVER_CLOSED)
        await streaming.confirm(self._position, self._server_time, reply=True)
        # WAL is also flushed by pages, and no walsender gets beyond the last whole record.
        if self._proofs and now - self._proofs[0][1] > self.cache.max_lag / 2:
            await asking.rows(publication.NUDGE)

    async def _watch(self) -> None:
        """Tell when it begins and ends to be fresh."""
        assert self._since is not None
        with trio.move_on_at(self._since + self.cache.max_lag):
            await self._proof.wait()
        while True:
            fresh = self.fresh(trio.current_time())
            phase = Phase.STREAMING if fresh else Phase.LAGGING
            if phase is not self._phase:
                self._phase = phase
                if not fresh:
                    log.warning("changes come too late", database=self.name, behind=self.state.behind_bytes)
                self.on_state(self.state)
            if fresh:
                assert self._proven_at is not None
                await trio.sleep_until(self._proven_at + self.cache.max_lag + 0.001)
            else:
                await self._proof.wait()

    # -- the end ---------------------------------------------------------------------------------------------

    def _end(self, fault: ServerFault) -> None:
        if self._since is not None or self._error != fault.message:
            log.warning(
                "changes are not streamed", database=self.name, sqlstate=fault.sqlstate, error=fault.message
            )
        self._since = self._slot = None
        self._phase, self._error = Phase.BROKEN, fault.message
        self.on_state(self.state)

    async def _withdraw(self) -> None:
        """Remove the publication if it is ours and nobody else needs it."""
        upkeep = self._upkeep
        if upkeep is None or not upkeep.managed:
            return
        try:
            asking = await Asking.open(self.access)
            try:
                await asking.run(publication.PIN)
                if not await asking.rows(publication.attended(upkeep.name), str(self._asking_pid)):
                    # Who attends from now on finds it gone, and makes another.
                    await asking.run(publication.await_unattended(upkeep.name))
                    await asking.run(publication.drop(upkeep.name))
            finally:
                asking.close()
        except ServerFault as fault:
            log.warning("the publication stays", database=self.name, error=fault.message)
