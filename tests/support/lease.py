"""One client machine and one server machine, linked, for transcripts."""

from __future__ import annotations

import attrs

from tests.support.fakepg import DEFAULTS
from tests.support.threeways import fed
from trio_pool.protocol.client import ClientSession
from trio_pool.protocol.server import ServerSession
from trio_pool.protocol.settings import NONE, Settings, intern
from trio_pool.protocol.statements import StatementRegistry

REPORTED = intern(DEFAULTS)
PREFIX = b"_pool_"


def new_client(
    registry: StatementRegistry | None = None, settings: Settings = NONE, *, max_statements: int = 100
) -> ClientSession:
    reported = REPORTED.but({name: value for name, value in settings.items() if name in REPORTED})
    if registry is None:
        registry = StatementRegistry(PREFIX)
    return ClientSession(registry, settings, reported, max_statements=max_statements)


def new_server(*, max_statements: int = 100) -> ServerSession:
    return ServerSession(REPORTED, max_statements=max_statements)


@attrs.define(eq=False)
class Lease:
    """A client that has a server. `way` is how bytes are cut on both sides."""

    client: ClientSession = attrs.field(factory=new_client)
    server: ServerSession = attrs.field(factory=new_server)
    way: str = "whole"
    linked: bool = False

    def asks(self, data: bytes) -> bytes:
        """Requests of the client; returns what is sent to the server."""
        if self.linked:
            return fed(self.client.receive, data, self.way)
        self.linked = True
        return self.client.link(self.server) + fed(self.client.receive, data, self.way)

    def answers(self, data: bytes) -> bytes:
        """Replies of the server; returns what the client gets for them."""
        return fed(self.server.receive, data, self.way)

    def own_replies(self) -> bytes:
        """What the client gets on our own account since the last call."""
        replies, self.client.replies = self.client.replies, b""
        return replies

    def ends(self) -> None:
        """The lease ends."""
        assert self.server.free
        self.client.unlink()
        self.linked = False

    def moves_to(self, server: ServerSession) -> None:
        """The client gets another server for its next requests."""
        self.ends()
        self.server = server
