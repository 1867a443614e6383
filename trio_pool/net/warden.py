"""What watches over a process' server connections from outside, so that they can be ended and counted when
the process cannot do it any more.

A connection is shown to it as soon as there is one, before anybody logs in on it, and again with what cancels
its statements; it is told when the process has closed it.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.net.dial import CancelKey


class Warden(Protocol):
    """Knows server connections by the permits (pooling/permits.py) that they are opened with."""

    def opened(self, permit: int, descriptor: int) -> None: ...
    def logged_in(self, permit: int, database: str, key: CancelKey) -> None: ...
    def closed(self, permit: int) -> None:
        """All connections of this permit are closed here."""


_watching: ContextVar[tuple[Warden, int] | None] = ContextVar("watching", default=None)


@contextmanager
def watched(warden: Warden, permit: int) -> Iterator[None]:
    """Every connection to an origin that is made in here is of this permit."""
    token = _watching.set((warden, permit))
    try:
        yield
    finally:
        _watching.reset(token)


def connected(descriptor: int) -> None:
    """There is a connection to an origin."""
    watching = _watching.get()
    if watching is not None:
        watching[0].opened(watching[1], descriptor)
