"""How many leases each user of a pool may hold at the same time, and who is the first in the queue that may
have one more.

The queue of the pool is in order of arrival. Looking through it for somebody whose user is below its bound
would cost most when one user has filled it, so there is one more queue for each user, and a heap of the users
that are below their bound, ordered by the arrival of their first client. The heap is tidied when it is looked
at: an entry counts only while it tells of a user below its bound and of the very client that is first in its
queue.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_TIDY = 64
"""Entries of the heap beyond two for each user, at which it is made anew. Arbitrary."""


class Sharer(Protocol):
    """A client, as far as shares go."""

    @property
    def user(self) -> str:
        """Whose bound holds for it; it stays the same while it waits and while it has a lease."""


W = TypeVar("W", bound=Sharer)


@attrs.define(eq=False)
class Shares(Generic[W]):
    """`bound_of` tells how many leases a user may hold, 0 for any number."""

    bound_of: Callable[[str], int]
    held: Counter[str] = attrs.field(factory=Counter)
    """Leases by user; nobody has 0."""
    _queues: dict[str, OrderedDict[W, int]] = attrs.field(factory=dict)
    """Who waits, by user, with the number of its arrival; no queue is empty."""
    _heads: list[tuple[int, str]] = attrs.field(factory=list)
    _arrivals: Iterator[int] = attrs.field(factory=itertools.count)

    def admits(self, user: str) -> bool:
        """Whether the user may have one more lease."""
        bound = self.bound_of(user)
        return not bound or self.held[user] < bound

    def take(self, user: str) -> bool:
        """A lease for the user, counted from now on; False if it has as many as it may."""
        if not self.admits(user):
            return False
        self.held[user] += 1
        return True

    def give_back(self, user: str) -> None:
        """One of the user's leases is over."""
        was_admitted = self.admits(user)
        self.held[user] -= 1
        if not self.held[user]:
            del self.held[user]
        if not was_admitted:
            self._push(user)

    def waiting(self, user: str) -> int:
        """How many clients of the user wait."""
        queue = self._queues.get(user)
        return 0 if queue is None else len(queue)

    def wait(self, client: W) -> None:
        """The client is the last of those that wait."""
        queue = self._queues.setdefault(client.user, OrderedDict())
        queue[client] = next(self._arrivals)
        if len(queue) == 1:
            self._push(client.user)

    def forget(self, client: W) -> None:
        """The client waits no more."""
        queue = self._queues[client.user]
        was_first = next(iter(queue)) is client
        del queue[client]
        if not queue:
            del self._queues[client.user]
        elif was_first:
            self._push(client.user)

    def first(self) -> W | None:
        """Who waits longest of those whose users may have one more lease."""
        heads = self._heads
        while heads:
            arrival, user = heads[0]
            queue = self._queues.get(user)
            if queue is not None and self.admits(user):
                client, arrived = next(iter(queue.items()))
                if arrived == arrival:
                    return client
            heapq.heappop(heads)
        return None

    def _push(self, user: str) -> None:
        """The first of the user's queue has changed, or whether it is admitted has."""
        queue = self._queues.get(user)
        if queue is None or not self.admits(user):
            return
        heapq.heappush(self._heads, (next(iter(queue.values())), user))
        if len(self._heads) > 2 * len(self._queues) + _TIDY:
            self._heads = [
                (next(iter(queue.values())), user)
                for user, queue in self._queues.items()
                if self.admits(user)
            ]
            heapq.heapify(self._heads)

    def check(self, holders: Iterable[W], waiting: Iterable[W]) -> None:
        """Assert that these clients are counted, and nobody else."""
        assert self.held == Counter(client.user for client in holders)
        assert all(self.held.values())
        in_order = list(waiting)
        numbered = [(arrival, client) for queue in self._queues.values() for client, arrival in queue.items()]
        assert [client for _, client in sorted(numbered, key=lambda item: item[0])] == in_order
        assert all(client.user == user for user, queue in self._queues.items() for client in queue)
        assert self.first() is next((client for client in in_order if self.admits(client.user)), None)
