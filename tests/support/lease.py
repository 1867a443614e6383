"""One client machine and one server machine, linked, for transcripts; and what the two add to a transcript on
their own account.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.support.fakepg import DEFAULTS
from tests.support.fakesql import data_row
from tests.support.requests import SYNC, bind, close, close_portal, execute, parse
from tests.support.threeways import fed
from trio_pool.protocol.client import ClientSession
from trio_pool.protocol.server import ServerSession
from trio_pool.protocol.settings import NONE, Settings, intern
from trio_pool.protocol.statements import StatementRegistry
from trio_pool.wire import messages
from trio_pool.wire.messages import BIND_COMPLETE, CLOSE_COMPLETE, PARSE_COMPLETE, command_complete
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from trio_pool.protocol.inspection import Inspection

REPORTED = intern(DEFAULTS)
PREFIX = b"_pool_"
IDLE, BUSY, FAILED = (messages.READY[s] for s in (Status.IDLE, Status.IN_TRANSACTION, Status.FAILED))
SELECTED = data_row("a") + command_complete("SELECT 1")
ERROR = messages.error("42601", "syntax error")


def new_client(
    registry: StatementRegistry | None = None,
    settings: Settings = NONE,
    *,
    max_statements: int = 100,
    rejects: bool = False,
) -> ClientSession:
    reported = REPORTED.but({name: value for name, value in settings.items() if name in REPORTED})
    if registry is None:
        registry = StatementRegistry(PREFIX)
    return ClientSession(registry, settings, reported, max_statements=max_statements, rejects=rejects)


def new_server(
    *, max_statements: int = 100, reported: Settings = REPORTED, process_id: int = 0
) -> ServerSession:
    return ServerSession(reported, max_statements=max_statements, process_id=process_id)


@attrs.define(eq=False)
class Lease:
    """A client that has a server. `way` is how bytes are cut on both sides."""

    client: ClientSession = attrs.field(factory=new_client)
    server: ServerSession = attrs.field(factory=new_server)
    way: str = "whole"
    linked: bool = False
    inspection: Inspection | None = None
    """The last answer to the question what the session holds."""

    def asks(self, data: bytes) -> bytes:
        """Requests of the client; returns what is sent to the server."""
        if self.linked:
            return fed(self.client.receive, data, self.way)
        self.linked = True
        return self.client.link(self.server) + fed(self.client.receive, data, self.way)

    def answers(self, data: bytes) -> bytes:
        """Replies of the server; returns what the client gets for them."""
        return fed(self.server.receive, data, self.way)

    def exchanges(self, data: bytes, replies: bytes) -> tuple[bytes, bytes]:
        """Requests of the client and the server's replies to what is sent; returns what is sent and what the
        client gets.
        """
        sent = self.asks(data)
        return sent, self.own_replies() + self.answers(replies)

    def own_replies(self) -> bytes:
        """What the client gets on our own account since the last call."""
        replies, self.client.replies = self.client.replies, b""
        return replies

    def inspects(self) -> bytes:
        """The server is at rest, but must be asked what its session holds: the question."""
        assert self.server.free
        assert self.server.must_ask
        return self.server.inspect(self.client.names_asked(), self._found)

    def is_told(self, *rows: tuple[str, str, str]) -> None:
        """The question is asked and answered with these rows; the client gets nothing of it."""
        self.inspects()
        assert self.answers(told(*rows)) == b""

    def _found(self, inspection: Inspection) -> None:
        self.inspection = inspection
        self.client.found(inspection, self.server)

    def ends(self) -> None:
        """The lease ends."""
        assert self.server.free
        assert not self.server.must_ask
        self.client.unlink()
        self.linked = False

    def moves_to(self, server: ServerSession) -> None:
        """The client gets another server for its next requests."""
        self.ends()
        self.server = server


# -- groups of ours, as they travel --------------------------------------------------------------------------


def ours(sql: str, *parameters: str | None) -> bytes:
    """A statement of ours, through the unnamed statement and portal."""
    return parse("", sql) + bind("", *parameters) + execute()


def apart(sql: str, *parameters: str | None) -> bytes:
    """The same in a transaction of the client's, who may have an unnamed portal."""
    portal = "trio-pool"
    return parse("", sql) + bind("", *parameters, portal=portal) + execute(portal) + close_portal(portal)


def set_config(*changes: str | None) -> bytes:
    """The statement that sets parameters: names and values in turn; None resets."""
    numbers = range(1, len(changes), 2)
    calls = ", ".join(f"pg_catalog.set_config(${n}, ${n + 1}, false)" for n in numbers)
    return ours(f"SELECT {calls}", *changes)


def adoption(*changes: str | None) -> bytes:
    """What is sent so that a server has a client's settings."""
    begin, commit = ours("BEGIN ISOLATION LEVEL READ COMMITTED"), ours("COMMIT")
    return begin + set_config(*changes) + commit + close("") + SYNC


def adopted(*values: str, reports: bytes = b"") -> bytes:
    """The replies to that."""
    prepared = PARSE_COMPLETE + BIND_COMPLETE
    done = (
        prepared
        + command_complete("BEGIN")
        + prepared
        + data_row(*values)
        + command_complete("SELECT 1")
        + prepared
        + command_complete("COMMIT")
    )
    return done + CLOSE_COMPLETE + reports + IDLE


def told(*rows: tuple[str, str, str]) -> bytes:
    """The replies to the question what a session holds; names and values are not in hexadecimal yet."""
    found = b"".join(
        data_row(kind, name if kind == "pin" else name.encode().hex(), value.encode().hex())
        for kind, name, value in rows
    )
    done = command_complete(f"SELECT {len(rows)}")
    return PARSE_COMPLETE + BIND_COMPLETE + found + done + CLOSE_COMPLETE + IDLE


def restored(*values: str, reports: bytes = b"") -> bytes:
    """The replies to what sets a StartupMessage's settings again."""
    found = b"".join(map(data_row, values)) + command_complete(f"SELECT {len(values)}")
    return PARSE_COMPLETE + BIND_COMPLETE + found + CLOSE_COMPLETE * 2 + reports + IDLE
