"""Requests of our own, run through a lease like a client's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from trio_pool.errors import Reason, ServerFault
from trio_pool.net.leaseholder import Unconcerned
from trio_pool.pooling.pool import PoolFull
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.replies import Errand
from trio_pool.protocol.settings import NONE, Settings, difference
from trio_pool.wire import messages
from trio_pool.wire.frames import Assembler, FramingError
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from trio_pool.net.connection import Connection
    from trio_pool.net.origin import OriginPool
    from trio_pool.net.server import Server
    from trio_pool.protocol.catalog import Inquiry
    from trio_pool.protocol.server import ServerSession
    from trio_pool.protocol.touch import TouchInquiry
    from trio_pool.wire.messages import ErrorFields


class OwnLease(Unconcerned):
    """A lease of our own: takes a server, sends something, and ends when that is answered."""

    process_id = 0
    user = ""
    """Nobody's: no bound holds for it."""
    peer = "trio-pool"

    def __init__(self, origin: OriginPool) -> None:
        self.origin = origin
        self.requested_at = self.leased_at = trio.current_time()
        self.fault: ServerFault | None = None
        self._done = trio.Event()
        self._replies = Assembler()
        self._server: Server | None = None

    # -- for subclasses --------------------------------------------------------------------------------------

    def requests(self, server: Server) -> bytes:
        """What to send to a server."""
        raise NotImplementedError

    def answered(self, session: ServerSession) -> None:
        """Everything is answered, without an error."""

    # -- the lease -------------------------------------------------------------------------------------------

    @property
    def ending(self) -> bool:
        return False

    @property
    def unsent(self) -> int:
        return 0

    def acquire(self) -> None:
        """Take a server, or wait for one in the pool's queue like anybody else.

        Raises `ServerFault` if there is no room in the queue.
        """
        try:
            server = self.origin.pool.acquire(self)
        except PoolFull:
            raise ServerFault(
                "failed to acquire a connection from the pool", "53300", reason=Reason.CLIENT_REFUSED
            ) from None
        if server is not None:
            self.granted(server)

    async def wait(self) -> None:
        """Until it is over. Raises `ServerFault` with the server's own words, or because there was none."""
        try:
            await self._done.wait()
        finally:
            self.origin.pool.forget(self)
            if self._server is not None:
                self._server.orphaned(0)
        if self.fault is not None:
            raise self.fault

    def granted(self, server: Server) -> None:
        self._server = server
        self.leased_at = server.poller.now
        server.client = self
        server.session.told = server.session.expected = server.session.reported
        server.write(self.requests(server))

    def refuse_lease(
        self, sqlstate: str, message: str, detail: str | None = None, hint: str | None = None
    ) -> None:
        self.fail(ServerFault(message, sqlstate, reason=Reason.CLIENT_REFUSED))

    def write(self, data: bytes, source: Connection | None = None) -> None:
        self._replies.feed(data)
        while (message := self._replies.message()) is not None:
            tag, body = message
            if tag == Backend.ERROR_RESPONSE:
                self.refused_with(messages.read_error(body))

    def refused_with(self, error: ErrorFields) -> None:
        """The server has said no; the lease ends when it has answered everything."""
        self.fault = ServerFault(error.summary, error.sqlstate, reason=Reason.CLIENT_REFUSED)

    def refused(self, server: Server, error: ErrorFields) -> None:
        self._server = None
        self.refused_with(error)
        self._done.set()

    def returns(self, server: Server) -> bool:
        self._server = None
        if self.fault is None:
            self.answered(server.session)
        return True

    def after_lease(self) -> None:
        self._done.set()

    def server_lost(self, server: Server, fault: ServerFault, *, in_step: bool) -> None:
        self._server = None
        self.fail(fault)

    def finish(self, reason: Reason) -> None:
        self._done.set()

    def fail(self, fault: ServerFault) -> None:
        self.fault = fault
        self._done.set()


class SettingsTrial(OwnLease):
    """Applies settings that a client asks for at start-up to a leased server, to learn whether it takes them
    and what it makes of them.

    The server keeps them: the client will want them there.
    """

    doing = "settings of a client that logs in"

    def __init__(self, origin: OriginPool, wanted: Settings) -> None:
        super().__init__(origin)
        self.wanted = wanted
        self.result: tuple[Settings, Settings] | None = None
        """The settings under their canonical names and values, and everything that the server then reports.
        """

    async def run(self) -> tuple[Settings, Settings]:
        """Returns `result`. Raises `ServerFault` as `acquire` and `wait` do."""
        self.acquire()
        await self.wait()
        assert self.result is not None
        return self.result

    def requests(self, server: Server) -> bytes:
        session = server.session
        requests = session.adopt(NONE)
        requests += difference(NONE, self.wanted, NONE, guarded=False) or messages.SYNC
        session.sync()
        session.unnamed = None
        session.asks |= Ask.SETTINGS
        return requests + session.inspect(self.names_asked(), lambda found: self.found(found, server))

    def names_asked(self) -> Iterable[str]:
        return [name for name in self.wanted if "." in name]

    def answered(self, session: ServerSession) -> None:
        self.result = (session.settings, session.reported)


class CatalogQuestion(OwnLease):
    """Asks a server what names mean in its database: one that nobody uses, or the first whose lease ends,
    since nobody should have to wait, nor a server be opened, for this.
    """

    doing = "a look at the catalog"

    def __init__(self, origin: OriginPool, inquiry: Inquiry | TouchInquiry) -> None:
        super().__init__(origin)
        self.inquiry = inquiry

    def requests(self, server: Server) -> bytes:
        session = server.session
        requests = session.adopt(NONE)
        session.own_group(Errand(row=self._row, failed=self._failed))
        session.unnamed = None
        return requests + self.inquiry.request

    def _row(self, body: bytes) -> None:
        """What is not understood is no answer, and no reason to give the server up."""
        try:
            self.inquiry.row(body)
        except (FramingError, ValueError, KeyError) as problem:
            self.fault = ServerFault(
                f"not an answer of PostgreSQL's catalog: {problem!r}", reason=Reason.SERVER_PROTOCOL_VIOLATION
            )

    def _failed(self, error: bytes) -> None:
        self.refused_with(messages.read_error(error[5:]))
