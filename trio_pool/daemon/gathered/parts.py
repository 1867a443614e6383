"""What can be asked of a process, and how the answers travel: as slices, each of them pickled.

Both ends are the same program, one the child of the other; nobody else can write into what is between them.
"""

from __future__ import annotations

import enum
import pickle
from typing import TYPE_CHECKING, Any

import attrs
import trio

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

GATHER, ACT = "gather", "act"
"""What is asked for: parts of a census, and that a command is done. Of the parent: in all workers."""
ITEMS_AT_ONCE = 50
"""Items that are written or read before others have a turn: about a millisecond."""

Items = list[Any]
"""Values of `seen`, or pairs of a name and a value: `Part` says which."""


class Part(enum.StrEnum):
    """Parts of a census, by the name of what gives them."""

    PROCESS = "process"
    ORIGINS = "origins"
    POOLS = "pools"
    CLIENTS = "clients"
    SERVERS = "servers"
    CONSOLES = "consoles"
    PREPARED = "prepared"
    LEASES = "leases"
    WAITING = "waiting"
    MEMORY = "memory"
    DATABASES = "databases"
    """Names."""
    USERS = "users"
    """Pairs of a user and the number of its clients."""
    STATS = "stats"
    """Pairs of a database and its `Stats`."""
    SERIES = "series"
    """Pairs of labels and what the ledger has for them."""
    RESOURCES = "resources"
    CACHES = "caches"
    TUNNELS = "tunnels"


@attrs.frozen
class Answered:
    """What one worker has said."""

    index: int
    restarts: int
    """Processes that were in its place before."""
    items: Mapping[Part, Items]


@attrs.frozen
class Sealed:
    """The same, as it travels. It is passed on unopened."""

    index: int
    restarts: int
    slices: Mapping[Part, Sequence[bytes]]

    async def open(self) -> Answered:
        """Takes turns with everybody else."""
        opened = {part: await unpacked(slices) for part, slices in self.slices.items()}
        return Answered(self.index, self.restarts, opened)


async def packed(items: Iterable[Any]) -> list[bytes]:
    """Slices of what comes, made one by one. Takes turns with everybody else."""
    slices: list[bytes] = []
    some: Items = []
    for item in items:
        some.append(item)
        if len(some) == ITEMS_AT_ONCE:
            slices.append(pickle.dumps(some, pickle.HIGHEST_PROTOCOL))
            some = []
            await trio.lowlevel.checkpoint()
    if some:
        slices.append(pickle.dumps(some, pickle.HIGHEST_PROTOCOL))
    return slices


def unpacked_at_once(slices: Iterable[bytes]) -> Items:
    """The items, where nobody has to wait for it."""
    return [item for some in slices for item in pickle.loads(some)]


async def unpacked(slices: Iterable[bytes]) -> Items:
    """The items, in their order."""
    items: Items = []
    for some in slices:
        items += pickle.loads(some)
        await trio.lowlevel.checkpoint()
    return items
