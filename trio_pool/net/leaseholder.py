"""What a server needs to know of whoever leases it: a client, or an errand of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.cache.freshness import Freshness
    from trio_pool.errors import Reason, ServerFault
    from trio_pool.net.connection import Connection
    from trio_pool.net.server import Server
    from trio_pool.protocol.inspection import Inspection
    from trio_pool.wire.messages import ErrorFields


class Leaseholder(Protocol):
    """The other half of a server's lease. Every method is synchronous and called from the data plane."""

    process_id: int
    requested_at: float
    """Since when it waits, while it does."""
    leased_at: float
    user: str
    peer: str

    @property
    def doing(self) -> str:
        """What it does, in a few words or as its statement."""

    @property
    def shown(self) -> str:
        """The same, without the constants of the statement."""

    @property
    def ending(self) -> bool:
        """Whether it only waits for its last replies."""

    @property
    def unsent(self) -> int:
        """How many bytes are missing of a message of which the server has the beginning."""

    def granted(self, server: Server, /) -> None:
        """It waited, and now has this server."""

    def refuse_lease(
        self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        """It waited, and will get no server."""

    def write(self, data: bytes, source: Connection | None = None) -> None:
        """Replies."""

    def wrote(self, freshness: Freshness) -> None:
        """It is about to learn that something may have been written."""

    def resume(self) -> None:
        """The server can take more."""

    def names_asked(self) -> Iterable[str]:
        """Parameters to ask for by name when the session is inspected."""

    def found(self, inspection: Inspection, server: Server) -> None:
        """PostgreSQL has said what the session holds."""

    def rested(self, server: Server) -> None:
        """The server waits for it, in a transaction."""

    def progressed(self, server: Server) -> None:
        """The server has answered something, but not everything."""

    def kept(self) -> None:
        """It is between transactions, and keeps its server."""

    def refused(self, server: Server, error: ErrorFields) -> None:
        """The lease ends because the server does not take its settings."""

    def returns(self, server: Server) -> bool:
        """The server is at rest and may be somebody else's: let go of it.

        False if it is still needed, or was left in another way.
        """

    def after_lease(self) -> None:
        """The server has found its next owner: now a next lease may be asked for."""

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        """The lease ends because the server's connection did.

        Not `in_step`: replies are missing that nobody can tell any more.
        """

    def finish(self, reason: Reason) -> None:
        """It has got its last replies."""


class Unconcerned:
    """What a leaseholder does who sends one thing, waits for its end, and keeps nothing."""

    doing = ""

    @property
    def shown(self) -> str:
        return self.doing

    def wrote(self, freshness: Freshness) -> None:
        pass

    def resume(self) -> None:
        pass

    def names_asked(self) -> Iterable[str]:
        return ()

    def found(self, inspection: Inspection, server: Server) -> None:
        """What the server holds is in its session."""

    def rested(self, server: Server) -> None:
        pass

    def progressed(self, server: Server) -> None:
        pass

    def kept(self) -> None:
        pass
