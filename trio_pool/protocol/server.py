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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.errors import Reason, ServerFault, SqlState
from trio_pool.protocol import link
from trio_pool.protocol.backend import SEQUENCES, UNKNOWN, BackendSession
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.replies import (
    BEGUN_QUERY,
    BEGUN_SYNCED,
    COMPLETIONS,
    PLAIN,
    QUERY,
    SYNCED,
    Group,
)
from trio_pool.protocol.watch import NOTHING_TOUCHED
from trio_pool.wire import messages
from trio_pool.wire.frames import FramingError, between, header
from trio_pool.wire.tags import Backend, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.protocol.settings import Settings

MAX_HELD: Final = 1 << 20
"""The longest message that is looked into; ErrorResponses beyond it pass unread."""

DATA_ROW: Final = Backend.DATA_ROW
READY_FOR_QUERY: Final = Backend.READY_FOR_QUERY
COMMAND_COMPLETE: Final = Backend.COMMAND_COMPLETE
IDLE: Final = Status.IDLE
BEGUN: Final = messages.BIND_COMPLETE + messages.command_complete("BEGIN") + messages.CLOSE_COMPLETE

# Commands that change nothing which outlives their transaction, by the first three letters of their command
# tag, unless their text has told otherwise (`facts`). Whatever else completes without its text being known
# may have changed anything.
CLEAN: Final = frozenset(
    b"SEL INS UPD DEL MER BEG STA COM ROL SAV REL FET MOV CLO COP SHO EXP NOT".split()
    + b"TRU ANA VAC GRA REV CLU LOC REF CHE".split()
)
# Commands that may move sequences, through the defaults of columns and through triggers.
MOVING: Final = frozenset(b"INS UPD DEL MER COP".split())
# Commands after which a text prepared before may mean something else.
_DDL: Final = frozenset(b"CRE ALT DRO IMP".split())
_CODE: Final = b"DO\0"

# Reasons to keep the server for commands whose text was too long to be known.
_PINNING: Final = {b"PREPARE\0": "SQL PREPARE", b"LOAD\0": "LOAD"}

_ASYNCHRONOUS: Final = frozenset(
    {Backend.NOTICE_RESPONSE, Backend.NOTIFICATION_RESPONSE, Backend.PARAMETER_STATUS}
)
DESCRIBING: Final = frozenset({Backend.PARAMETER_DESCRIPTION, Backend.ROW_DESCRIPTION, Backend.NO_DATA})
_LOOKED_INTO: Final = frozenset(
    {
        READY_FOR_QUERY,
        COMMAND_COMPLETE,
        Backend.ERROR_RESPONSE,
        Backend.NOTIFICATION_RESPONSE,
        Backend.PARAMETER_STATUS,
    }
)
_PASSED: Final = frozenset(
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
        Backend.PARAMETER_DESCRIPTION,
        Backend.PARSE_COMPLETE,
        Backend.PORTAL_SUSPENDED,
        Backend.ROW_DESCRIPTION,
    }
)


class ServerSession(BackendSession):
    """The conversation with one server after its login."""

    __slots__ = (
        "_replacement",
        "clean_tags",
        "drop_body",
        "held_end",
        "judged",
        "on_plans_changed",
        "quiet_failed",
        "repeatable",
        "repeats",
        "rested",
        "schema_changed",
        "suspects_code",
        "takes_turns",
        "touched",
        "verdict",
    )

    def __init__(
        self,
        reported: Settings,
        *,
        max_statements: int,
        process_id: int = 0,
        on_plans_changed: Callable[[], None] = lambda: None,
        suspects_code: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__(reported, max_statements=max_statements, process_id=process_id)
        self.drop_body = False
        """Whether the message that `body_left` belongs to is swallowed."""
        self.schema_changed = False
        """Whether the transaction has changed the schema, which others will see only when it ends."""
        self.quiet_failed = False
        """Whether the last quiet group failed, so that its client has to skip to its own Sync."""
        self.on_plans_changed = on_plans_changed
        """Called when a statement fails because its result type has changed: what is prepared from now on
        must be prepared anew.
        """
        self.suspects_code = suspects_code
        """Whether the code of a DO may change the schema, unknown to everybody else."""
        self.clean_tags = CLEAN
        self.held_end = b""
        """A ReadyForQuery that waits for a group of ours (see `Group.holds_end`)."""
        self.rested = 0
        """The number of the last group at whose end no transaction was open."""
        self.verdict = b""
        """The error that the client gets for those that cancel requests of ours cause."""
        self.judged = False
        """Whether it has got it."""
        self.takes_turns = False
        """Whether each ReadyForQuery may be another client's: then `receive` returns what belongs to one, and
        the rest when it is called again.
        """
        self.repeatable = False
        """Whether a cancel request that was meant for another client may hit what runs, and nothing of its
        answer has been passed on.
        """
        self.repeats = False
        """Whether one has: what ran is to be asked again, and its answer is swallowed."""
        self.touched = NOTHING_TOUCHED
        """OIDs of tables that may have been changed since the connection was at rest. Only kept where clients
        have a `Watch`.
        """
        self._replacement = b""
        """What the client gets in place of the message that was just swallowed."""

    def count_sequences(self) -> None:
        """From now on whoever may move a sequence keeps the server: its clients ask for currval."""
        self.counts_sequences = True
        self.clean_tags = CLEAN - MOVING

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
            if at or not groups or not self._has_begun(data):
                return data[:at] + self._receive_slowly(data[at:])
            data = data[len(BEGUN) :]
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
                if self.takes_turns:
                    self.rest = data[at:]
                    return data[:at] if self.rest else data
                if not groups and at == size and self.open_group is None:
                    return data
            elif tag == COMMAND_COMPLETE:
                if end > size:
                    break
                if data[at + 5 : at + 8] not in self.clean_tags:
                    self._changed_session(between(data, at + 5, end))
                at = end
                continue
            elif tag in _PASSED and length >= 4:
                at = end
                continue
            else:
                if end > size and not self._passes_unread(tag, length):
                    break
                if not self._handle(tag, length, between(data, at + 5, end), groups[0]):
                    instead, self._replacement = self._replacement, b""
                    if self.repeats:
                        at = 0
                    return data[:at] + instead + self._receive_slowly(data[end:])
                at = end
            if not groups or id(groups[0]) not in PLAIN:
                return data[:at] + self._receive_slowly(data[at:])
        return self._hold(data, at)

    def _has_begun(self, data: bytes) -> bool:
        """Whether this is the answer to a deferred BEGIN, and what is behind it is all the client's."""
        if not data.startswith(BEGUN):
            return False
        if self.groups[0] is BEGUN_QUERY:
            self.groups[0] = QUERY
        elif self.groups[0] is BEGUN_SYNCED:
            self.groups[0] = SYNCED
        else:
            return False
        return True

    def _receive_slowly(self, data: bytes) -> bytes:
        """The same walk for groups with edits, for what comes unasked, and for whatever is behind these in
        the same chunk.

        What comes unasked is held until it is whole: a lease may begin in the middle of it.
        """
        out: list[bytes] = []
        at = 0
        size = len(data)
        while True:
            group = self.head
            if group is not None and not group.failed:
                out.append(group.fakes_due())
            if at + 5 > size:
                self.rest = data[at:]
                break
            tag, length = header(data, at)
            end = at + 1 + length
            if end > size and self._must_be_whole(tag, group) and not self._passes_unread(tag, length):
                self.rest = data[at:]
                self._check_held()
                break
            if self._handle_slowly(tag, length, between(data, at + 5, end), group):
                out.append(data[at:end])
                self.drop_body = False
            else:
                self.drop_body = True
                if self.repeats:
                    out.clear()
                if self._replacement:
                    out.append(self._replacement)
                    self._replacement = b""
            if end > size:
                self.body_left = end - size
                break
            at = end
            if self.refused is not None or (self.takes_turns and tag == READY_FOR_QUERY):
                self.rest = data[at:]
                break
        return b"".join(out)

    @staticmethod
    def _must_be_whole(tag: int, group: Group | None) -> bool:
        """Whether a message cannot be passed in pieces."""
        if group is None or tag in _LOOKED_INTO or (group.describes and tag in DESCRIBING):
            return True
        return tag == DATA_ROW and group.errand is not None

    def _handle_slowly(self, tag: int, length: int, body: bytes, group: Group | None) -> bool:
        """One message outside the fast walk. True if it is the client's."""
        if length < 4:
            raise self._violation(f"message {chr(tag)!r} of length {length}")
        if group is None:
            if tag in _ASYNCHRONOUS or tag == Backend.ERROR_RESPONSE:
                return self._handle(tag, length, body, group)
            raise self._violation(f"unexpected message {chr(tag)!r}")
        if tag == Backend.NOTIFICATION_RESPONSE:
            return self._handle(tag, length, body, group)
        forward = True
        if group.describes and tag in DESCRIBING:
            parameters = b"" if tag == Backend.PARAMETER_DESCRIPTION else group.described
            group.described = parameters + messages.message(tag, body)
        if tag == READY_FOR_QUERY:
            self._ready(body[0] if body else 0, length)
            forward = not (group.quiet or group.holds_end or self.repeats)
            if group.holds_end:
                self.held_end = messages.READY[self.status]
            elif group.swallowed:
                self._end_errand(group)
        elif tag in COMPLETIONS:
            forward = id(group) in PLAIN or group.complete()
            if tag == COMMAND_COMPLETE and not group.swallowed:
                if group.effects:
                    group.completed(body)
                if forward and body[:3] not in self.clean_tags:  # else it is of a statement of ours
                    self._changed_session(body, explained=group.explained and not group.unknown)
        elif tag == DATA_ROW and group.errand is not None and group.errand.row is not None:
            self._errand_row(group.errand.row, body)
        elif tag not in _PASSED:
            forward = self._handle(tag, length, body, group)
        return forward and not group.swallowed

    def _handle(self, tag: int, length: int, body: bytes, group: Group | None) -> bool:
        """A message that is neither passed on blindly nor completes a request. True if it is the client's."""
        if tag == Backend.ERROR_RESPONSE:
            forward = self._error(body, group)
            if id(group) in PLAIN and self.failure is None and len(body) + 4 == length:
                assert group is not None
                self.groups[0] = Group(by_query=group.by_query, failed=True)  # it has had its error
            return forward
        if tag == Backend.PARAMETER_STATUS:
            try:
                name, value = messages.read_parameter_status(body)
            except FramingError as problem:
                raise self._violation(str(problem)) from None
            self.reported = self.reported.but({name: value})
            if group is not None and (group.swallowed or group.holds_end):
                return False
            self.told = self.told.but({name: value})
            return True
        if tag == Backend.NOTIFICATION_RESPONSE:
            try:
                theirs = self._notified(body)
            except FramingError as problem:
                raise self._violation(str(problem)) from None
            if theirs and messages.read_int32(body) == self.process_id:
                return self._is_marked_as_own(body)
            return theirs
        if tag == Backend.COPY_IN_RESPONSE and group is not None:
            self.copy_began(group)
            return True
        if tag in _ASYNCHRONOUS and length >= 4:
            return True
        raise self._violation(f"unexpected message {chr(tag)!r} of length {length}")

    def _error(self, body: bytes, group: Group | None) -> bool:
        """An ErrorResponse ends a request; a FATAL one, or one that nobody asked for, announces the end of
        the connection.
        """
        ours = group is not None and group.swallowed
        unbidden = group is None or (group.errand is not None and group.errand.failed is None)
        if unbidden or b"\0VFATAL\0" in body[:64] or b"\0VPANIC\0" in body[:64]:
            self.failure = messages.read_error(body)
            return False
        assert group is not None
        self.copy_in = False
        self.unnamed = UNKNOWN
        if group.seen < group.ahead and not ours:
            self._begin_refused(body)
            return False
        if ours:
            group.failed = True
            assert group.errand is not None
            assert group.errand.failed is not None
            group.errand.failed(messages.message(Backend.ERROR_RESPONSE, body))
            return False
        if self.repeatable and not self.verdict and b"\0C57014\0" in body:
            self.repeats = True
            if id(group) not in PLAIN:
                group.fail()
            return False
        if b"\0RRevalidateCachedQuery\0" in body:
            self.on_plans_changed()
        renamed = body if self.holder is None else self.holder.own_words(body)
        if renamed is not body:
            self._replacement = messages.message(Backend.ERROR_RESPONSE, renamed)
        if self.verdict and (b"\0C57014\0" in body or b"\0C08P01\0" in body):
            self._replacement = self.verdict
            self.judged = True
        if id(group) in PLAIN:
            return not self._replacement
        self.quiet_failed = group.quiet
        skipped_query = group.by_query and group.seen < group.prefix
        self._replacement = group.fail() or self._replacement
        if skipped_query:
            self.query_skipped()
        return not self._replacement

    def _is_marked_as_own(self, body: bytes) -> bool:
        """A notification that its client has sent itself: a link is told that. True if nothing was added."""
        if self.holder is None or not self.holder.is_link:
            return True
        self._replacement = link.note(link.OWN) + messages.message(Backend.NOTIFICATION_RESPONSE, body)
        return False

    def _begin_refused(self, body: bytes) -> None:
        """The transaction that the client believes to be in has not begun."""
        self.dirty = True
        if self.deserted:
            self.begin_failed()
        else:
            self.stranded = True
            self.refused = messages.read_error(body)

    def _errand_row(self, take: Callable[[bytes], None], body: bytes) -> None:
        try:
            take(body)
        except (FramingError, ValueError, KeyError) as problem:
            raise self._violation(f"no answer to our question: {problem!r}") from None

    def _end_errand(self, group: Group) -> None:
        """A group of ours has ended: tell the client what it was not told meanwhile."""
        errand = group.errand
        if errand is not None and errand.done is not None and not group.failed:
            errand.done()
        self._replacement = self.tell() + self.held_end
        self.held_end = b""

    def tell(self) -> bytes:
        """ParameterStatus of everything that is not as the client was told."""
        if self.told is self.reported:
            return b""
        news = b"".join(
            messages.parameter_status(name, value)
            for name, value in self.reported.items()
            if self.told.get(name) != value
        )
        self.told = self.reported
        return news

    def _ready(self, status: int, length: int) -> None:
        if length != 5 or status not in (IDLE, Status.IN_TRANSACTION, Status.FAILED) or not self.groups:
            raise self._violation("unexpected or malformed ReadyForQuery")
        self.status = status
        self.copy_in = False
        if self.schema_changed and status == IDLE:
            self.schema_changed = False
            self.on_plans_changed()
        self.answered += 1
        if status == IDLE:
            self.rested = self.answered
            if self.asks or self.inspecting:
                self.unread = True
        group = self.groups.popleft()
        if group.swallowed:
            self.own_answers += 1
        if self.opening and (status != IDLE or not group.swallowed):
            self.opening = False
        if group.edits:
            raise self._violation("ReadyForQuery before the replies that it follows")

    def _changed_session(self, tag: bytes, *, explained: bool = False) -> None:
        """A command completed that may have left something in the session.

        Whatever its text could tell is known already if it is `explained`.
        """
        if tag[:3] in _DDL or (tag == _CODE and self.suspects_code()):
            self.schema_changed = True
            self.on_plans_changed()
        if tag[:3] in MOVING and self.counts_sequences:
            self.pins[SEQUENCES] = None
        if explained or tag[:3] in CLEAN:
            return
        if tag == b"DISCARD ALL\0":
            self.discarded()
        elif tag == b"DEALLOCATE ALL\0":
            self.deallocated(None)
        else:
            self.asks |= Ask.ALL
        if tag in _PINNING:
            self.keep([_PINNING[tag]])

    # -- helpers ---------------------------------------------------------------------------------------------

    def _hold(self, data: bytes, at: int) -> bytes:
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
