"""The server machine: one logged-in connection to an origin, as a pure function of bytes.

It is told what is sent (`query`, `sync`, `request`, ...) and fed what arrives (`receive`), and knows from these alone whether the connection is free:
all expected ReadyForQuery have come, the last says idle, no extended-protocol group is open, no message is half-read. That is the property
`free`, stated once; nothing else in the program decides it.

Theory of operation. `receive` walks the headers of a chunk and looks into a body only where its tag asks for it. While the group at the head of the queue is a
plain one the walk counts ReadyForQuery and nothing else, and gives the chunk back as it came. Two things slow it down, both rare: a group with edits (see
`replies`), and a chunk that arrives when nothing is expected, which may only hold asynchronous messages.

Bodies that nobody needs are never held: a DataRow of a gigabyte passes in pieces (`body_left`). Messages that are looked into are held
until whole (`rest`), up to `MAX_HELD`.

COPY FROM STDIN through the extended protocol has a trap: the server ignores a Sync that arrives while it copies, so a Sync sent right behind Execute (libpq does that) will
not be answered. `_copy_in` reopens the group then. The same goes for a Query sent in a group that is still open: if something in front of it failed, the Query is
skipped and answered by nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.protocol import settings as session_settings
from trio_pool.protocol.replies import COMPLETIONS, PLAIN, QUERY, SYNCED, Action, Edit, Group
from trio_pool.protocol.settings import Settings
from trio_pool.protocol.statements import ServerStatements, Statement
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError, header
from trio_pool.wire.messages import ErrorFields
from trio_pool.wire.tags import Backend, Status

MAX_HELD = 1 << 20
"""The longest message that is looked into; ErrorResponses beyond it pass unread."""

DATA_ROW = Backend.DATA_ROW
READY_FOR_QUERY = Backend.READY_FOR_QUERY
COMMAND_COMPLETE = Backend.COMMAND_COMPLETE
IDLE = Status.IDLE

# Commands that change nothing which outlives their transaction, by the first three letters of their command tag. Whatever is not here (SET, RESET,
# LISTEN, PREPARE, DECLARE, CREATE, LOAD, DO, CALL ...) may leave something in the session, so the server is reset before its next client.
CLEAN = frozenset(
    b"SEL INS UPD DEL MER BEG STA COM ROL SAV REL FET MOV CLO COP SHO EXP NOT TRU ANA VAC ALT DRO GRA REV CLU LOC REF CHE".split()
)
# Of those, the ones whose tag says that they leave something which only this server has, and why their client keeps it.
_PINNING = {b"PREPARE\0": "SQL PREPARE", b"LISTEN\0": "LISTEN", b"LOAD\0": "LOAD"}

_ASYNCHRONOUS = frozenset({Backend.NOTICE_RESPONSE, Backend.NOTIFICATION_RESPONSE, Backend.PARAMETER_STATUS})
_LOOKED_INTO = frozenset(
    {READY_FOR_QUERY, COMMAND_COMPLETE, Backend.ERROR_RESPONSE, Backend.PARAMETER_STATUS}
)
_PASSED = frozenset(
    {
        DATA_ROW,
        Backend.BIND_COMPLETE,
        Backend.CLOSE_COMPLETE,
        Backend.COPY_DATA,
        Backend.COPY_DONE,
        Backend.COPY_OUT_RESPONSE,
        Backend.EMPTY_QUERY_RESPONSE,
        Backend.FUNCTION_CALL_RESPONSE,
        Backend.NO_DATA,
        Backend.NOTICE_RESPONSE,
        Backend.NOTIFICATION_RESPONSE,
        Backend.PARAMETER_DESCRIPTION,
        Backend.PARSE_COMPLETE,
        Backend.PORTAL_SUSPENDED,
        Backend.ROW_DESCRIPTION,
    }
)


class ServerSession:
    """The conversation with one server after its login."""

    __slots__ = (
        "body_left",
        "copy_in",
        "defaults",
        "dirty",
        "drop_body",
        "failure",
        "groups",
        "on_plans_changed",
        "pins",
        "open_count",
        "open_group",
        "quiet_failed",
        "reported",
        "rest",
        "settings",
        "stale",
        "statements",
        "status",
        "unnamed",
    )

    def __init__(
        self,
        reported: Settings,
        *,
        max_statements: int,
        on_plans_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.status: int = IDLE
        self.groups: deque[Group] = deque()
        self.open_count = 0
        """Requests sent since the last Sync or Query: the size of the group that is being sent."""
        self.open_group: Group | None = None
        """The group that is being sent, once it has an edit or a reply; until then `open_count` is all there is."""
        self.rest = b""
        self.body_left = 0
        self.drop_body = False
        """Whether the message that `body_left` belongs to is swallowed."""
        self.copy_in = False
        """Whether the server is copying from us, i.e. would ignore a Sync."""
        self.dirty = False
        """Whether something may be left in the session that the next client must not find."""
        self.pins: dict[str, None] = {}
        """Why the client must keep this server beyond its transaction; empty if it need not."""
        self.statements = ServerStatements(max_statements)
        self.unnamed: bytes | None = None
        """Content of the unnamed statement, None if there is none."""
        self.quiet_failed = False
        """Whether the last quiet group failed, so that its client has to skip to its own Sync."""
        self.on_plans_changed = on_plans_changed
        """Called when a statement fails because its result type has changed: what is prepared from now on must be prepared anew."""
        self.stale: list[bytes] = []
        """Names that an attempt to reuse a name left behind; closed at the next lease."""
        self.defaults = reported
        self.reported = reported
        self.settings = session_settings.NONE
        self.failure: ErrorFields | None = None
        """The FATAL error with which the server announced its end."""

    # -- state -------------------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether the server owes something."""
        return bool(self.groups or self.open_count or self.open_group is not None)

    @property
    def between_messages(self) -> bool:
        return not self.rest and not self.body_left

    @property
    def free(self) -> bool:
        """Whether another client may have this server, as far as the protocol can tell. Written out in the hot path as well."""
        return not self.waiting and self.status == IDLE and self.between_messages and self.failure is None

    @property
    def skipping(self) -> bool:
        """Whether the group being sent has failed already, so that the server ignores everything up to Sync."""
        return self.open_group is not None and self.open_group.failed

    # -- what is sent ------------------------------------------------------------------------------------------------

    def query(self) -> None:
        """A Query or FunctionCall is sent."""
        self.unnamed = None
        if self.open_count or self.open_group is not None:
            group = self._opened()
            group.by_query, group.prefix = True, self.open_count
            self._close_group(group)
        else:
            self.groups.append(QUERY)

    def sync(self) -> None:
        """A Sync is sent."""
        if self.open_group is not None:
            self._close_group(self.open_group)
        else:
            self.open_count = 0
            self.groups.append(SYNCED)

    def request(self) -> None:
        """A Parse, Bind, Describe, Execute or Close is sent whose reply is forwarded."""
        self.open_count += 1

    def edited(self, edit: Edit) -> None:
        """A request is sent, or answered in the server's place, whose reply wants an edit."""
        edit.position = self.open_count
        self._opened().edits.append(edit)
        if edit.action is not Action.FAKE:
            self.open_count += 1

    def swallow(self, edit: Edit | None = None) -> None:
        """A request of ours is sent."""
        self.edited(edit or Edit(0, Action.SWALLOW))

    def fakes_now(self) -> bytes:
        """Fake replies that have nothing in front of them and therefore go out at once."""
        group = self.open_group
        if self.groups or group is None:
            return b""
        fakes = group.fakes_due()
        if not self.open_count and not group.edits and not group.failed:
            self.open_group = None  # nothing of it ever went to the server
        return fakes

    def quiet_sync(self) -> None:
        """A Sync is sent where the client sent Flush: the end of the group is not the client's."""
        group = self._opened()
        group.quiet = True
        self._close_group(group)

    def copy_ended(self) -> None:
        """CopyDone or CopyFail is sent."""
        self.copy_in = False
        if self.open_count or self.open_group is not None:
            self._opened().copy_ended = True

    def has_statement(self, statement: Statement) -> bool:
        """Whether a Bind or Describe of the statement can be sent as it is. Hot path."""
        return self.statements.has(statement, self.open_group)

    def prepare(self, statement: Statement) -> tuple[bytes, Edit]:
        """What to send so that the statement is there, and the edit of its Parse, which the caller may extend and registers with `edited`."""
        requests = b""
        if statement in self.statements.unconfirmed:
            self.swallow()
            requests = messages.close_statement(statement.name)
        elif (oldest := self.statements.overflow()) is not None:
            self.swallow(self.statements.close(oldest, self._opened()))
            requests = messages.close_statement(oldest.name)
        edit = self.statements.parse(statement, self._opened())
        return requests + messages.parse(statement.name, statement.rest), edit

    def prepare_unnamed(self, rest: bytes | None) -> bytes:
        """What to send so that the server's unnamed statement is this one, or none."""
        self.unnamed = rest
        self.swallow()
        if rest is None:
            return messages.close_statement(b"")
        return messages.parse(b"", rest)

    def adopt(self, wanted: Settings) -> bytes:
        """What to send ahead of a client's first statement so that the session is as the client left its own."""
        requests = b""
        if self.stale:
            requests = b"".join(map(messages.close_statement, self.stale)) + messages.SYNC
            self.stale.clear()
            self.groups.append(Group(swallowed=True))
        if wanted is not self.settings:
            difference = session_settings.difference(self.settings, wanted)
            if difference:
                self.groups.append(Group(swallowed=True))
                self.unnamed = None
                requests += difference
            self.settings = wanted
        return requests

    def clean(self) -> bytes | None:
        """The next thing to send so that the connection becomes free and spotless; b"" to wait for replies, None when it is.

        One step at a time: end a COPY, close the open group, wait, roll back, discard what the session may hold. Used when the client is gone.
        """
        if self.copy_in:
            extended = not self.groups
            self.copy_ended()
            if not extended:
                return messages.copy_fail("client is gone")
            self.sync()
            return messages.copy_fail("client is gone") + messages.SYNC
        if self.open_count or self.open_group is not None:
            self.sync()
            return messages.SYNC
        if self.groups or not self.between_messages:
            return b""
        if self.status != IDLE:
            self.groups.append(Group(by_query=True, swallowed=True))
            return messages.query("ROLLBACK")
        if self.dirty:
            self.dirty = False
            self.pins.clear()
            self.statements.clear()
            self.stale.clear()
            self.unnamed = None
            self.settings = session_settings.NONE
            self.groups.append(Group(by_query=True, swallowed=True))
            return messages.query("DISCARD ALL")
        return None

    # -- what arrives ------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Bytes from the server; returns those that are the client's. Raises `ServerFault` when they cannot be what a server sends."""
        if self.rest:
            data = self.rest + data
            self.rest = b""
        at = self.body_left
        if at:
            if at >= len(data):
                self.body_left = at - len(data)
                return b"" if self.drop_body else data
            self.body_left = 0
            if self.drop_body:
                data = data[at:]
                at = 0
        groups = self.groups
        if not groups or id(groups[0]) not in PLAIN:
            return data[:at] + self._receive_slowly(data[at:])
        size = len(data)
        while at + 5 <= size:
            tag, length = header(data, at)
            end = at + 1 + length
            if tag == DATA_ROW:
                at = end
                continue
            if tag == READY_FOR_QUERY:
                if end > size:
                    break
                self._ready(data[at + 5], length)
                at = end
                if not groups and at == size and self.open_group is None:
                    return data
            elif tag == COMMAND_COMPLETE:
                if end > size:
                    break
                if data[at + 5 : at + 8] not in CLEAN:
                    self._changed_session(data[at + 5 : end])
                at = end
                continue
            elif tag in _PASSED and length >= 4:
                at = end
                continue
            else:
                if end > size and not self._passes_unread(tag, length):
                    break
                if not self._handle(tag, length, data[at + 5 : end], groups[0]):
                    return data[:at] + self.receive(data[end:])
                at = end
            if not groups or id(groups[0]) not in PLAIN:
                return data[:at] + self._receive_slowly(data[at:])
        return self._keep(data, at)

    def _receive_slowly(self, data: bytes) -> bytes:
        """The same walk for groups with edits and for what comes unasked."""
        out: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            group = self.groups[0] if self.groups else self.open_group
            if group is not None:
                if id(group) in PLAIN:
                    out.append(self.receive(data[at:]))
                    break
                if not group.failed:
                    out.append(group.fakes_due())
            if at + 5 > size:
                self.rest = data[at:]
                break
            tag, length = header(data, at)
            end = at + 1 + length
            if end > size and tag in _LOOKED_INTO and not self._passes_unread(tag, length):
                self.rest = data[at:]
                self._check_held()
                break
            if group is None and self.open_count:
                group = self._opened()
            if self._handle_slowly(tag, length, data[at + 5 : end], group):
                out.append(data[at:end])
                self.drop_body = False
            else:
                self.drop_body = True
            if end > size:
                self.body_left = end - size
                break
            at = end
        return b"".join(out)

    def _handle_slowly(self, tag: int, length: int, body: bytes, group: Group | None) -> bool:
        """One message outside the fast walk. True if it is the client's."""
        if length < 4:
            raise self._violation(f"message {chr(tag)!r} of length {length}")
        if group is None:
            if tag in _ASYNCHRONOUS or tag == Backend.ERROR_RESPONSE:
                return self._handle(tag, length, body, group)
            raise self._violation(f"unexpected message {chr(tag)!r}")
        forward = True
        if tag == READY_FOR_QUERY:
            self._ready(body[0] if body else 0, length)
            forward = not group.quiet
        elif tag in COMPLETIONS:
            forward = group.complete()
            if tag == COMMAND_COMPLETE and body[:3] not in CLEAN and not group.swallowed:
                self._changed_session(body)
        elif tag not in _PASSED:
            forward = self._handle(tag, length, body, group)
        return forward and not group.swallowed

    def _handle(self, tag: int, length: int, body: bytes, group: Group | None) -> bool:
        """A message that is neither passed on blindly nor completes a request. True if it is the client's."""
        if tag == Backend.ERROR_RESPONSE:
            return self._error(body, group)
        if tag == Backend.PARAMETER_STATUS:
            try:
                name, value = messages.read_parameter_status(body)
            except FramingError as problem:
                raise self._violation(str(problem)) from None
            self.reported = self.reported.but({name: value})
            return True
        if tag == Backend.COPY_IN_RESPONSE and group is not None:
            self._copy_in(group)
            return True
        if tag in _ASYNCHRONOUS and length >= 4:
            return True
        raise self._violation(f"unexpected message {chr(tag)!r} of length {length}")

    def _error(self, body: bytes, group: Group | None) -> bool:
        """An ErrorResponse ends a request; a FATAL one, or one that nobody asked for, announces the end of the connection."""
        if group is None or group.swallowed or b"\0VFATAL\0" in body[:64] or b"\0VPANIC\0" in body[:64]:
            self.failure = messages.read_error(body)
            return False
        self.copy_in = False
        if b"\0RRevalidateCachedQuery\0" in body:
            self.on_plans_changed()
        if id(group) not in PLAIN:
            self.quiet_failed = group.quiet
            skipped_query = group.by_query and group.seen < group.prefix
            group.fail()
            if skipped_query:
                self._reopen()
        return True

    def _ready(self, status: int, length: int) -> None:
        if length != 5 or status not in (IDLE, Status.IN_TRANSACTION, Status.FAILED) or not self.groups:
            raise self._violation("unexpected or malformed ReadyForQuery")
        self.status = status
        self.copy_in = False
        group = self.groups.popleft()
        if group.edits:
            raise self._violation("ReadyForQuery before the replies that it follows")

    def _copy_in(self, group: Group) -> None:
        """COPY FROM STDIN begins: a Sync that was sent already is ignored by the server (unless CopyDone stands before it)."""
        self.copy_in = True
        if self.groups and not group.by_query and not group.copy_ended:
            if id(group) in PLAIN:
                self.groups[0] = Group()
            self._reopen()

    def _reopen(self) -> None:
        """The request that was to end the group at the head has been skipped by the server: the next Sync ends it, sent or to be sent."""
        group = self.groups.popleft()
        group.by_query = False
        group.copy_ended = True
        while self.groups and self.groups[0].by_query:
            group.edits += self.groups.popleft().edits
        if self.groups:
            group.edits += self.groups[0].edits
            self.groups[0] = group
        else:
            if self.open_group is not None:
                group.edits += self.open_group.edits
            group.copy_ended = False
            self.open_group = group
            self.open_count = max(self.open_count, group.seen + 1)
        if group.failed:
            group.undo()

    def _changed_session(self, tag: bytes) -> None:
        """A command completed that may have left something in the session."""
        self.dirty = True
        if tag in _PINNING:
            self.pins[_PINNING[tag]] = None
        elif tag == b"DISCARD ALL\0":
            self.statements.clear()
            self.pins.clear()
        elif tag == b"DEALLOCATE ALL\0":
            self.statements.clear()
            self.pins.pop(_PINNING[b"PREPARE\0"], None)

    # -- helpers -----------------------------------------------------------------------------------------------------

    def _opened(self) -> Group:
        if self.open_group is None:
            self.open_group = Group()
        return self.open_group

    def _close_group(self, group: Group) -> None:
        self.groups.append(group)
        self.open_group = None
        self.open_count = 0

    def _keep(self, data: bytes, at: int) -> bytes:
        """The walk stopped at `at`, inside or behind the chunk: hold the start of a message that is looked into, pass the rest."""
        size = len(data)
        if at == size:
            return data
        if at > size:
            self.body_left = at - size
            self.drop_body = False
            return data
        self.rest = data[at:]
        self._check_held()
        return data[:at]

    def _check_held(self) -> None:
        if len(self.rest) > MAX_HELD:
            raise self._violation("a message that must be read is too long")

    @staticmethod
    def _passes_unread(tag: int, length: int) -> bool:
        """An ErrorResponse too long to be held is passed on in pieces; it cannot be a FATAL one that ends the connection."""
        return tag == Backend.ERROR_RESPONSE and length > MAX_HELD

    @staticmethod
    def _violation(what: str) -> ServerFault:
        return ServerFault(
            f"the server broke the protocol: {what}",
            SqlState.CONNECTION_FAILURE,
            reason=Reason.SERVER_PROTOCOL_VIOLATION,
        )
