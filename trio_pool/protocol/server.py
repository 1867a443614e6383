"""The server machine: one logged-in connection to an origin, as a pure function of bytes.

It is told what is sent (`query`, `sync`, `request`, ...) and fed what arrives (`receive`), and knows from
these alone whether the connection is free: all expected ReadyForQuery have come, the last says idle, no
extended-protocol group is open, no message is half-read. That is the property `free`, stated once; nothing
else in the program decides it.

Theory of operation. `receive` walks the headers of a chunk and looks into a body only where its tag asks for
it. While the group at the head of the queue is a plain one the walk counts ReadyForQuery and nothing else,
and gives the chunk back as it came. Two things slow it down, both rare: a group with edits (see `replies`),
and a chunk that arrives when nothing is expected, which may only hold asynchronous messages.

Bodies that nobody needs are never held: a DataRow of a gigabyte passes in pieces (`body_left`). Messages that
are looked into are held until whole (`rest`), up to `MAX_HELD`.

COPY FROM STDIN has a trap: the server ignores a Sync that arrives while it copies, so a Sync sent right
behind Execute (libpq does that) will not be answered. `_copy_in` merges its group into the next then. The
same goes for a Query sent in a group that is still open: if something in front of it failed, the Query is
skipped and answered by nothing.

Groups are numbered: `answered` is the number of the one at the head of the queue, `sending` of the one that
is being sent. The numbers tell whether a CopyDone was sent before or behind a Sync, and whether the Parse of
the unnamed statement is known to have succeeded.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.protocol import settings as session_settings
from trio_pool.protocol.replies import COMPLETIONS, PLAIN, QUERY, SYNCED, Action, Edit, Group
from trio_pool.protocol.statements import ServerStatements, Statement
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError, header
from trio_pool.wire.tags import Backend, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.protocol.settings import Settings
    from trio_pool.wire.messages import ErrorFields

MAX_HELD = 1 << 20
"""The longest message that is looked into; ErrorResponses beyond it pass unread."""

DATA_ROW = Backend.DATA_ROW
READY_FOR_QUERY = Backend.READY_FOR_QUERY
COMMAND_COMPLETE = Backend.COMMAND_COMPLETE
IDLE = Status.IDLE

# Commands that change nothing which outlives their transaction, by the first three letters of their command
# tag. Whatever is not here (SET, RESET, LISTEN, PREPARE, DECLARE, CREATE, LOAD, DO, CALL ...) may leave
# something in the session, so the server is reset before its next client.
CLEAN = frozenset(
    b"SEL INS UPD DEL MER BEG STA COM ROL SAV REL FET MOV CLO COP SHO EXP NOT".split()
    + b"TRU ANA VAC GRA REV CLU LOC REF CHE".split()
)
# Commands after which a text prepared before may mean something else.
_DDL = frozenset(b"CRE ALT DRO".split())

# Of those that are not clean, the ones whose tag says that they leave something which only this server has,
# and why their client keeps it.
_PINNING = {b"PREPARE\0": "SQL PREPARE", b"LISTEN\0": "LISTEN", b"LOAD\0": "LOAD"}

_UNKNOWN = bytes(bytearray(b"whatever a failed group left"))  # compared by identity only: no client's
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
        "answered",
        "body_left",
        "copy_dones",
        "copy_in",
        "defaults",
        "dirty",
        "drop_body",
        "failure",
        "groups",
        "on_plans_changed",
        "open_count",
        "open_group",
        "pins",
        "quiet_failed",
        "reported",
        "rest",
        "schema_changed",
        "sending",
        "settings",
        "stale",
        "statements",
        "status",
        "unnamed",
        "unnamed_in",
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
        """The group that is being sent, once it has an edit or a reply; until then `open_count` is all there
        is.
        """
        self.answered = 0
        self.sending = 0
        self.rest = b""
        self.body_left = 0
        self.drop_body = False
        """Whether the message that `body_left` belongs to is swallowed."""
        self.copy_in = False
        """Whether the server is copying from us, i.e. would ignore a Sync."""
        self.copy_dones: list[tuple[int, int]] = []
        """Where CopyDone or CopyFail were sent: number of the group, and of its requests in front.

        A late one belongs to no COPY any more.
        """
        self.schema_changed = False
        """Whether the transaction has changed the schema, which others will see only when it ends."""
        self.dirty = False
        """Whether something may be left in the session that the next client must not find."""
        self.pins: dict[str, None] = {}
        """Why the client must keep this server beyond its transaction; empty if it need not."""
        self.statements = ServerStatements(max_statements)
        self.unnamed: bytes | None = None
        """Content of the unnamed statement, None if there is none, `_UNKNOWN` behind an error: whatever was
        to replace it may have been skipped.
        """
        self.unnamed_in = -1
        """The group in which it was parsed."""
        self.quiet_failed = False
        """Whether the last quiet group failed, so that its client has to skip to its own Sync."""
        self.on_plans_changed = on_plans_changed
        """Called when a statement fails because its result type has changed: what is prepared from now on
        must be prepared anew.
        """
        self.stale: dict[bytes, None] = {}
        """Names that an attempt to reuse a name left behind; closed at the next lease."""
        self.defaults = reported
        self.reported = reported
        self.settings = session_settings.NONE
        self.failure: ErrorFields | None = None
        """The FATAL error with which the server announced its end."""

    # -- state -----------------------------------------------------------------------------------------------

    @property
    def waiting(self) -> bool:
        """Whether the server owes something."""
        return bool(self.groups or self.open_count or self.open_group is not None)

    @property
    def between_messages(self) -> bool:
        return not self.rest and not self.body_left

    @property
    def free(self) -> bool:
        """Whether another client may have this server, as far as the protocol can tell.

        Written out in the hot path as well.
        """
        return not self.waiting and self.status == IDLE and self.between_messages and self.failure is None

    @property
    def skipping(self) -> bool:
        """Whether the group being sent has failed already: the server ignores everything up to Sync."""
        return self.open_group is not None and self.open_group.failed

    # -- what is sent ----------------------------------------------------------------------------------------

    def query(self) -> None:
        """A Query is sent."""
        if self.open_count or self.open_group is not None:
            self.unnamed = _UNKNOWN  # the Query may be skipped
            # PostgreSQL 18 then fails the statement behind the next Sync: "unexpected state STARTED".
            self.dirty = True
            group = self._opened()
            if group.failed:
                return  # it will be
            group.by_query, group.prefix = True, self.open_count
            self._close_group(group)
        else:
            self.unnamed = None
            self.sending += 1
            self.groups.append(QUERY)

    def function_call(self) -> None:
        """A FunctionCall is sent: a Query that leaves the unnamed statement alone."""
        unnamed = self.unnamed
        self.query()
        if self.unnamed is None:
            self.unnamed = unnamed

    def sync(self) -> None:
        """A Sync is sent."""
        if self.copy_in:
            return  # ignored
        if self.open_group is not None:
            self._close_group(self.open_group)
        else:
            self.open_count = 0
            self.sending += 1
            self.groups.append(SYNCED)

    def request(self) -> None:
        """A Parse, Bind, Describe, Execute or Close is sent whose reply is forwarded."""
        self.open_count += 1

    def edited(self, edit: Edit) -> None:
        """A request is sent, or answered in the server's place, whose reply wants an edit."""
        edit.position = self.open_count
        group = self._opened()
        if not group.failed:
            group.edits.append(edit)
        elif edit.undo is not None:
            edit.undo()  # it is skipped
        if edit.action is not Action.FAKE:
            self.open_count += 1

    def swallow(self, edit: Edit | None = None) -> None:
        """A request of ours is sent."""
        self.edited(edit or Edit(0, Action.SWALLOW))

    def fakes_now(self) -> bytes:
        """Fake replies that have nothing in front of them and therefore go out at once."""
        group = self.open_group
        if self.groups or group is None or group.failed or self.body_left:
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
        if self.open_count:
            self._opened()  # so that its replies are counted
        place = (self.sending, self.open_count)
        if self.copy_dones[-1:] != [place]:
            self.copy_dones = [done for done in self.copy_dones if done[0] >= self.answered]
            self.copy_dones.append(place)

    def has_statement(self, statement: Statement) -> bool:
        """Whether a Bind or Describe of the statement can be sent as it is. Hot path."""
        return self.statements.has(statement, self.open_group)

    def prepare(self, statement: Statement) -> tuple[bytes, Edit]:
        """What to send so that the statement is there, and the edit of its Parse, which the caller may extend
        and registers with `edited`.
        """
        requests = b""
        if statement in self.statements.unconfirmed or statement in self.statements.present:
            self.swallow(self.statements.close(statement, self._opened()))
            requests = messages.close_statement(statement.name)
        for oldest in self.statements.overflow():
            self.swallow(self.statements.close(oldest, self._opened()))
            requests += messages.close_statement(oldest.name)
        edit = self.statements.parse(statement, self._opened())
        return requests + messages.parse(statement.name, statement.rest), edit

    def prepare_unnamed(self, rest: bytes | None) -> bytes:
        """What to send so that the server's unnamed statement is this one, or none."""
        self.parse_unnamed(rest)
        self.swallow()
        if rest is None:
            return messages.close_statement(b"")
        return messages.parse(b"", rest)

    def parse_unnamed(self, rest: bytes | None) -> None:
        """A Parse of the unnamed statement, or its Close, is sent. Hot path."""
        if self.open_group is None or not self.open_group.failed:
            self.unnamed = rest
            self.unnamed_in = self.sending

    def has_unnamed(self, rest: bytes | None) -> bool:
        """Whether a Bind or Describe of the unnamed statement can be sent as it is: it is parsed ahead in the
        same group, or was in one that is answered. Hot path.
        """
        return self.unnamed is rest and (self.unnamed_in < self.answered or self.unnamed_in == self.sending)

    @property
    def may_have_failed(self) -> bool:
        """Whether the transaction may be an aborted one, in which even a Parse fails."""
        return self.status == Status.FAILED or any(not group.swallowed for group in self.groups)

    def adopt(self, wanted: Settings) -> bytes:
        """What to send ahead of a client's first statement: the session as the client left its own."""
        requests = b""
        if self.stale:
            requests = b"".join(map(messages.close_statement, self.stale)) + messages.SYNC
            self.stale.clear()
            self.sync()
            self.groups[-1] = Group(swallowed=True)
        if wanted is not self.settings:
            difference = session_settings.difference(self.settings, wanted)
            if difference:
                self.sync()
                self.groups[-1] = Group(swallowed=True)
                self.unnamed = None
                requests += difference
            self.settings = wanted
        return requests

    def clean(self) -> bytes | None:
        """The next thing to send so that the connection becomes free and spotless; b"" to wait for replies,
        None when it is.

        One step at a time: end a COPY, close the open group, wait, roll back, discard what the session may
        hold. Used when the client is gone.
        """
        if self.copy_in:
            self.copy_ended()
            if self.groups:
                return messages.copy_fail("client is gone")
            self.sync()
            return messages.copy_fail("client is gone") + messages.SYNC
        if self.open_count or self.open_group is not None:
            self.sync()
            return messages.SYNC
        if self.groups or not self.between_messages:
            return b""
        if self.status != IDLE:
            self.query()
            self.groups[-1] = Group(by_query=True, swallowed=True)
            return messages.query("ROLLBACK")
        if self.dirty:
            self.dirty = False
            self.pins.clear()
            self.statements.clear()
            self.stale.clear()
            self.settings = session_settings.NONE
            self.query()
            self.groups[-1] = Group(by_query=True, swallowed=True)
            return messages.query("DISCARD ALL")
        return None

    # -- what arrives ----------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> bytes:
        """Bytes from the server; returns those that are the client's.

        Raises `ServerFault` when they cannot be what a server sends.
        """
        if self.rest:
            data = self.rest + data
            self.rest = b""
        at = self.body_left
        if at:
            if at > len(data):
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
                self._ready(data[at + 5] if length == 5 else 0, length)
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
                    return data[:at] + self._receive_slowly(data[end:])
                at = end
            if not groups or id(groups[0]) not in PLAIN:
                return data[:at] + self._receive_slowly(data[at:])
        return self._keep(data, at)

    def _receive_slowly(self, data: bytes) -> bytes:
        """The same walk for groups with edits, for what comes unasked, and for whatever is behind these in
        the same chunk.

        What comes unasked is held until it is whole: a lease may begin in the middle of it.
        """
        out: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            group = self.groups[0] if self.groups else self._opened() if self.open_count else self.open_group
            if group is not None and not group.failed:
                out.append(group.fakes_due())
            if at + 5 > size:
                self.rest = data[at:]
                break
            tag, length = header(data, at)
            end = at + 1 + length
            if end > size and (group is None or tag in _LOOKED_INTO) and not self._passes_unread(tag, length):
                self.rest = data[at:]
                self._check_held()
                break
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
            forward = id(group) in PLAIN or group.complete()
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
        """An ErrorResponse ends a request; a FATAL one, or one that nobody asked for, announces the end of
        the connection.
        """
        if group is None or group.swallowed or b"\0VFATAL\0" in body[:64] or b"\0VPANIC\0" in body[:64]:
            self.failure = messages.read_error(body)
            return False
        self.copy_in = False
        if b"\0RRevalidateCachedQuery\0" in body:
            self.on_plans_changed()
        self.unnamed = _UNKNOWN
        if id(group) not in PLAIN:
            self.quiet_failed = group.quiet
            skipped_query = group.by_query and group.seen < group.prefix
            group.fail()
            if skipped_query:
                skipped = 1
                while skipped < len(self.groups) and self.groups[skipped].by_query:
                    skipped += 1
                self._merge(skipped)
        return True

    def _ready(self, status: int, length: int) -> None:
        if length != 5 or status not in (IDLE, Status.IN_TRANSACTION, Status.FAILED) or not self.groups:
            raise self._violation("unexpected or malformed ReadyForQuery")
        self.status = status
        self.copy_in = False
        if self.schema_changed and status == IDLE:
            self.schema_changed = False
            self.on_plans_changed()
        self.answered += 1
        group = self.groups.popleft()
        if group.edits:
            raise self._violation("ReadyForQuery before the replies that it follows")

    def _copy_in(self, group: Group) -> None:
        """COPY FROM STDIN begins: the server ignores every Sync between the COPY and its CopyDone, those that
        were sent already included.
        """
        begun = (self.answered + 1, -1) if group.by_query else (self.answered, group.seen)
        done = next((place for place in self.copy_dones if place > begun), None)
        self.copy_in = done is None
        ignored = (self.sending if done is None else done[0]) - begun[0]
        if not group.by_query:
            self._merge(ignored)
            return
        for _ in range(ignored):
            self.groups[1].undo()
            del self.groups[1]
        self.answered += ignored

    def _merge(self, count: int) -> None:
        """What was to end the first `count` groups has been ignored by the server: whatever ends the next
        one, sent or to be sent, ends them all.
        """
        if not count:
            return
        head = self.groups[0]
        if id(head) in PLAIN:
            head = Group()
        for number in range(count):
            ended = self.groups.popleft()
            if number:
                head.edits += ended.edits
        self.answered += count
        before = head.seen + 1  # the last of the head's requests is being answered now
        if self.groups:
            following = self.groups[0]
            self.groups[0] = head
        else:
            following = self._opened()
            self.open_group = head
            self.open_count += before
        for edit in following.edits:
            edit.position += before
        here = self.answered
        self.copy_dones = [(at, count + before * (at == here)) for at, count in self.copy_dones]
        head.edits += following.edits
        head.by_query, head.quiet = following.by_query, following.quiet
        head.prefix = before + following.prefix
        if head.failed:
            head.undo()

    def _changed_session(self, tag: bytes) -> None:
        """A command completed that may have left something in the session."""
        if tag[:3] in _DDL:
            self.schema_changed = True
            self.on_plans_changed()
            if tag[:3] != b"CRE":
                return
        self.dirty = True
        if tag in _PINNING:
            self.pins[_PINNING[tag]] = None
        elif tag == b"DISCARD ALL\0":
            self.statements.clear()
            self.pins.clear()
        elif tag == b"DEALLOCATE ALL\0":
            self.statements.clear()
            self.pins.pop(_PINNING[b"PREPARE\0"], None)

    # -- helpers ---------------------------------------------------------------------------------------------

    def _opened(self) -> Group:
        if self.open_group is None:
            self.open_group = Group()
        return self.open_group

    def _close_group(self, group: Group) -> None:
        self.groups.append(group)
        self.sending += 1
        self.open_group = None
        self.open_count = 0

    def _keep(self, data: bytes, at: int) -> bytes:
        """The walk stopped at `at`, inside or behind the chunk: hold the start of a message that is looked
        into, pass the rest.
        """
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
        """An ErrorResponse too long to be held is passed on in pieces; it cannot be a FATAL one that ends the
        connection.
        """
        return tag == Backend.ERROR_RESPONSE and length > MAX_HELD

    @staticmethod
    def _violation(what: str) -> ServerFault:
        return ServerFault(
            f"the server broke the protocol: {what}",
            SqlState.CONNECTION_FAILURE,
            reason=Reason.SERVER_PROTOCOL_VIOLATION,
        )
