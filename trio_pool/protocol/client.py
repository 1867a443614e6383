"""The client machine: one authenticated client, as a pure function of bytes.

It walks the client's messages and does one of three things with them: answers them itself (what needs no
server: `serverless`), says that it wants a server (`ClientState.WAITING`), or translates them for the server
it is linked to. Translation is nearly always "as they came": what is rewritten are the names of prepared
statements, and what is added are the statements and settings that the leased server lacks.

Theory of operation. With a server, `_translate` walks whole messages and registers with the server machine
what each of them will be answered with. A message is forwarded when it is whole or when it is longer than
`STREAMED`, so that a client which stops in the middle of a small one holds nothing; a long one passes in
pieces (`body_left`) and is never accumulated, but for named statements, whose text has to be known.

The machine never raises for what a client does: `fault` is set, and what was translated before it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.errors import ClientFault, SqlState
from trio_pool.protocol.carried import MAX_STATEMENT, UNKNOWN_TEXT
from trio_pool.protocol.facts import NOTHING
from trio_pool.protocol.lone import lone_statement
from trio_pool.protocol.plain import plain
from trio_pool.protocol.sent import running
from trio_pool.protocol.serverless import (
    BIND,
    CLOSE,
    DESCRIBE,
    FLUSH,
    LONGEST_OPENING,
    PARSE,
    QUERY,
    STREAMED,
    SYNC,
    TERMINATE,
    ClientState,
    ServerlessSession,
)
from trio_pool.protocol.watch import EVERYTHING
from trio_pool.wire import messages
from trio_pool.wire.frames import FRONTEND_LIMITS, between, header
from trio_pool.wire.tags import Frontend, Status, Target

if TYPE_CHECKING:
    from trio_pool.protocol.server import ServerSession
    from trio_pool.protocol.settings import Settings
    from trio_pool.protocol.statements import StatementRegistry
    from trio_pool.protocol.watch import Watch

__all__ = ["MAX_WAITING_INPUT", "STREAMED", "ClientSession", "ClientState"]

MAX_WAITING_INPUT: Final = 1 << 18
"""How much input is kept for a client that waits for a server before its socket is no longer read."""

EXECUTE: Final = Frontend.EXECUTE
_WATCHED: Final = frozenset({QUERY, BIND, Frontend.FUNCTION_CALL})
"""What may write to tables."""
_KNOWABLE: Final = frozenset({PARSE, DESCRIBE, CLOSE})
_SMALL: Final = frozenset({DESCRIBE, EXECUTE, CLOSE, SYNC, FLUSH, TERMINATE})


class ClientSession(ServerlessSession):
    """The conversation with one client after its login."""

    __slots__ = (
        "_need",
        "_parts",
        "_quiet",
        "ahead",
        "held",
        "is_link",
        "sent",
        "shares",
        "watch",
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
        defers_begin: bool = False,
        watch: Watch | None = None,
    ) -> None:
        super().__init__(
            registry,
            settings,
            reported,
            max_statements=max_statements,
            rejects=rejects,
            defers_begin=defers_begin,
        )
        self.shares = shares
        """Whether leases end with transactions, so that ending one early makes room for others."""
        self._quiet = False
        """Whether a Sync of ours is to be answered before anything else is sent (see `_end_quietly`), or
        nothing is to be sent any more.
        """
        self.held = False
        """Whether nothing is sent for now, since a cancel request of ours is under way that is not meant for
        it.
        """
        self.is_link = False
        """Whether it is another trio-pool's, for clients of its own."""
        self.sent = b""
        """What was sent last, to tell what the client is doing."""
        self.ahead = b""
        """A request that has been sent to a server that is still another client's (`send_ahead`)."""
        self._parts: list[bytes] = []
        """A long message that is collected rather than passed, and (`_need`) how much of it is missing."""
        self._need = 0
        self.watch = watch
        """What wants to know which tables are written to; None if nobody does."""

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
        if self.server is not None and not self._quiet and not self.held:
            if not self.body_left:  # the rest of a long message may look like anything
                self.sent = data
                if data and data[0] in _KNOWABLE and self._rests(self.server):
                    data = self._answer_known(data, self.server.status)
            return self._translate(data, self.server) if data else b""
        self.input = data
        state = self.state
        if state is ClientState.IDLE and len(data) <= LONGEST_OPENING and self._opens_as_before(data):
            return b""
        if (state is ClientState.IDLE or state is ClientState.BEGUN) and self._plainly_wants_server(data):
            self.state = ClientState.WAITING
        elif not self._quiet and state is not ClientState.WAITING:
            self._alone()
        return b""

    def _rests(self, server: ServerSession) -> bool:
        """Whether nothing is under way in the transaction on the leased server that could change what a
        statement is described as, or what becomes of a request that is not sent.
        """
        return (
            self.registry.descriptions.kept
            and server.status == Status.IN_TRANSACTION
            and not (server.waiting or server.opening or self.mends)
            and not self._differs(server)
        )

    def link(self, server: ServerSession) -> bytes:
        """A server is leased; returns what is to be sent to it."""
        self.server = server
        server.holder = self
        server.meaning_known = True
        if self._sent:
            self._sent.clear()
        if server.verdict:
            server.verdict = b""
        self.state = ClientState.LINKED
        ahead = b""
        if self.settings is not server.settings or self.reported is not server.reported or self.channels:
            ahead = self._adopted_by(server)
        if self.begun is not None:
            begun, self.begun = self.begun, None
            ahead += server.begin(begun)
        data, self.input = self.input, b""
        self.sent = data
        return ahead + self._translate(data, server)

    def unlink(self) -> None:
        """The server is given back: it was free, so no transaction and no request is open.

        Input may be left that wants a server again.
        """
        server = self.server
        assert server is not None
        self.reported = server.told
        self.server = None
        self.sent = b""
        self.held = False
        self.state = ClientState.IDLE
        if self._quiet:
            self._quiet = False
            self._skipping = server.quiet_failed
            server.quiet_failed = False
        if self.input:
            self._alone()

    def hold(self) -> None:
        """Send nothing more until `go_on`, or until the server is left."""
        self.held = True

    def go_on(self) -> bytes:
        """What has come since `hold`, for the linked server."""
        self.held = False
        data, self.input = self.input, b""
        return self.receive(data) if data else b""

    # -- a request that is sent ahead of its turn ------------------------------------------------------------

    def send_ahead(self, server: ServerSession) -> bytes:
        """Send what waits, which is `alone`, to a server that is still answering others; what comes meanwhile
        is held back.
        """
        data, self.ahead, self.input = self.input, self.input, b""
        return self._translate(data, server)

    def take_back(self) -> None:
        """What was sent ahead is to be sent again, or refused."""
        self.input, self.ahead = self.ahead + self.input, b""

    def asks_again(self) -> None:
        """What was sent ahead, or asked for, has to be asked for once more: nothing of its answer came."""
        if self.server is None:
            self.take_back()
            return
        self.reported = self.server.told
        self.server = None
        self.held = False
        self.input, self.sent = self.sent + self.input, b""
        self.state = ClientState.WAITING

    def lone(self, request: bytes) -> bytes | None:
        """The text of a request that is one statement (`lone_statement`). Hot path."""
        if self._skipping or self.mends or self.begun is not None:
            return None
        return lone_statement(request, self.statements)

    # -- a request that is answered from memory --------------------------------------------------------------

    @property
    def is_unencumbered(self) -> bool:
        """Whether what comes next begins with a message, and nothing has to be seen to first. Hot path."""
        if self._skipping or self._need or self.body_left or self.input:
            return False
        return not self.mends and self.begun is None

    def was_answered(self, request: bytes) -> None:
        """A request, which is `lone`, was answered without a server: what else it does is done. Hot path."""
        tag, length = header(request, 0)
        if tag == QUERY:
            self.unnamed = None
        elif tag == PARSE:
            self._parse_unnamed(between(request, 6, length + 1))
        else:
            self.binds += 1

    def set_aside(self) -> None:
        """What waits for a server waits for an answer instead."""
        self.ahead, self.input = self.input, b""

    def answered_aside(self) -> None:
        """What was set aside is answered; what has come meanwhile is next."""
        request, self.ahead = self.ahead, b""
        self.was_answered(request)
        self.state = ClientState.IDLE
        if self.input:
            self._alone()

    def has_turn(self, server: ServerSession) -> None:
        """The server's next answer is this client's. Until it is there, nothing more is sent."""
        self.server = server
        self.state = ClientState.LINKED
        self.held = True
        self.sent, self.ahead = self.ahead, b""
        server.holder = self
        server.meaning_known = True
        server.verdict = b""
        if self.reported is not server.reported:
            server.told = self.reported
            self.replies += server.tell()

    @property
    def unsent(self) -> int:
        """How much of a message is missing of which the server has the beginning."""
        return 0 if self._dropping else self.body_left

    def end_upload(self) -> bytes:
        """What to send in the client's place so that PostgreSQL does not wait for it in the middle of a
        message or of a COPY, which then fails.
        """
        server = self.server
        assert server is not None
        rest = messages.spoiled(self.unsent)
        if self.body_left:
            self._dropping = True
        if not server.copy_in:
            return rest
        server.copy_ended()
        return rest + messages.copy_fail("trio-pool does not wait for the rest")

    def expire(self, error: bytes) -> None:
        """The client's time is over in a transaction of which no server knows: its next statement gets this
        ErrorResponse.
        """
        assert self.state is ClientState.BEGUN
        self._fail_transaction(error)

    def lose(self, error: bytes, *, later: bool = False) -> None:
        """The linked server is lost, or will be used without the client: every outstanding request gets this
        ErrorResponse, and if there is none and a transaction is open, its next statement. A group without
        its Sync gets it now, or `later`, with its next request.

        Not to be called when a reply was cut.
        """
        server = self.server
        assert server is not None
        self.reported = server.told
        self.server = None
        in_transaction = server.status != Status.IDLE or server.opening
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
        self._quiet = self.held = False
        self.sent = b""
        unfinished = server.sends_group and not server.only_begun
        told = bool(owed) or (unfinished and (not later or server.skipping))
        if unfinished and told:
            self._skipping = True
            if not server.skipping:
                self.replies += error
        if in_transaction:
            self._fail_transaction(b"" if told else error)
        elif unfinished and not told:
            self._fail_transaction(error, implicit=True)
        if self.body_left:
            self._dropping = True
        if self.input:
            self._alone()

    def doing(self) -> bytes:
        """The text of what runs, or ran last; of a pipeline, what PostgreSQL is at."""
        outstanding = 0 if self.server is None else len(self.server.groups)
        return running(self.sent, outstanding, self._text_of)

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
                if end <= size and plain(between(data, at + 5, end - 1)):
                    server.query()
                else:
                    text = between(data, at + 5, end - 1) if end <= size else None
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
            elif tag == FLUSH:
                if end == size and not (bound or earlier) and self._may_end_quietly(server):
                    return b"".join([*(out or ()), data[start:at], self._end_quietly(data[end:], server)])
                server.flush()
            if self.watch is not None and tag in _WATCHED:
                server.touched |= self._touched(tag, data, at, min(end, size), self.watch)
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

    def _touched(self, tag: int, data: bytes, at: int, end: int, watch: Watch) -> frozenset[int]:
        """The tables that a Query, Bind or FunctionCall may change, of which the part up to `end` is here."""
        text: bytes | None = None
        if tag == QUERY:
            if data[end - 1] == 0 and end - at == header(data, at)[1] + 1:
                text = between(data, at + 5, end - 1)
        elif tag == BIND:
            portal_end = data.find(b"\0", at + 5, end)
            name_end = data.find(b"\0", portal_end + 1, end)
            if portal_end >= 0 and name_end >= 0 and self.unnamed is not UNKNOWN_TEXT:
                text = self._text_of(between(data, portal_end + 1, name_end))
        return EVERYTHING if text is None else watch.touched(text)

    def _may_end_quietly(self, server: ServerSession) -> bool:
        return (
            self.shares
            and server.open_count > 0
            and all(group.swallowed for group in server.groups)
            and server.status == Status.IDLE
            and not server.opening
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
        out.append(between(data, start, at))
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

    def _fail(self, fault: ClientFault) -> None:
        super()._fail(fault)
        self._quiet = True


def _shows_names(data: bytes, at: int) -> bool:
    """Whether an incomplete Bind can be passed on: the names of its portal and statement are there, or too
    long to be waited for.
    """
    portal_end = data.find(b"\0", at + 5)
    return (portal_end >= 0 and data.find(b"\0", portal_end + 1) >= 0) or len(data) - at > STREAMED
