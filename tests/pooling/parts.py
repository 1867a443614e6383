"""Servers and clients, as far as a pool knows, and pools of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from trio_pool.pooling.pool import Pool, PoolKey, ServerState
from trio_pool.pooling.shares import Shares

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from trio_pool.pooling.capacity import Capacity

KEY = PoolKey("app", "alice")


@attrs.define(eq=False)
class Server:
    """A server connection."""

    state: ServerState = ServerState.CLOSED


@attrs.define(eq=False)
class Client:
    """A client that remembers which server it was given."""

    user: str = ""
    server: Server | None = None

    def granted(self, server: Server) -> None:
        self.server = server


AnyPool: TypeAlias = Pool[Server, Client]


def pool(
    size: int = 2,
    *,
    min_size: int = 0,
    max_waiting: int = 0,
    grow: Callable[[], None] | None = None,
    bounds: Mapping[str, int] | None = None,
    capacity: Capacity | None = None,
) -> AnyPool:
    """With `bounds`, nobody else is bounded."""
    shares: Shares[Client] | None = None if bounds is None else Shares(lambda user: bounds.get(user, 0))
    subject: AnyPool = Pool(
        KEY,
        size,
        min_size,
        max_waiting,
        grow or (lambda: None),
        shares,
        capacity,
        evict=lambda server: subject.left(server),
    )
    return subject


def join(to: AnyPool) -> Server:
    """A server logs in."""
    slot, server = Server(), Server()
    to.connecting(slot)
    to.joined(slot, server)
    return server
