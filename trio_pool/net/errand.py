"""A request of our own, run through a lease like a client's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_pool.errors import Reason, ServerFault
from trio_pool.pooling.pool import PoolFull
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.settings import NONE, Settings, difference
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.net.connection import Connection
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.server import Server
    from trio_pool.protocol.inspection import Inspection
    from trio_pool.wire.messages import ErrorFields


class SettingsTrial:
    """Applies settings that a client asks for at start-up to a leased server, to learn whether it takes them
    and what it makes of them.

    The server keeps them: the client will want them there. Waits in the pool's queue like anybody else.
    """

    process_id = 0
    user = ""
    """Nobody's: no bound holds for it."""
    peer = "trio-pool"
    doing = "settings of a client that logs in"

    def __init__(self, origin: OriginPool, wanted: Settings) -> None:
        self.origin = origin
        self.wanted = wanted
        self.requested_at = self.leased_at = trio.current_time()
        self.result: tuple[Settings, Settings] | None = None
        """The settings under their canonical names and values, and everything that the server then reports.
        """
        self.fault: ServerFault | None = None
        self._done = trio.Event()
        self._replies = Assembler()
        self._server: Server | None = None

    @property
    def ending(self) -> bool:
        return False

    @property
    def unsent(self) -> int:
        return 0

    async def run(self) -> tuple[Settings, Settings]:
        """Returns `result`.

        Raises `ServerFault` with the server's own words, or because there was no server to ask.
        """
        try:
            server = self.origin.pool.acquire(self)
        except PoolFull:
            raise ServerFault(
                "failed to acquire a connection from the pool", "53300", reason=Reason.CLIENT_REFUSED
            ) from None
        if server is not None:
            self.granted(server)
        try:
            await self._done.wait()
        finally:
            self.origin.pool.forget(self)
            if self._server is not None:
                self._server.orphaned(0)
        if self.fault is not None:
            raise self.fault
        assert self.result is not None
        return self.result

    def granted(self, server: Server) -> None:
        self._server = server
        self.leased_at = server.poller.now
        server.client = self
        session = server.session
        session.told = session.expected = session.reported
        requests = session.adopt(NONE)
        requests += difference(NONE, self.wanted, NONE, guarded=False) or messages.SYNC
        session.sync()
        session.unnamed = None
        session.asks |= Ask.SETTINGS
        requests += session.inspect(self.names_asked(), lambda found: self.found(found, server))
        server.write(requests)

    def refuse_lease(
        self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        self._fail(ServerFault(message, sqlstate, reason=Reason.CLIENT_REFUSED))

    def write(self, data: bytes, source: Connection | None = None) -> None:
        self._replies.feed(data)
        while (message := self._replies.message()) is not None:
            tag, body = message
            if tag == Backend.ERROR_RESPONSE:
                error = messages.read_error(body)
                self.fault = ServerFault(error.summary, error.sqlstate, reason=Reason.CLIENT_REFUSED)

    def resume(self) -> None:
        pass

    def names_asked(self) -> Iterable[str]:
        return [name for name in self.wanted if "." in name]

    def found(self, inspection: Inspection, server: Server) -> None:
        """What the server has made of the settings is in its session."""

    def rested(self, server: Server) -> None:
        pass

    def progressed(self, server: Server) -> None:
        pass

    def kept(self) -> None:
        pass

    def refused(self, server: Server, error: ErrorFields) -> None:
        self._server = None
        self._fail(ServerFault(error.summary, error.sqlstate, reason=Reason.CLIENT_REFUSED))

    def returns(self, server: Server) -> bool:
        self._server = None
        if self.fault is None:
            self.result = (server.session.settings, server.session.reported)
        return True

    def after_lease(self) -> None:
        self._done.set()

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        self._server = None
        self._fail(fault)

    def finish(self, reason: Reason) -> None:
        self._done.set()

    def _fail(self, fault: ServerFault) -> None:
        self.fault = fault
        self._done.set()
