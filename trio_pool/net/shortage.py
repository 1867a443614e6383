"""The words for a client that gets no lease, and for the log.

Thousands of clients may give up in the same second, so a pool is looked at once in `FRESH` seconds, and the
log hears of it once in `COMPLAIN_EVERY`.

What a client may read of others is less than what PostgreSQL lets all read in pg_stat_activity. Of another
user's client it gets the process id and how long it has held its lease, but neither the user's name (in a
shared pool users may be tenants who know nothing of each other) nor its address nor what it does. Of its own
user's clients it gets everything. The log has everything of everybody but the constants of statements.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import attrs
import structlog

from trio_pool.errors import SqlState

if TYPE_CHECKING:
    from trio_pool.errors import ServerFault
    from trio_pool.net.leaseholder import Leaseholder
    from trio_pool.net.server import Server
    from trio_pool.pooling.pool import Pool

log = structlog.get_logger()

FRESH: Final = 0.1
COMPLAIN_EVERY: Final = 1.0
"""Seconds, both."""
MOST_HOLDERS: Final = 3
MOST_USERS: Final = 5
"""In the log, of those that wait."""
MOST_TEXT: Final = 80
"""Characters of what a client does, and of any name."""


@attrs.frozen
class Refusal:
    """The error that a client gets instead of a lease."""

    sqlstate: str
    message: str
    detail: str
    hint: str | None = None


@attrs.frozen
class Holder:
    """A client with a lease that lasts, at the moment of a look."""

    process_id: int
    user: str
    peer: str
    held: float
    """Seconds."""
    doing: str
    shown: str
    """`doing` without the constants of a statement."""

    @classmethod
    def of(cls, client: Leaseholder, now: float) -> Holder:
        return cls(
            client.process_id,
            _cut(client.user),
            _cut(client.peer),
            round(now - client.leased_at, 1),
            _cut(client.doing),
            _cut(client.shown),
        )

    def spell(self, user: str) -> str:
        """As a client of this user may see it."""
        if not self.user:
            return f"trio-pool itself for {self.held:.1f} s"
        if self.user != user:
            return f"client {self.process_id} of another user for {self.held:.1f} s"
        who = f'client {self.process_id} of user "{self.user}" from {self.peer}'
        return f"{who} for {self.held:.1f} s: {self.doing}"

    def log(self) -> dict[str, Any]:
        """As the log has it."""
        return {**attrs.asdict(self, filter=lambda field, _: field.name != "shown"), "doing": self.shown}


@attrs.define(eq=False)
class Picture:
    """A pool at one moment."""

    pool: Pool[Server, Leaseholder]
    taken_at: float
    waiting: int
    waited: float
    """Seconds, of the client that waits longest."""
    users: Counter[str]
    """Who waits, by user."""
    holders: tuple[Holder, ...]
    """The longest leases first."""
    _details: dict[str, str] = attrs.field(factory=dict)
    """What clients are told, by user."""

    @classmethod
    def of(cls, pool: Pool[Server, Leaseholder], now: float) -> Picture:
        first = next(iter(pool.waiting), None)
        holders = heapq.nsmallest(MOST_HOLDERS, pool.leased.values(), key=lambda client: client.leased_at)
        return cls(
            pool,
            now,
            waiting=len(pool.waiting),
            waited=0.0 if first is None else now - first.requested_at,
            users=Counter(client.user for client in pool.waiting),
            holders=tuple(Holder.of(client, now) for client in holders),
        )

    def detail(self, user: str) -> str:
        """What a client of this user is told."""
        detail = self._details.get(user)
        if detail is None:
            sentences = (self._size(), self._queue(user), self._bound(user), self._longest(user))
            detail = self._details[user] = " ".join(filter(None, sentences))
        return detail

    def _size(self) -> str:
        pool = self.pool
        text = f"Pool {pool.key} has {_count(pool.servers, 'server connection')} of at most {pool.size}"
        text += f", {len(pool.leased)} leased"
        if pool.pinned:
            text += f", {len(pool.pinned)} pinned"
        if self.crowded:
            assert pool.capacity is not None
            text += f", and all pools of the database have {pool.capacity.servers} of {pool.capacity.most}"
        return f"{text}."

    @property
    def crowded(self) -> bool:
        """Whether it is other pools of the database that leave no room."""
        pool = self.pool
        full = pool.capacity is not None and pool.capacity.servers >= pool.capacity.most
        return full and pool.servers < pool.size

    def _queue(self, user: str) -> str:
        if not self.waiting:
            return ""
        of_whom = f" of {len(self.users)} users" if len(self.users) > 1 else ""
        text = f"{_count(self.waiting, 'client')}{of_whom} {'waits' if self.waiting == 1 else 'wait'}"
        if of_whom and user:
            text += f', {self.users[user]} of user "{_cut(user)}"'
        return f"{text}, the longest for {self.waited:.1f} s."

    def bounded(self, user: str) -> bool:
        """Whether the user has as many leases as it may."""
        return self.pool.shares is not None and not self.pool.shares.admits(user)

    def _bound(self, user: str) -> str:
        if not self.bounded(user):
            return ""
        assert self.pool.shares is not None
        leases = _count(self.pool.shares.held[user], "lease")
        return f'User "{_cut(user)}" has {leases}, and may have no more.'

    def _longest(self, user: str) -> str:
        spelled = "; ".join(holder.spell(user) for holder in self.holders)
        return f"Longest leases: {spelled}." if spelled else ""

    def hint(self, user: str) -> str:
        """What would help."""
        if self.bounded(user):
            return "End the user's transactions sooner, or raise its max_leases or max_leases_per_user."
        if self.crowded:
            return "Raise max_servers, as far as the database allows, or end transactions sooner."
        if self.pool.max_waiting and self.waiting >= self.pool.max_waiting:
            return "Raise pool_size, or max_waiting to let more clients wait, or end transactions sooner."
        if any(holder.doing.startswith("idle") for holder in self.holders):
            return "Bound with the timeouts idle_in_transaction and transaction how long a lease may last."
        return "Raise pool_size, or bound with the timeouts query and transaction how long a lease may last."

    def log(self) -> dict[str, Any]:
        """What the log is told."""
        pool = self.pool
        return {
            "pool": str(pool.key),
            "size": pool.size,
            "servers": pool.servers,
            "leased": len(pool.leased),
            "pinned": len(pool.pinned),
            "waiting": self.waiting,
            "waited": round(self.waited, 1),
            "users": dict(self.users.most_common(MOST_USERS)),
            "holders": [holder.log() for holder in self.holders],
        }


@attrs.define(eq=False)
class Shortage:
    """Refuses leases of one pool."""

    pool: Pool[Server, Leaseholder]
    refused: int = 0
    """Since the start."""
    _told: int = 0
    """Of them, how many the log knows of."""
    _told_at: float = -math.inf
    _picture: Picture | None = None

    def refusal(self, user: str, now: float, failure: ServerFault | None = None) -> Refusal:
        """For a client of this user. `failure` is why the last attempt to open a server failed, None after a
        success.
        """
        self.refused += 1
        picture = self._look(now)
        if now >= self._told_at + COMPLAIN_EVERY:
            log.warning("no lease", refused=self.refused - self._told, **picture.log())
            self._told, self._told_at = self.refused, now
        if failure is not None and not self.pool.leased:
            return Refusal(
                SqlState.CANNOT_CONNECT,
                f"cannot connect to the origin: {failure.message}",
                picture.detail(user),
            )
        return Refusal(
            SqlState.TOO_MANY_CONNECTIONS,
            "failed to acquire a connection from the pool",
            picture.detail(user),
            picture.hint(user),
        )

    def _look(self, now: float) -> Picture:
        picture = self._picture
        if picture is None or now >= picture.taken_at + FRESH:
            picture = self._picture = Picture.of(self.pool, now)
        return picture


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(text: str) -> str:
    """On one line, and not too long."""
    line = " ".join(text[: 4 * MOST_TEXT].split())
    return line if len(line) <= MOST_TEXT else f"{line[: MOST_TEXT - 3]}..."
