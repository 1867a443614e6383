"""Who stands in a server's queue for a client that is gone, or has got its answer elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.net.leaseholder import Unconcerned

if TYPE_CHECKING:
    from trio_pool.errors import Reason, ServerFault
    from trio_pool.net.connection import Connection
    from trio_pool.net.server import Server
    from trio_pool.wire.messages import ErrorFields


class Absent(Unconcerned):
    """A leaseholder that wants nothing: what it is answered goes nowhere."""

    process_id = 0
    user = ""
    peer = "trio-pool"
    requested_at = 0.0
    leased_at = 0.0
    doing = "a read that nobody waits for any more"
    ending = False
    unsent = 0

    def granted(self, server: Server, /) -> None:
        raise AssertionError("nobody waits")

    def refuse_lease(
        self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        raise AssertionError("nobody waits")

    def write(self, data: bytes, source: Connection | None = None) -> None:
        pass

    def refused(self, server: Server, error: ErrorFields) -> None:
        pass

    def returns(self, server: Server) -> bool:
        return True

    def after_lease(self) -> None:
        pass

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        pass

    def finish(self, reason: Reason) -> None:
        pass


ABSENT: Final = Absent()
