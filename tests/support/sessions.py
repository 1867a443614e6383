"""Runs sequences of the corpus and writes down every reply, so that two places can be compared.

It knows nothing of how a pooler works: a place is an address to connect to. What is recorded of each step are
all messages up to the last ReadyForQuery, in order, one readable line each. What is not compared, and why:

- the run's own `{u}` and `{k}` are written as such again, since each run has others;
- process ids: of BackendKeyData and of notifications, and in "Process 123 waits"; a pooler's are its own;
- OIDs of what initdb did not create (from 16384), in RowDescription and ParameterDescription, and in the text
  of errors ("cache lookup failed for type 16925");
- the number of a temporary schema, pg_temp_3 and pg_toast_temp_3: it belongs to a server process;
- file, line and routine of an error: PostgreSQL's own source;
- the order of ParameterStatus messages that follow each other directly, and of those at log-in: PostgreSQL
  sends what changed before ReadyForQuery in an order that it does not define;
- the place of NotificationResponse, only in sequences with several sessions: when another session's comes is
  not defined, but their order is; so they are taken out of the steps and compared at the end, session by
  session. With one session all are its own and must come before ReadyForQuery.

Times have no rule, for one would hide differences of DateStyle: no sequence prints the current time.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import random
import re
import struct
from typing import TYPE_CHECKING, Protocol

import attrs

from tests.support import corpus
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import AuthenticationCode, Backend, Frontend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from tests.support.corpus import Message, StatementSequence, Step

FIRST_USER_OID = 16384
SECONDS = 15.0
TYPE_NAMES = {oid: name for name, oid in corpus.TYPE_OIDS.items()}
ERROR_FIELDS_LEFT_OUT = b"FLR"
REPLY_ENDS = {
    "parse": (Backend.PARSE_COMPLETE,),
    "bind": (Backend.BIND_COMPLETE,),
    "describe": (Backend.ROW_DESCRIPTION, Backend.NO_DATA),
    "execute": (
        Backend.COMMAND_COMPLETE,
        Backend.EMPTY_QUERY_RESPONSE,
        Backend.PORTAL_SUSPENDED,
    ),
    "close": (Backend.CLOSE_COMPLETE,),
}

# Numbers of server processes, of their temporary schemas and of what has an OID, in messages and values.
RULES = (
    (re.compile(r"\bpg_(toast_)?temp_\d+"), r"pg_\1temp_N"),
    (re.compile(r"\b([Pp]rocess|PID) \d+"), r"\1 N"),
    (re.compile(r"(cache lookup failed for \w+|with OID) \d+"), r"\1 N"),
)

Recorded = list[str]


class Place(Protocol):
    """Where sessions log in."""

    def connect(self, role: str) -> tuple[RawClient, dict[str, str]]:
        """A connection without a word said, and user and database for the startup message."""


@attrs.frozen
class Direct:
    """PostgreSQL itself, through its Unix socket."""

    path: str

    def connect(self, role: str) -> tuple[RawClient, dict[str, str]]:
        return RawClient.connect(self.path), {"user": role, "database": DATABASE}


@attrs.frozen
class Pooled:
    """A pooler that has a database for each role, of the role's name, which logs in as that role."""

    host: str
    port: int

    def connect(self, role: str) -> tuple[RawClient, dict[str, str]]:
        return RawClient.connect((self.host, self.port)), {"user": role, "database": role}


@attrs.frozen
class Names:
    """What `{u}` and `{k}` stand for in one run."""

    u: str
    k: str

    @classmethod
    def draw(cls) -> Names:
        """Names that no other run has."""
        return cls(f"u{next(_numbers):07}", str(_keys.randrange(10**8, 10**9)))

    def fill(self, text: str) -> str:
        return text.replace("{u}", self.u).replace("{k}", self.k)

    def hide(self, text: str) -> str:
        """The text as it would be in any other run and any other server process."""
        hidden = text.replace(self.u, "{u}").replace(self.k, "{k}")
        for pattern, instead in RULES:
            hidden = pattern.sub(instead, hidden)
        return hidden


_numbers = itertools.count(random.SystemRandom().randrange(10**6))
_keys = random.SystemRandom()


@attrs.frozen
class Transcript:
    """What a run of a sequence was answered: a heading and the recorded replies, step by step."""

    sequence: StatementSequence
    steps: Sequence[tuple[str, Recorded]]

    @property
    def broken(self) -> bool:
        """Whether an answer did not come in time."""
        return any(TIMEOUT in recorded for _, recorded in self.steps)


TIMEOUT = f"nothing came for {SECONDS:g} s"
CLOSED = "the connection was closed"


@attrs.define(eq=False)
class Session:
    """One connection of a sequence, which may end and begin anew."""

    place: Place
    names: Names
    apart: bool
    notifications: list[str] = attrs.field(factory=list)
    parameters: dict[str, str] = attrs.field(factory=dict)
    client: RawClient | None = None

    def perform(self, step: Step) -> Recorded:
        """Do a step and record everything that came back."""
        recorded: Recorded = []
        if self.client is None and step.kind != "login":
            recorded += self._log_in()
            if self.client is None:
                return recorded
        try:
            recorded += self._perform(step)
        except TimeoutError:
            recorded.append(TIMEOUT)
            self.leave()
        except (ConnectionError, BrokenPipeError, EOFError):
            recorded.append(CLOSED)
            self.vanish()
        return recorded

    def leave(self) -> None:
        """Say goodbye."""
        if self.client is not None:
            with contextlib.suppress(OSError):
                self.client.send(messages.TERMINATE)
        self.vanish()

    def vanish(self) -> None:
        """Close the connection, said goodbye or not."""
        if self.client is not None:
            self.client.sock.close()
            self.client = None

    def _perform(self, step: Step) -> Recorded:
        match step.kind:
            case "login":
                self.leave()
                self.parameters = {n: self.names.fill(v) for n, v in step.parameters.items()}
                return self._log_in()
            case "reconnect":
                self.leave()
                return self._log_in()
            case "vanish":
                self.vanish()
                return []
            case "wait":
                return self._wait(step.count)
            case "copy" | "copyfail":
                return self._copy(step)
            case "exchange":
                return self._exchange(step)

    def _log_in(self) -> Recorded:
        """Log in; ParameterStatus messages in alphabetical order, whatever came between."""
        parameters = dict(self.parameters)
        role = parameters.pop("as", USER)
        self.client, who = self.place.connect(role)
        self.client.sock.settimeout(SECONDS)
        self.client.send(messages.startup(who | parameters))
        try:
            recorded = self._until(lambda tag, _: tag == Backend.READY_FOR_QUERY)
        except (ConnectionError, EOFError):
            recorded = [CLOSED]
        reported = [line for line in recorded if line.startswith("ParameterStatus")]
        return sorted(reported) + [line for line in recorded if line not in reported]

    def _exchange(self, step: Step) -> Recorded:
        assert self.client is not None
        sent = [self._filled(one) for one in step.sent]
        self.client.send(b"".join(map(corpus.encode, sent)))
        if step.flushes:
            return self._flushed(sent)
        left = sum(one.kind in ("query", "sync", "more", "function") for one in sent)

        def last(tag: int, _: bytes) -> bool:
            nonlocal left
            left -= tag == Backend.READY_FOR_QUERY
            return bool(left == 0)

        return self._until(last)

    def _flushed(self, sent: Iterable[Message]) -> Recorded:
        """Replies to what was flushed: one end per message, or an error after which nothing comes."""
        recorded: Recorded = []
        for one in sent:
            if one.kind not in REPLY_ENDS:
                continue
            ends = (*REPLY_ENDS[one.kind], Backend.ERROR_RESPONSE)
            failed = False

            def last(tag: int, _: bytes, ends: tuple[int, ...] = ends) -> bool:
                nonlocal failed
                failed = tag == Backend.ERROR_RESPONSE
                return tag in ends

            recorded += self._until(last)
            if failed:
                break
        return recorded

    def _copy(self, step: Step) -> Recorded:
        assert self.client is not None
        query = self._filled(step.sent[0])
        self.client.send(messages.query(query.arguments[0]))
        ends = (Backend.COPY_IN_RESPONSE, Backend.READY_FOR_QUERY)
        recorded = self._until(lambda tag, _: tag in ends)
        if recorded[-1].startswith("ReadyForQuery"):
            return recorded
        data = b"".join(messages.message(Frontend.COPY_DATA, line.encode() + b"\n") for line in query.values)
        end = messages.message(Frontend.COPY_DONE) if step.kind == "copy" else messages.copy_fail("enough")
        self.client.send(data + end)
        return recorded + self._until(lambda tag, _: tag == Backend.READY_FOR_QUERY)

    def _wait(self, count: int) -> Recorded:
        recorded: Recorded = []
        while len(self.notifications) < count:
            recorded += self._until(lambda tag, _: tag == Backend.NOTIFICATION_RESPONSE)
        return recorded

    def _until(self, last: Callable[[int, bytes], bool]) -> Recorded:
        """Record messages up to one for which `last` is true; raises `EOFError` at the end."""
        recorded: Recorded = []
        run: Recorded = []
        while True:
            assert self.client is not None
            received = self.client.receive()
            if received is None:
                self.vanish()
                return [*recorded, *sorted(run), CLOSED]
            tag, body = received
            lines = [self.names.hide(line) for line in describe(tag, body)]
            if tag == Backend.PARAMETER_STATUS:
                run += lines
            else:
                recorded += [*sorted(run), *self._unless_apart(tag, lines)]
                run.clear()
            if last(tag, body):
                return recorded

    def _unless_apart(self, tag: int, lines: Recorded) -> Recorded:
        if tag != Backend.NOTIFICATION_RESPONSE:
            return lines
        self.notifications += lines
        return [] if self.apart else lines

    def _filled(self, message: Message) -> Message:
        return attrs.evolve(
            message,
            arguments=[self.names.fill(one) for one in message.arguments],
            values=[self.names.fill(one) for one in message.values],
        )


def run(sequence: StatementSequence, place: Place, names: Names) -> Transcript:
    """Do all steps, one after the other; stops early when an answer does not come in time."""
    several = len(sequence.sessions) > 1
    sessions = {name: Session(place, names, several) for name in sequence.sessions}
    steps: list[tuple[str, Recorded]] = []
    try:
        for step in sequence.steps:
            recorded = sessions[step.session].perform(step)
            steps.append((step.text, recorded))
            if TIMEOUT in recorded:
                break
    finally:
        for session in sessions.values():
            session.leave()
    if several:
        steps += [(f"notifications of {name}", one.notifications) for name, one in sessions.items()]
    return Transcript(sequence, steps)


def difference(expected: Transcript, got: Transcript) -> str | None:
    """None if the replies are the same, else the first step where they are not, with the one before it."""
    before = ""
    for number, (text, wanted) in enumerate(expected.steps, 1):
        _, received = got.steps[number - 1] if number <= len(got.steps) else ("", ["(not reached)"])
        if wanted != received:
            sequence = expected.sequence
            head = f"{sequence.file}.txt:{sequence.line} === {sequence.title}\n"
            after = f"   after   {_shortened(before)}\n" if before else ""
            changes = difflib.unified_diff(wanted, received, "direct", "got", n=1, lineterm="")
            lines = [_shortened(line) for line in itertools.islice(changes, 3, 23)]
            return f"{head}{after}   step {number}: {_shortened(text)}\n" + "".join(
                f"      {x}\n" for x in lines
            )
        before = text
    return None


def _shortened(line: str) -> str:
    flat = line.replace("\n", " / ")
    return flat if len(flat) <= 240 else f"{flat[:200]} ... ({len(flat)} characters)"


# -- messages as lines ---------------------------------------------------------------------------------------


def describe(tag: int, body: bytes) -> Recorded:
    """A message as a line, or as none if nothing in it can be compared."""
    match tag:
        case Backend.AUTHENTICATION:
            return [] if messages.read_int32(body) == AuthenticationCode.OK else ["asked to authenticate"]
        case Backend.BACKEND_KEY_DATA:
            return []
        case Backend.PARAMETER_STATUS:
            return ["ParameterStatus {} = {!r}".format(*messages.read_parameter_status(body))]
        case Backend.READY_FOR_QUERY:
            return [f"ReadyForQuery {body.decode()}"]
        case Backend.COMMAND_COMPLETE:
            return [f"CommandComplete {_text(body[:-1])}"]
        case Backend.ROW_DESCRIPTION:
            return [f"RowDescription {', '.join(_columns(body))}"]
        case Backend.PARAMETER_DESCRIPTION:
            oids = struct.unpack_from(f"!{len(body[2:]) // 4}I", body, 2)
            return [f"ParameterDescription {', '.join(map(_type, oids))}"]
        case Backend.DATA_ROW:
            return [f"DataRow {', '.join(_row(body))}"]
        case Backend.ERROR_RESPONSE:
            return [f"ErrorResponse {_fields(body)}"]
        case Backend.NOTICE_RESPONSE:
            return [f"NoticeResponse {_fields(body)}"]
        case Backend.NOTIFICATION_RESPONSE:
            channel, payload, _ = body[4:].split(b"\0")
            return [f"NotificationResponse {_text(channel)} {_text(payload)!r}"]
        case Backend.COPY_DATA:
            return [f"CopyData {_text(body)!r}"]
    return [f"{NAMES.get(tag, chr(tag))} {body.hex()}".rstrip()]


NAMES = {
    value: "".join(word.capitalize() for word in name.split("_"))
    for name, value in vars(Backend).items()
    if isinstance(value, int)
}


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace")


def _type(oid: int) -> str:
    return "user-defined" if oid >= FIRST_USER_OID else TYPE_NAMES.get(oid, str(oid))


def _columns(body: bytes) -> Iterable[str]:
    place = 2
    while place < len(body):
        end = body.index(b"\0", place)
        table, number, kind, size, modifier, form = struct.unpack_from("!IhIhih", body, end + 1)
        of = "" if not table else f" of {'a table' if table >= FIRST_USER_OID else table}.{number}"
        yield f"{_text(body[place:end])}: {_type(kind)}/{size}/{modifier}/{form}{of}"
        place = end + 19


def _row(body: bytes) -> Iterable[str]:
    place = 2
    while place < len(body):
        (size,) = struct.unpack_from("!i", body, place)
        place += 4
        if size < 0:
            yield "NULL"
        else:
            yield repr(_text(body[place : place + size]))
            place += size


def _fields(body: bytes) -> str:
    fields = (part for part in body.split(b"\0") if part and part[0] not in ERROR_FIELDS_LEFT_OUT)
    return " ".join(f"{chr(part[0])}={_text(part[1:])!r}" for part in fields)
