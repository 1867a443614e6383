"""The client machine: one authenticated client, as a pure function of bytes.

It walks the client's messages and does one of three things with them: answers them itself (what needs no
server), says that it wants a server (`ClientState.WAITING`), or translates them for the server it is linked
to. Translation is nearly always "as they came": what is rewritten are the names of prepared statements, and
what is added are the statements and settings that the leased server lacks.

Theory of operation. Without a server, input is kept in `input` and `_alone` eats from its front. With a
server, `_translate` walks whole messages and registers with the server machine what each of them will be
answered with. A message is forwarded when it is whole or when it is longer than `STREAMED`, so that a client
which stops in the middle of a small one holds nothing; a long one passes in pieces (`body_left`) and is never
accumulated, but for named statements, whose text has to be known.

The machine never raises for what a client does: `fault` is set, and what was translated before it stands.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from trio_pool.errors import ClientFault, SqlState
from trio_pool.protocol.carried import MAX_STATEMENT, CarriedSession
from trio_pool.protocol.facts import NOTHING, plain
from trio_pool.protocol.failed import FailedTransaction
from trio_pool.wire import messages
from trio_pool.wire.frames import FRONTEND_LIMITS, header
from trio_pool.wire.tags import Frontend, Status, Target

if TYPE_CHECKING:
    from trio_pool.protocol.server import ServerSession
    from trio_pool.protocol.settings import Settings
    from trio_pool.protocol.statements import StatementRegistry

STREAMED = 1 << 16
"""Messages longer than this are forwarded in pieces.

The size of one read from a socket, so that what fits a read is never split.
"""
MAX_WAITING_INPUT = 1 << 18
"""How much input is kept for a client that waits for a server before its socket is no longer read."""

QUERY = Frontend.QUERY
BIND = Frontend.BIND
EXECUTE = Frontend.EXECUTE
DESCRIBE = Frontend.DESCRIBE
PARSE = Frontend.PARSE
CLOSE = Frontend.CLOSE
SYNC = Frontend.SYNC
FLUSH = Frontend.FLUSH
TERMINATE = Frontend.TERMINATE
_COPY = frozenset({Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL})
_SMALL = frozenset({DESCRIBE, EXECUTE, CLOSE, SYNC, FLUSH, TERMINATE})


class ClientState(enum.Enum):
    """What the client is doing."""

    IDLE = "idle"
    """No server, no transaction, no request."""
    WAITING = "waiting"
    """Has a request and no server for it."""
    LINKED = "linked"
    """Leases a server."""
    FAILED = "failed"
    """Its transaction was lost with its server, and it has not ended it yet."""
    ENDING = "ending"
    """Said Terminate, or broke the protocol: nothing it sends matters any more."""


class ClientSession(CarriedSession):
    """The conversation with one client after its login."""

    __slots__ = (
        "_dropping",
        "_failed",
        "_need",
        "_parts",
        "_quiet",
        "_skipping",
        "body_left",
        "input",
        "server",
        "shares",
        "state",
    )

    def __init__(
        self,
        registry: StatementRegistry,
        settings: Settings,
        reported: Settings,
        *,
        max_statements: int,
        shares: bool = True,
        rejects: bool = False,
    ) -> None:
        super().__init__(registry, settings, reported, max_statements=max_statements, rejects=rejects)
        self.state = ClientState.IDLE
        self.server: ServerSession | None = None
        self.shares = shares
        """Whether leases end with transactions, so that ending one early makes room for others."""
        self.input = b""
        self.body_left = 0
        """How much of a long message is still to pass (to the server, or nowhere: `_dropping`)."""
        self._dropping = False
        """Whether the body that is passing belongs to a message that is refused or ignored."""
        self._skipping = False
        """Whether a group was refused without a server, so that everything up to Sync is ignored.

        Not a state: the transaction may be idle or failed.
        """
        self._failed: FailedTransaction | None = None
        self._quiet = False
        """Whether a Sync of ours is to be answered before anything else is sent (see `_end_quietly`), or
        nothing is to be sent any more.
        """
        self._parts: list[bytes] = []
        """A long message that is collected rather than passed, and (`_need`) how much of it is missing."""
        self._need = 0

    # -- the four things that happen to a client -------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Bytes from the client; returns those for the linked server.

        Look at `state`, `replies` and `fault` afterwards.
        """
        if self._need:
            self._parts.append(data)
            self._need -= len(data)
            if self._need > 0:
                return b""
            data = b"".join(self._parts)
            self._parts = []
            self._need = 0
        elif self.input:
            data = self.input + data
            self.input = b""
        if self.server is not None and not self._quiet:
            return self._translate(data, self.server)
        self.input = data
        if self.state is ClientState.IDLE and self._plainly_wants_server(data):
            self.state = ClientState.WAITING
        elif not self._quiet and self.state is not ClientState.WAITING:
            self._alone()
        return b""

    def link(self, server: ServerSession) -> bytes:
        """A server is leased; returns what is to be sent to it."""
        self.server = server
        server.holder = self
        server.meaning_known = True
        if self._sent:
            self._sent.clear()
        self.state = ClientState.LINKED
        ahead = b""
        if self.settings is not server.settings or self.reported is not server.reported or self.channels:
            ahead = self._adopted_by(server)
        data, self.input = self.input, b""
        return ahead + self._translate(data, server)

    def unlink(self) -> None:
        """The server is given back: it was free, so no transaction and no request is open.

        Input may be left that wants a server again.
        """
        server = self.server
        assert server is not None
        self.reported = server.told
        self.server = None
        self.state = ClientState.IDLE
        if self._quiet:
            self._quiet = False
            self._skipping = server.quiet_failed
            server.quiet_failed = False
        if self.input:
            self._alone()

    def refuse(self, error: bytes) -> None:
        """The wait has ended without a server: the request gets this ErrorResponse, in sequence."""
        assert self.state is ClientState.WAITING
        self.state = ClientState.IDLE
        self._refuse_first(error)
        self._alone()

    def lose(self, error: bytes) -> None:
        """The linked server is lost: every outstanding request gets this ErrorResponse.

        Not to be called when a message was cut.
        """
        server = self.server
        assert server is not None
        self.server = None
        in_transaction = server.status != Status.IDLE
        self.state = ClientState.FAILED if in_transaction else ClientState.IDLE
        ready = messages.READY[Status.FAILED if in_transaction else Status.IDLE]
        owed = [group for group in server.groups if not group.swallowed]
        for group in (*server.groups, server.open_group):
            if group is not None:
                group.undo()
        self.replies += server.held_end
        for group in owed:
            self.replies += b"" if group.failed else error
            if group.quiet:
                self._skipping = True
            else:
                self.replies += ready
        self._quiet = False
        unfinished = server.open_count or server.open_group is not None
        if unfinished:
            self._skipping = True
            if not server.skipping:
                self.replies += error
        if in_transaction:
            self._failed = FailedTransaction(cause=b"" if owed or unfinished else error)
        if self.body_left:
            self._dropping = True
        if self.input:
            self._alone()

    # -- without a server ------------------------------------------------------------------------------------

    def _plainly_wants_server(self, data: bytes) -> bool:
        """Whether a chunk begins with a whole Query or Bind, so that `_alone` need not look. Hot path."""
        if len(data) <= 5 or (data[0] != QUERY and data[0] != BIND) or self._skipping or self.body_left:
            return False
        return 4 <= header(data, 0)[1] < len(data)

    def _alone(self) -> None:
        """Eat from the front of `input` what needs no server; stop at what does, or at what is not whole."""
        while self.input and self.state in (ClientState.IDLE, ClientState.FAILED) and self.fault is None:
            if self.body_left:
                self._drop(self.body_left)
                continue
            if len(self.input) < 5:
                return
            tag, length = header(self.input, 0)
            if not self._acceptable(tag, length):
                return
            end = length + 1
            whole = len(self.input) >= end
            if (self._skipping and tag not in (SYNC, TERMINATE)) or tag in _COPY or tag == FLUSH:
                self._drop(end)
            elif tag in (SYNC, CLOSE, TERMINATE):
                if not whole:
                    return
                body, self.input = self.input[5:end], self.input[end:]
                self._answer(tag, body)
            elif not whole and end <= STREAMED:
                return
            elif tag == PARSE and whole and self._prepare_alone(self.input[5:end]):
                self._drop(end)
            elif self.state is ClientState.IDLE or not self._answer_failed(tag, end, whole):
                self.state = ClientState.WAITING

    def _answer(self, tag: int, body: bytes) -> None:
        """Sync, Close and Terminate never need a server."""
        if tag == SYNC:
            self._skipping = False
            self.replies += self._ready()
        elif tag == TERMINATE:
            self.state = ClientState.ENDING
        else:
            if body[:1] == b"S":
                self._forget(body[1:-1])
            self.replies += messages.CLOSE_COMPLETE

    def _prepare_alone(self, body: bytes) -> bool:
        """Parse of a named statement that some server has accepted before needs none now; it gets there with
        its first Bind.

        That is more than thrift: a program that prepares in one connection and waits, while it holds a
        transaction open in another, would wait for itself.
        """
        name, _, rest = body.partition(b"\0")
        names = self.statements if self.statements is not None else {}
        if (
            not name
            or name in names
            or len(names) >= self.max_statements
            or self.state is not ClientState.IDLE
        ):
            return False
        statement = self.registry.proven(rest, self.settings)
        if statement is None:
            return False
        self._remember(name, statement)
        self.replies += messages.PARSE_COMPLETE
        return True

    def _answer_failed(self, tag: int, end: int, whole: bool) -> bool:
        """A message in a failed transaction.

        False if it ends the transaction and needs a server for what follows.
        """
        failed = self._failed
        assert failed is not None
        body = self.input[5:end]
        reply: bytes | None
        if tag in (QUERY, Frontend.FUNCTION_CALL):
            reply = failed.query(body.rstrip(b"\0")) if whole and tag == QUERY else failed.refuse()
        else:
            reply = failed.request(tag, body, self._text_of) if whole else None
            if reply is None:
                reply = failed.refuse()
                self._skipping = True
            elif tag == PARSE:
                self._parsed_alone(body)
        if failed.over:
            self._failed = None
            self.state = ClientState.IDLE
        if reply is None:
            return False
        self.replies += reply
        if tag in (QUERY, Frontend.FUNCTION_CALL):
            self.replies += self._ready()
        self._drop(end)
        return True

    def _parsed_alone(self, body: bytes) -> None:
        """A Parse was accepted in the failed transaction, and outlives it."""
        name, _, rest = body.partition(b"\0")
        if name:
            self._remember(name, self.registry.get(rest, self.settings))
        else:
            self._parse_unnamed(rest)

    def _refuse_first(self, error: bytes) -> None:
        tag, length = header(self.input, 0)
        self.replies += error
        if tag in (QUERY, Frontend.FUNCTION_CALL):
            self.replies += self._ready()
        else:
            self._skipping = True
        self._drop(length + 1)

    def _drop(self, size: int) -> None:
        """Ignore the next `size` bytes of input, those that have not come yet included."""
        self.body_left = max(0, size - len(self.input))
        self._dropping = self.body_left > 0
        self.input = self.input[size:]

    def _ready(self) -> bytes:
        return messages.READY[Status.FAILED if self.state is ClientState.FAILED else Status.IDLE]

    # -- with a server ---------------------------------------------------------------------------------------

    def _translate(self, data: bytes, server: ServerSession) -> bytes:
        """What to send to the server for `data`.

        Hot path: a chunk without prepared statements comes out as it went in.
        """
        size = len(data)
        at = self.body_left
        if at:
            if self._dropping:
                data = data[at:]
                self.body_left = max(0, at - size)
                self._dropping = self.body_left > 0
                return self._translate(data, server) if data else b""
            if at >= size:
                self.body_left = at - size
                return data
            self.body_left = 0
        earlier = server.open_count  # requests of the group being sent that came in earlier chunks
        bound = False  # whether one in this chunk has touched a portal
        out: list[bytes] | None = None
        start = 0  # of what is forwarded as it came
        while at + 5 <= size:
            tag, length = header(data, at)
            if length > FRONTEND_LIMITS[tag] or length < 4:
                self._acceptable(tag, length)
                break
            end = at + 1 + length
            if end > size:
                if length < STREAMED or tag in _SMALL or (tag == BIND and not _shows_names(data, at)):
                    break
                if tag == PARSE:
                    if not self._collect(data, at, end):
                        self._pass_unnamed_parse(server)
                        at = end
                    break
            rewritten: bytes | None = None
            if tag == QUERY:
                self.unnamed = None
                if end <= size and plain(data[at + 5 : end - 1]):
                    server.query()
                else:
                    text = data[at + 5 : end - 1] if end <= size else None
                    rewritten = self._minded_query(text, data[at:end], server)
            elif tag == SYNC:
                server.sync()
                if self.mends and not server.copy_in:
                    rewritten = messages.SYNC + self._restored(server)
            elif tag == EXECUTE:
                server.open_count += 1
            elif tag == BIND:
                bound = True
                if length > 5 and data[at + 5] == 0 == data[at + 6]:
                    if self.unnamed_facts is not NOTHING or not server.has_unnamed(self.unnamed):
                        rewritten = self._bind_unnamed(data, at, end, server)
                else:
                    rewritten = self._bind(data, at, end, server)
                server.open_count += 1
            elif tag == DESCRIBE:
                if length > 5 and data[at + 5] == Target.STATEMENT:
                    rewritten = self._describe(data[at:end], server)
                server.open_count += 1
            elif tag == PARSE:
                rewritten = self._parse(data[at:end], server)
            elif tag == CLOSE:
                if length > 5 and data[at + 5] == Target.STATEMENT:
                    rewritten = self._close(data[at + 6 : end - 1], server)
                else:
                    server.open_count += 1
            elif tag == Frontend.FUNCTION_CALL:
                server.function_call()
            elif tag == Frontend.COPY_DONE or tag == Frontend.COPY_FAIL:
                server.copy_ended()
            elif tag == TERMINATE:
                self.state = ClientState.ENDING
                self._quiet = True
                size = at
                break
            elif tag == FLUSH and not (bound or earlier) and self._may_end_quietly(server):
                return b"".join([*(out or ()), data[start:at], self._end_quietly(data[end:], server)])
            if rewritten is not None:
                if out is None:
                    out = []
                out.append(data[start:at])
                out.append(rewritten)
                start = end
                if self.fault is not None:
                    break
            at = end
        if out is None and at == size and self.state is ClientState.LINKED:
            return data
        return self._finish(data, start, at, size, out)

    def _may_end_quietly(self, server: ServerSession) -> bool:
        return (
            self.shares
            and server.open_count > 0
            and all(group.swallowed for group in server.groups)
            and server.status == Status.IDLE
            and not server.may_stay
        )

    def _end_quietly(self, rest: bytes, server: ServerSession) -> bytes:
        """Flush behind nothing but Parse, Describe and Close of statements: send Sync in its place, so that
        the lease can end.

        A driver that prepares like this (asyncpg) may do nothing else for a long time, and nothing is open on
        the server but an empty implicit transaction. What follows is held back until the Sync is answered: if
        the group has failed, the client still has to be brought to its own Sync.
        """
        server.quiet_sync()
        self._quiet = True
        self.input = rest
        return messages.SYNC

    def _finish(self, data: bytes, start: int, at: int, size: int, out: list[bytes] | None) -> bytes:
        """The walk stopped at `at`: keep the start of an incomplete message, remember how much of a long one
        is to come.
        """
        if at > size:
            self.body_left = at - size
        elif at < size and self.fault is None and not self._need:
            self.input = data[at:size]
        if out is None:
            return data if at >= len(data) else data[start:at]
        out.append(data[start:at])
        return b"".join(out)

    def _collect(self, data: bytes, at: int, end: int) -> bool:
        """A long Parse of a named statement is collected until it is whole.

        False for an unnamed one, which passes in pieces.
        """
        if at + 5 == len(data):
            return True  # its name is still to come
        if data[at + 5] == 0:
            return False
        if end - at > MAX_STATEMENT:
            self._fail(ClientFault("a named prepared statement is too long", SqlState.LIMIT_EXCEEDED))
        else:
            self._parts = [data[at:]]
            self._need = end - len(data)
        return True

    # -- helpers ---------------------------------------------------------------------------------------------

    def _acceptable(self, tag: int, length: int) -> bool:
        """Whether PostgreSQL would read on after this header; otherwise `fault` is set."""
        if not FRONTEND_LIMITS[tag]:
            self._fail(ClientFault(f"invalid frontend message type {tag}"))
        elif not 4 <= length <= FRONTEND_LIMITS[tag]:
            self._fail(ClientFault(f"invalid message length: {length} for message type {chr(tag)!r}"))
        return self.fault is None

    def _fail(self, fault: ClientFault) -> None:
        super()._fail(fault)
        self.state = ClientState.ENDING
        self._quiet = True


def _shows_names(data: bytes, at: int) -> bool:
    """Whether an incomplete Bind can be passed on: the names of its portal and statement are there, or too
    long to be waited for.
    """
    portal_end = data.find(b"\0", at + 5)
    return (portal_end >= 0 and data.find(b"\0", portal_end + 1) >= 0) or len(data) - at > STREAMED
