"""What a server's PostgreSQL session holds: settings, prepared statements, and what pins a client to it; with
the requests of ours that bring it to what its next client left elsewhere.

Three ways to deal with what one client's session has and another's has not:

- Settings are compared as a whole when a lease begins (`adopt`).
- Prepared statements of the protocol have names of ours, so those of many clients stand side by side
  (`statements`). Where a client can see a name, in SQL (PREPARE, EXECUTE, DEALLOCATE), exactly that name is
  made on the server what it is in the client's session, just before it is used (`laid`, `lay_out`).
- What cannot be moved pins the client until PostgreSQL says that it is gone (`inspect`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

from trio_pool.protocol import inspection, link, settings
from trio_pool.protocol.facts import Ask
from trio_pool.protocol.inspection import Inspection
from trio_pool.protocol.prepared import ServerStatements
from trio_pool.protocol.replies import BEGIN_REQUESTS, BEGUN_QUERY, OPENING, QUERY, Action, Edit, Errand
from trio_pool.protocol.reply_queue import ReplyQueue
from trio_pool.protocol.statements import Begin, SqlStatement, Statement
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend as BackendTag
from trio_pool.wire.tags import Frontend, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Mapping

    from trio_pool.protocol.settings import Settings
    from trio_pool.wire.messages import ErrorFields

Preparable = Statement | SqlStatement
UNREADABLE: Final = "session state that could not be read"
SEQUENCES: Final = "sequence values"
NOTHING: Final = Ask.NOTHING

UNKNOWN: Final = bytes(bytearray(b"whatever a failed group left"))  # compared by identity only: no client's
_UNBINDABLE: Final = messages.message(Frontend.BIND, messages.spoiled(1))
_EMPTY: Final = b"\0\0\0"  # a text without a statement, and no types
TAKEN: Final = SqlStatement(b"")
"""What stands under a name, and no client may find."""
DOUBTFUL: Final = SqlStatement(b"")
"""What stands under a name if something does, after what was to change it has failed."""
ANYTHING: Final = SqlStatement(b"")
"""What is to stand under a name that must be in use, whatever it is."""


class _Change:
    """One change of what stands under a name, and the number of the group that relies on it."""

    __slots__ = ("group",)

    def __init__(self) -> None:
        self.group = -1


class Holder(Protocol):
    """What a server needs of the session of the client that leases it."""

    is_link: bool

    def own_words(self, body: bytes) -> bytes:
        """An ErrorResponse's body, with the client's names of statements in place of ours."""


class BackendSession(ReplyQueue):
    """The session behind one server connection."""

    __slots__ = (
        "asks",
        "asks_for",
        "counts_sequences",
        "defaults",
        "deserted",
        "dirty",
        "distrusted",
        "echoes",
        "expected",
        "failure",
        "forgets_sequences",
        "holder",
        "inspected_at",
        "inspecting",
        "keeps",
        "laid",
        "listening",
        "mark",
        "marker",
        "meaning_known",
        "next_is_own",
        "on_link_note",
        "pins",
        "process_id",
        "refused",
        "reported",
        "rest",
        "settings",
        "silenced",
        "statements",
        "status",
        "stranded",
        "told",
        "unnamed",
        "unnamed_in",
        "unread",
        "unsure",
    )

    def __init__(self, reported: Settings, *, max_statements: int, process_id: int) -> None:
        super().__init__()
        self.status: int = Status.IDLE
        self.unread = False
        """Whether something may have been changed for good since the session was read."""
        self.process_id = process_id
        """The backend's, as it appears in notifications."""
        self.defaults = reported
        """What the server reported after its login."""
        self.reported = reported
        self.told = reported
        """What the client that leases it has been told of that."""
        self.expected = reported
        """What it reports if nothing has been set behind our back."""
        self.rest = b""
        """The start of a message that is looked into."""
        self.settings = settings.NONE
        self.asks = NOTHING
        """What may have changed in the session and is to be asked before the lease can end."""
        self.asks_for: set[str] = set()
        """Parameters that have to be asked for by name, since no view lists them."""
        self.inspected_at = 0
        """The number of the group behind the latest question."""
        self.inspecting = False
        """Whether PostgreSQL has been asked and has not answered yet."""
        self.pins: dict[str, None] = {}
        """Why the client must keep this server beyond its transaction; empty if it need not."""
        self.keeps: set[str] = set()
        """Those of the pins that nothing removes: the connection ends with the lease."""
        self.dirty = False
        """Whether something may be left in the session that the next client must not find."""
        self.failure: ErrorFields | None = None
        """The FATAL error with which the server announced its end."""
        self.forgets_sequences = False
        """Whether the next client must not find the last values of sequences."""
        self.distrusted = False
        """Whether everything that the client runs is suspected."""
        self.refused: ErrorFields | None = None
        """Why the server did not take the settings of the client that leases it. What the client sent behind
        them has no effect, and what is answered to it is still to be received.
        """
        self.deserted = False
        """Whether nobody waits for what is answered."""
        self.stranded = False
        """Whether the deferred BEGIN at the head has failed, and what it means for the server is still to be
        drawn.
        """
        self.statements = ServerStatements(max_statements)
        self.laid: dict[bytes, Preparable] = {}
        """What stands under names that clients chose."""
        self.unsure: dict[bytes, _Change] = {}
        """Those of them whose latest change by us is not answered yet."""
        self.counts_sequences = False
        """Whether moving a sequence pins: then its last value belongs to the session."""
        self.holder: Holder | None = None
        """The client that leases it, or did last."""
        self.listening = False
        """Whether the session may listen to something."""
        self.silenced: frozenset[bytes] = frozenset()
        """Channels whose notifications reach the client in another way, but for those that it sends itself,
        which PostgreSQL delivers ahead of ReadyForQuery.
        """
        self.echoes: deque[bytes] = deque()
        """Notifications that the client has had from here and will get in that other way again."""
        self.meaning_known = True
        """Whether the settings that change what texts mean are those with which the lease began."""
        self.on_link_note: Callable[[bytes], None] | None = None
        """Called with what the trio-pool at the other end tells; None if there is none."""
        self.next_is_own = False
        """Whether the trio-pool at the other end has said so of the next notification."""
        self.marker = b""
        """A channel that no client knows of."""
        self.mark: tuple[bytes, frozenset[bytes]] | None = None
        """The notification on it behind which these channels are silenced; None once it came."""
        self.unnamed: bytes | None = None
        """Content of the unnamed statement, None if there is none, `UNKNOWN` behind an error: whatever was
        to replace it may have been skipped.
        """
        self.unnamed_in = -1
        """The group in which it was parsed."""

    def query(self) -> None:
        """A Query is sent. Hot path."""
        if self.open_group is OPENING and not self.open_count:
            self.unnamed = self.open_group = None
            self.sending += 1
            self.groups.append(BEGUN_QUERY)
        elif self.open_count or self.open_group is not None:
            if self.only_begun:
                self.unnamed = None
            else:
                self.unnamed = UNKNOWN  # the Query may be skipped
                # PostgreSQL 18 then fails the statement behind the next Sync: "unexpected state STARTED".
                self.dirty = True
            super().query()
        else:
            self.unnamed = None
            self.sending += 1
            self.groups.append(QUERY)

    def function_call(self) -> None:
        """A FunctionCall is sent: a Query that leaves the unnamed statement alone. It may be any function."""
        unnamed = self.unnamed
        self.query()
        if self.unnamed is None:
            self.unnamed = unnamed
        self.asks |= Ask.ALL

    # -- prepared statements ---------------------------------------------------------------------------------

    def has_statement(self, statement: Statement) -> bool:
        """Whether a Bind or Describe of the statement can be sent as it is. Hot path."""
        return self.statements.has(statement, self.open_group)

    def prepare(self, statement: Statement) -> tuple[bytes, Edit]:
        """What to send so that the statement is there, and the edit of its Parse, which the caller may extend
        and registers with `edited`.
        """
        requests = b""
        if statement in self.statements.unconfirmed or statement in self.statements.present:
            self.swallow(self.statements.close(statement, self.opened()))
            requests = messages.close_statement(statement.name)
        for oldest in self.statements.overflow():
            self.swallow(self.statements.close(oldest, self.opened()))
            requests += messages.close_statement(oldest.name)
        edit = self.statements.parse(statement, self.opened())
        return requests + messages.parse(statement.name, statement.rest), edit

    def swallow_run(self, sql: str) -> bytes:
        """What to send so that a statement of ours which returns no rows runs within the client's group."""
        requests = settings.run_apart(sql.encode())
        for _ in requests:
            self.swallow()
        self.parse_unnamed(UNKNOWN)
        return b"".join(requests)

    def prepare_unnamed(self, rest: bytes | None, edit: Edit | None = None) -> bytes:
        """What to send so that the server's unnamed statement is this one, or none."""
        self.parse_unnamed(rest)
        self.swallow(edit)
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
    def between_messages(self) -> bool:
        return not self.rest and not self.body_left

    @property
    def free(self) -> bool:
        """Whether another client may have this server, as far as the protocol can tell.

        Written out in the hot path as well.
        """
        idle = self.status == Status.IDLE
        return idle and not self.waiting and self.between_messages and self.failure is None

    @property
    def may_have_failed(self) -> bool:
        """Whether the transaction may be an aborted one, in which even a Parse fails."""
        return self.status == Status.FAILED or any(not group.swallowed for group in self.groups)

    # -- a deferred BEGIN ------------------------------------------------------------------------------------

    def begin(self, begin: Begin) -> bytes:
        """What to send ahead of the first statement of a transaction that the client has begun already."""
        self.opening = True
        if self.has_statement(begin.statement):
            self.open_group = OPENING
            return begin.run
        requests, edit = self.prepare(begin.statement)
        self.edited(edit)
        for _ in range(BEGIN_REQUESTS):
            self.swallow()
        self.opened().ahead = self.open_count
        return requests + begin.run

    def begin_apart(self) -> bytes:
        """What to send so that nothing of the client's stands in one group with its BEGIN. An error in front
        of a Query would skip it, ReadyForQuery included.
        """
        if not self.only_begun:
            return b""
        self.end_own_group(Errand(failed=self._not_adopted))
        return messages.SYNC

    # -- names that clients chose ----------------------------------------------------------------------------

    def lay_out(
        self,
        wanted: Mapping[bytes, Preparable | None],
        failed: Callable[[bytes], None] = lambda _: None,
        *,
        for_query: bool = False,
    ) -> bytes:
        """What to send so that each name stands for what it does in the client's session (None: nothing).

        Each name that differs is a group of its own, unless the client's group is open. `failed` is told the
        error if something cannot be prepared any more, as EXECUTE would find out on a direct connection.

        An error within the client's group would skip a Query, ReadyForQuery included. So nothing is prepared
        there `for_query`: EXECUTE does not find it.
        """
        within = self.sends_group or self.query_may_be_skipped
        requests = b""
        changes = []
        for name, statement in wanted.items():
            if within and for_query and statement is not ANYTHING and self.laid.get(name) is not statement:
                statement = None
            if not self._stands(name, statement):
                change = _Change()
                requests += self._lay(name, statement, change, wanted, failed)
                changes.append(change)
        for change in changes:
            change.group = self.sending
        return requests

    def _stands(self, name: bytes, statement: Preparable | None) -> bool:
        """Whether a name is certain to stand for this. What was changed for a group that is not answered may
        not have happened; whatever relies on it in the same group fails then as well.
        """
        if not self.is_sure(name):
            return False
        stands = self.laid.get(name)
        return stands is not None if statement is ANYTHING else stands is statement

    def is_sure(self, name: bytes) -> bool:
        """Whether what we have changed of a name has happened, unless the group that is being sent fails."""
        change = self.unsure.get(name)
        return (change is None or change.group == self.sending) and self.laid.get(name) is not DOUBTFUL

    def _lay(
        self,
        name: bytes,
        statement: Preparable | None,
        change: _Change,
        wanted: Container[bytes],
        failed: Callable[[bytes], None],
    ) -> bytes:
        names = [name]
        requests = [messages.close_statement(name)] if name in self.laid or name in self.unsure else []
        if statement is ANYTHING:
            statement = TAKEN
            requests.append(messages.parse(name, _EMPTY))
        elif isinstance(statement, Statement):
            requests.append(messages.parse(name, statement.rest))
        elif statement is not None:
            requests += statement.requests
            self.parse_unnamed(UNKNOWN)
        self.laid.pop(name, None)
        if statement is not None:
            self.laid[name] = statement
            oldest = next((n for n in self.laid if n not in wanted), None)
            if oldest is not None and len(self.laid) > self.statements.limit:
                requests.insert(0, messages.close_statement(oldest))
                del self.laid[oldest]
                names.append(oldest)

        def done() -> None:
            for changed in names:
                if self.unsure.get(changed) is change:
                    del self.unsure[changed]

        def undo(error: bytes = b"") -> None:
            for changed in names:
                if self.unsure.get(changed) is change:
                    del self.unsure[changed]
                    self.laid[changed] = DOUBTFUL
            if error:
                failed(error)

        apart = not (self.sends_group or self.query_may_be_skipped)
        if not apart or statement not in (None, TAKEN):  # those two cannot fail
            self.unsure.update(dict.fromkeys(names, change))
        if apart:
            self.own_group(Errand(done=done, failed=undo))
            return b"".join(requests) + messages.SYNC
        for _ in requests[1:]:
            self.swallow()
        self.swallow(Edit(0, Action.SWALLOW, done=done, undo=undo))
        return b"".join(requests)

    def take_name(self, name: bytes) -> bytes:
        """What to send so that a Parse of this name fails because it is taken."""
        self.swallow()
        self.swallow()
        self.laid[name] = DOUBTFUL
        return messages.close_statement(name) + messages.parse(name, _EMPTY)

    def lay_out_exactly(self, wanted: Mapping[bytes, Preparable]) -> bytes:
        """What to send so that the session has the prepared statements of the client and no others: for who
        looks at pg_prepared_statements.
        """
        requests = b""
        alone = not self.sends_group
        for statement in [*self.statements.present]:
            requests += messages.close_statement(statement.name)
            self.swallow(self.statements.close(statement, self.opened()))
        if alone and requests:
            self.end_own_group()
            requests += messages.SYNC
        gone = {name: None for name in self.names_laid if name not in wanted}
        return requests + self.lay_out(gone) + self.lay_out(wanted)

    @property
    def names_laid(self) -> list[bytes]:
        """Names that clients chose under which something may stand."""
        return [*{**self.laid, **self.unsure}]

    def prepared_by_sql(self, name: bytes, statement: SqlStatement) -> None:
        """PREPARE has completed; what is not answered yet was sent behind it."""
        if name not in self.unsure:
            self.laid[name] = statement

    def deallocated(self, name: bytes | None) -> None:
        """DEALLOCATE has completed. None: ALL, or DISCARD ALL.

        What is not answered yet was sent behind it.
        """
        if name is None:
            self.statements.clear()
        for gone in [*self.laid] if name is None else [name]:
            if gone not in self.unsure:
                self.laid.pop(gone, None)

    # -- statements of our own -------------------------------------------------------------------------------

    def _run_own(self, sql: bytes) -> bytes:
        """A Query of ours, whose replies are swallowed."""
        self.own_group(by_query=True)
        self.unnamed = None
        return messages.message(Frontend.QUERY, sql + b"\0")

    # -- what the next client needs --------------------------------------------------------------------------

    def adopt(self, wanted: Settings) -> bytes:
        """What to send ahead of a client's first statement: the settings as the client left them."""
        if wanted is self.settings:
            return b""
        requests = settings.difference(self.settings, wanted, self.reported)
        self.settings = wanted
        if requests:
            self.own_group(Errand(failed=self._not_adopted, done=self._adopted))
            self.unnamed = None
        return requests

    def restore(self, wanted: Settings) -> bytes:
        """What to send behind a RESET of the client's, so that it goes back to its StartupMessage."""
        self.own_group(Errand(failed=lambda _: None))
        self.unnamed = None
        self.asks |= Ask.SETTINGS
        return settings.restoration(wanted)

    def _adopted(self) -> None:
        self.expected = self.reported

    def _not_adopted(self, error: bytes) -> None:
        self.dirty = True
        if not self.deserted:
            self.refused = messages.read_error(error[5:])

    def desert(self) -> None:
        """The client is gone; what it was told to be begun need not begin any more."""
        self.deserted, self.refused = True, None
        if self.stranded:
            self.begin_failed()

    def begin_failed(self) -> None:
        """A deferred BEGIN has failed: the server skips what stands behind it, a Query included."""
        self.stranded = False
        group = self.head
        assert group is not None
        group.fail()
        if group.by_query:
            self.query_skipped()

    # -- notifications ---------------------------------------------------------------------------------------

    def listen_to(self, channels: frozenset[bytes], echoes: deque[bytes]) -> bytes:
        """What to send so that the session listens to what its client does: then PostgreSQL itself knows what
        LISTEN and UNLISTEN make of it, and a client hears its own notifications in time.
        """
        self.listening, self.silenced, self.echoes = True, channels, echoes
        return self._run_own(b"; ".join(b"LISTEN " + messages.quoted(name) for name in sorted(channels)))

    def unlisten(self) -> bytes:
        """What to send so that the next client hears nothing."""
        self.listening, self.silenced = False, frozenset()
        return self._run_own(b"UNLISTEN *")

    def announce(self, marker: bytes, token: bytes, channels: frozenset[bytes]) -> bytes:
        """What to send so that a notification marks the point behind which these channels reach the client in
        another way. It comes ahead of the first of the two ReadyForQuery.
        """
        self.marker, self.mark = marker, (token, channels)
        name = messages.quoted(marker)
        announced = self._run_own(b"LISTEN %b; NOTIFY %b, '%b'" % (name, name, token))
        return announced + self._run_own(b"UNLISTEN " + name)

    def _notified(self, body: bytes) -> bool:
        """A NotificationResponse. True if the client gets it from here."""
        sender = messages.read_int32(body)
        channel, payload = messages.read_notification(body)
        if self.on_link_note is not None and sender == link.NOBODY and channel == link.CHANNEL:
            if payload == link.OWN:
                self.next_is_own = True
            else:
                self.on_link_note(payload)
            return False
        own, self.next_is_own = sender == self.process_id or self.next_is_own, False
        if channel == self.marker:
            if self.mark is not None and payload == self.mark[0]:
                self.silenced = self.mark[1]
                self.mark = None
            return False
        if channel not in self.silenced:
            return True
        if own:
            self.echoes.append(messages.message(BackendTag.NOTIFICATION_RESPONSE, body))
            return True
        return False

    # -- what the client leaves ------------------------------------------------------------------------------

    @property
    def must_ask(self) -> bool:
        """Whether the lease cannot end before PostgreSQL was asked what the session holds. Hot path."""
        return self.asks is not NOTHING or self.reported is not self.expected

    @property
    def may_stay(self) -> bool:
        """Whether the lease may go on when the server is at rest."""
        return bool(self.pins or self.asks or self.listening or self.inspecting)

    def distrust(self) -> None:
        """What the client runs may do anything, whatever its text says: ask for everything, then reset it."""
        self.asks |= Ask.ALL
        self.dirty = self.distrusted = True

    def suspect_again(self) -> None:
        """Ask for everything once more if something was sent behind the question."""
        if self.distrusted and (self.sending > self.inspected_at or self.sends_group):
            self.asks |= Ask.ALL

    @property
    def can_be_reclaimed(self) -> bool:
        """Whether nothing but last values of sequences keeps the server, which nobody has asked for yet."""
        return self.pins.keys() == {SEQUENCES} and not self.counts_sequences and self.free

    def reclaim(self) -> None:
        """The server is needed more than they are."""
        self.pins.clear()
        self.forgets_sequences = True

    def keep(self, reasons: Iterable[str]) -> None:
        """Something is about to happen that only the end of the connection takes back."""
        self.keeps.update(reasons)
        self.pins.update(dict.fromkeys(reasons))

    def inspect(self, names: Iterable[str], found: Callable[[Inspection], None]) -> bytes:
        """The question what the session holds; `names` are parameters that the client had set by name."""
        if self.reported is not self.expected:
            self.asks |= Ask.SETTINGS
            self.expected = self.reported
        asked = Inspection(self.asks, laid=dict(self.laid))
        requests = inspection.request(self.asks, self.asks_for.union(names))
        self.asks = NOTHING
        self.asks_for.clear()  # what is sent from now on is asked for next time

        self.inspecting = True
        self.inspected_at = self.sending + 1

        def done() -> None:
            self.inspecting = False
            self._inspected(asked)
            self.suspect_again()
            found(asked)

        def failed(_: bytes) -> None:
            self.inspecting = False
            self.pins[UNREADABLE] = None

        self.own_group(Errand(row=asked.row, done=done, failed=failed))
        self.unnamed = None
        return requests

    def _inspected(self, asked: Inspection) -> None:
        for pin in asked.pins_asked - asked.pins:
            self.pins.pop(pin, None)
        self.pins.update(dict.fromkeys(sorted(asked.pins)))
        self.pins.pop(UNREADABLE, None)
        self.unread = bool(self.asks)
        if Ask.SETTINGS in asked.asks:
            self.settings = asked.settings(self.defaults.get("session_authorization"))

    def discarded(self) -> None:
        """DISCARD ALL has completed."""
        self.deallocated(None)
        self.listening, self.silenced, self.mark = False, frozenset(), None
        self.settings = settings.NONE
        self.unread = False
        self.expected = self.defaults
        self.asks = NOTHING
        self.asks_for.clear()
        self.pins = dict.fromkeys(sorted(self.keeps))
        self.dirty = self.distrusted = False

    def clean(self) -> bytes | None:
        """The next thing to send so that the connection becomes free and spotless; b"" to wait for replies,
        None when it is.

        One step at a time: `settle`, then discard what the session may hold. Used when the client is gone.
        """
        self.desert()
        step = self.settle()
        if step is not None:
            return step
        if self.forgets_sequences:
            self.forgets_sequences = False
            return self._run_own(b"DISCARD SEQUENCES")
        to_discard = self.dirty or self.must_ask or not self.pins.keys() <= self.keeps
        if self.listening and not to_discard:
            return self.unlisten()
        if to_discard:
            self.discarded()
            return self._run_own(b"DISCARD ALL")
        self.deserted = False
        return None

    def settle(self) -> bytes | None:
        """The next thing to send so that no transaction is open; b"" to wait for replies, None when none is.

        One step at a time: end a COPY, close the open group, wait, roll back.
        """
        if self.copy_in:
            self.copy_ended()
            if self.groups:
                return messages.copy_fail("client is gone")
            return messages.copy_fail("client is gone") + self._end_group()
        if self.sends_group:
            return self._end_group()
        if self.groups or not self.between_messages:
            return b""
        if self.status != Status.IDLE:
            return self._run_own(b"ROLLBACK")
        return None

    def _end_group(self) -> bytes:
        """Sync alone would commit what the client has not asked to be committed; so a Bind that fails goes in
        front.
        """
        self.request()
        if self.deserted:
            self.sync()
        else:
            self.asks |= Ask.ALL  # what completes in it is not looked at any more
            self.end_own_group(Errand(failed=lambda _: None))
        return _UNBINDABLE + messages.SYNC
