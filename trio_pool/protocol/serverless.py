"""The client machine while it has no server: what can be answered without one, and what has to wait for one.

Input is kept in `input`, and `_alone` eats from its front: Sync, Close, the Parse of a statement that is
known to be right, BEGIN, the COMMIT of a transaction that has done nothing, and everything in a transaction
that was lost with its server.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from trio_pool.errors import ClientFault
from trio_pool.protocol.carried import CarriedSession
from trio_pool.protocol.facts import NOTHING
from trio_pool.protocol.failed import FailedTransaction
from trio_pool.protocol.statements import Opening, Statement
from trio_pool.protocol.transactions import Answered, Control, Verb, answer_group, control
from trio_pool.wire import messages
from trio_pool.wire.frames import FRONTEND_LIMITS, between, header
from trio_pool.wire.tags import Frontend, Status, Target

if TYPE_CHECKING:
    from trio_pool.protocol.backend import Preparable
    from trio_pool.protocol.server import ServerSession
    from trio_pool.protocol.settings import Settings
    from trio_pool.protocol.statements import Begin, StatementRegistry

STREAMED: Final = 1 << 16
"""Messages longer than this are forwarded in pieces.

The size of one read from a socket, so that what fits a read is never split.
"""

MOST_OPENINGS: Final = 64
LONGEST_OPENING: Final = 256
"""How many ways to begin a transaction are remembered, and how many bytes long they may be."""

QUERY: Final = Frontend.QUERY
BIND: Final = Frontend.BIND
PARSE: Final = Frontend.PARSE
CLOSE: Final = Frontend.CLOSE
DESCRIBE: Final = Frontend.DESCRIBE
SYNC: Final = Frontend.SYNC
FLUSH: Final = Frontend.FLUSH
TERMINATE: Final = Frontend.TERMINATE
_COPY: Final = frozenset({Frontend.COPY_DATA, Frontend.COPY_DONE, Frontend.COPY_FAIL})


class ClientState(enum.Enum):
    """What the client is doing."""

    IDLE = "idle"
    """No server, no transaction, no request."""
    BEGUN = "begun"
    """In a transaction of which no server knows yet."""
    WAITING = "waiting"
    """Has a request and no server for it."""
    LINKED = "linked"
    """Leases a server."""
    FAILED = "failed"
    """Its transaction was lost with its server, or rolled back there, and it has not ended it yet."""
    ENDING = "ending"
    """Said Terminate, or broke the protocol: nothing it sends matters any more."""


_STATUS: Final = {ClientState.BEGUN: Status.IN_TRANSACTION, ClientState.FAILED: Status.FAILED}
_ALONE: Final = frozenset({ClientState.IDLE, ClientState.BEGUN, ClientState.FAILED})


class ServerlessSession(CarriedSession):
    """The part of a client's session that needs no server."""

    __slots__ = (
        "_dropping",
        "_failed",
        "_openings",
        "_skipping",
        "begun",
        "body_left",
        "defers_begin",
        "input",
        "server",
        "state",
    )

    def __init__(
        self,
        registry: StatementRegistry,
        settings: Settings,
        reported: Settings,
        *,
        max_statements: int,
        rejects: bool,
        defers_begin: bool,
    ) -> None:
        super().__init__(registry, settings, reported, max_statements=max_statements, rejects=rejects)
        self.state = ClientState.IDLE
        self.server: ServerSession | None = None
        self.defers_begin = defers_begin
        """Whether BEGIN is answered at once and sent along with the first statement."""
        self.begun: Begin | None = None
        """What the next server is told ahead of everything else, because the client believes it done."""
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
        self._openings: dict[bytes, Opening] = {}
        """Groups that begin a transaction by a statement of the client's."""

    def refuse(self, error: bytes) -> None:
        """The wait has ended without a server: the request gets this ErrorResponse, in sequence."""
        assert self.state is ClientState.WAITING
        if self.begun is None:
            self.state = ClientState.IDLE
        else:
            self._fail_transaction(b"")
        self._refuse_first(error)
        self._alone()

    def _fail_transaction(self, cause: bytes, *, implicit: bool = False) -> None:
        """The client's transaction is lost; `cause` is the error that its next statement gets."""
        self.begun = None
        self.state = ClientState.FAILED
        self._failed = FailedTransaction(cause, implicit)

    def _plainly_wants_server(self, data: bytes) -> bool:
        """Whether a chunk begins with a whole Query or Bind that no `_alone` need look at. Hot path."""
        if len(data) <= 5 or self._skipping or self.body_left:
            return False
        length = header(data, 0)[1]
        if not 4 <= length < len(data):
            return False
        if data[0] == QUERY:
            return not self.defers_begin or control(between(data, 5, length)) is None
        if data[0] != BIND:
            return False
        portal_end = data.find(b"\0", 5, length)
        name_end = data.find(b"\0", portal_end + 1, length)
        if portal_end < 0 or name_end <= portal_end + 1 or self.statements is None:
            return False
        statement = self.statements.get(data[portal_end + 1 : name_end])
        return isinstance(statement, Statement) and not statement.controls

    def _opens_as_before(self, data: bytes) -> bool:
        """Whether a chunk begins a transaction, and is answered, as it was before. Hot path."""
        opening = self.registry.openings.get(data) or self._openings.get(data)
        if opening is None or self._skipping or self.body_left:
            return False
        self.begun = opening.begin
        if opening.replaces_unnamed:
            self.unnamed, self.unnamed_facts = opening.unnamed, NOTHING
        self.replies += opening.replies
        self.state = ClientState.BEGUN
        self.input = b""
        return True

    def _remember_opening(self, tag: int, data: bytes, replies: bytes, found: Control) -> None:
        """A chunk has begun a transaction, and did nothing else."""
        if found.bold:
            return  # it may be answered otherwise the next time
        openings = self._openings if tag == BIND else self.registry.openings
        if len(openings) < MOST_OPENINGS and len(data) <= LONGEST_OPENING:
            begin = self.registry.begin(found.sql, bound=tag != QUERY)
            openings[data] = Opening(begin, replies, tag != BIND, self.unnamed)

    def _alone(self) -> None:
        """Eat from the front of `input` what needs no server; stop at what does, or at what is not whole."""
        while self.input and self.state in _ALONE and self.fault is None:
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
            elif self.state is ClientState.FAILED:
                if not self._answer_failed(tag, end, whole):
                    self.state = ClientState.WAITING
            elif self.defers_begin and whole and self._control_alone(tag, end):
                pass
            elif whole and (
                (tag == PARSE and self._prepare_alone(self.input[5:end], self.input[end : end + 1]))
                or (tag == DESCRIBE and self._describe_alone(self.input[5:end]))
            ):
                self._drop(end)
            else:
                self.state = ClientState.WAITING

    def _answer(self, tag: int, body: bytes) -> None:
        """Sync, Close and Terminate never need a server."""
        if tag == SYNC:
            if self._failed is not None and self._failed.implicit:
                self.replies += self._failed.refuse()
                self._end_failed()
            self._skipping = False
            self.replies += self._ready()
        elif tag == TERMINATE:
            self.state = ClientState.ENDING
        else:
            if body[:1] == b"S":
                self._forget(between(body, 1, len(body) - 1))
            self.replies += messages.CLOSE_COMPLETE

    def _prepare_alone(self, body: bytes, following: bytes) -> bool:
        """Parse of a named statement that some server has accepted before needs none now; it gets there with
        its first Bind. So does an unnamed one, if it is described and not bound at once: `following` is the
        tag behind it.

        That is more than thrift: a program that prepares in one connection and waits, while it holds a
        transaction open in another, would wait for itself.
        """
        name, separator, rest = body.partition(b"\0")
        names = self.statements if self.statements is not None else {}
        if not name:
            descriptions = self.registry.descriptions
            if not descriptions.kept or not separator or (following and following[0] == BIND):
                return False
            if self.registry.described(rest, self.settings) is None:
                return False
            self._parse_unnamed(rest)
            self.replies += messages.PARSE_COMPLETE
            return True
        if name in names or len(names) >= self.max_statements:
            return False
        statement = self.registry.proven(rest, self.settings)
        if statement is None:
            return False
        self.registry.client_parses += 1
        self._remember(name, statement)
        self.replies += messages.PARSE_COMPLETE
        return True

    def _describe_alone(self, body: bytes) -> bool:
        """Describe of a statement of which it is known what a server would say (`descriptions`)."""
        descriptions = self.registry.descriptions
        if not descriptions.kept or body[:1] != b"S" or body.find(b"\0") != len(body) - 1:
            return False
        name = between(body, 1, len(body) - 1)
        description: bytes | None = None
        if name:
            statement = self.statements.get(name) if self.statements is not None else None
            if isinstance(statement, Statement):
                content = self.registry.content_of(statement, self.settings)
                description = None if content is None else descriptions.find(content)
        elif self.unnamed is not None:
            description = self.registry.described(self.unnamed, self.settings)
        if description is None:
            return False
        descriptions.answers += 1
        self.replies += description
        return True

    def _answer_known(self, data: bytes, status: int) -> bytes:
        """What is left of a chunk, in a transaction at rest, behind what can be answered as well without its
        server: Parse and Describe of what is known, and what belongs to them.
        """
        at = 0
        while at + 5 <= len(data):
            tag, length = header(data, at)
            end = at + 1 + length
            if length < 4 or end > len(data):
                break
            if tag == PARSE:
                if not self._prepare_alone(data[at + 5 : end], data[end : end + 1]):
                    break
            elif tag == DESCRIBE:
                if not self._describe_alone(data[at + 5 : end]):
                    break
            elif tag == CLOSE and length > 5 and data[at + 5] == Target.STATEMENT:
                self._answer(CLOSE, data[at + 5 : end])
            elif tag == SYNC and at:
                self.replies += messages.READY[status]
            elif tag != FLUSH or not at:
                break
            at = end
        return data[at:] if at else data

    def _control_alone(self, tag: int, end: int) -> bool:
        """BEGIN outside of a transaction, or what ends one of which no server knows."""
        if tag == QUERY:
            found = control(between(self.input, 5, end - 1))
            if found is None or not self._accepts(found):
                return False
            self._controlled(found, bound=False)
            self.unnamed = None  # a Query drops it
            replies = messages.command_complete(found.tag) + self._ready()
            self.replies += replies
            if found.verb is Verb.BEGIN and len(self.input) == end:
                self._remember_opening(tag, self.input, replies, found)
            self._drop(end)
            return True
        if tag not in (PARSE, BIND):
            return False
        answered = answer_group(self.input, self._accepts, self._text_of)
        if answered is None:
            return False
        self._group_answered(tag, answered)
        return True

    def _group_answered(self, tag: int, answered: Answered) -> None:
        if answered.parsed is not None:
            name, rest = answered.parsed
            self._parsed_alone(name, rest)
        if answered.control is not None:
            self._controlled(answered.control, bound=True)
        self.replies += answered.replies
        found = answered.control
        if found is not None and found.verb is Verb.BEGIN and self.input[answered.size :] == messages.SYNC:
            # Not if it depends on what else the client has prepared.
            alone = answered.parsed is not None and answered.parsed[0] == answered.bound == b""
            if alone or (tag == BIND and answered.bound):
                self._remember_opening(tag, self.input, answered.replies + self._ready(), found)
        self._drop(answered.size)

    def _remember(self, name: bytes, statement: Preparable | None) -> None:
        super()._remember(name, statement)
        self._openings.clear()

    def _accepts(self, found: Control) -> bool:
        """Whether a statement can be answered now, without a server, as a server would."""
        if self.state is ClientState.BEGUN:
            return found.verb is not Verb.BEGIN  # a server has a warning for it, or changes the modes
        if found.verb is not Verb.BEGIN:
            return False
        return not found.bold or self.reported.get("in_hot_standby") == "off"

    def _controlled(self, found: Control, *, bound: bool) -> None:
        if found.verb is Verb.BEGIN:
            self.begun = self.registry.begin(found.sql, bound=bound)
            self.state = ClientState.BEGUN
        elif not found.chain:
            self.begun = None
            self.state = ClientState.IDLE

    def _answer_failed(self, tag: int, end: int, whole: bool) -> bool:
        """A message in a failed transaction.

        False if it ends the transaction and needs a server for what follows.
        """
        failed = self._failed
        assert failed is not None
        body = self.input[5:end]
        reply: bytes | None
        if failed.implicit:
            reply = failed.refuse()
            self._skipping = tag not in (QUERY, Frontend.FUNCTION_CALL)
            self._end_failed()
        elif tag in (QUERY, Frontend.FUNCTION_CALL):
            reply = failed.query(body.rstrip(b"\0")) if whole and tag == QUERY else failed.refuse()
        else:
            reply = failed.request(tag, body, self._text_of) if whole else None
            if reply is None:
                reply = failed.refuse()
                self._skipping = True
            elif tag == PARSE:
                name, _, rest = body.partition(b"\0")
                self._parsed_alone(name, rest)
        if failed.over:
            self._end_failed()
        if reply is None:
            return False
        self.replies += reply
        if tag in (QUERY, Frontend.FUNCTION_CALL):
            self.replies += self._ready()
        self._drop(end)
        return True

    def _end_failed(self) -> None:
        self._failed = None
        self.state = ClientState.IDLE

    def _parsed_alone(self, name: bytes, rest: bytes) -> None:
        """A Parse of what begins or ends a transaction was accepted without a server."""
        if name:
            self.registry.client_parses += 1
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
        return messages.READY[_STATUS.get(self.state, Status.IDLE)]

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
