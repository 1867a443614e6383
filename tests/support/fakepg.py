"""A PostgreSQL backend as a pure machine, behind its login: bytes in, bytes out.

It understands a handful of texts (tests/support/fakesql.py) and otherwise obeys the rules of the extended
protocol that matter to a pooler: where errors skip to, what drops the unnamed statement and the portals, what
COPY ignores, when a transaction is implicit. tests/protocol/test_fakepg.py compares it with real ones.

With `noise` (a random generator) it puts notices and notifications between its replies.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

import attrs

from tests.support import fakesql
from tests.support.fakesql import Command, Failure
from trio_pool.wire import messages
from trio_pool.wire.frames import MAX_LARGE, Assembler
from trio_pool.wire.tags import Status

if TYPE_CHECKING:
    from random import Random

DEFAULTS: Final = {"application_name": ""}
COPY_IN_RESPONSE = messages.message(ord("G"), b"\0\0\1\0\0")
COPY_OUT_RESPONSE = messages.message(ord("H"), b"\0\0\1\0\0")


@attrs.define(eq=False)
class Statement:
    """A prepared statement; `gives_rows` as it was when it was prepared, `text` is that of a PREPARE."""

    command: Command
    gives_rows: bool
    text: str = ""


@attrs.define(eq=False)
class Portal:
    """A bound statement; `rows` is what it still has to give, None until it runs. What gives no rows runs
    once. `gives_rows` as it was when it was bound.
    """

    command: Command
    parameters: list[str | None]
    gives_rows: bool
    rows: list[tuple[str, ...]] | None = None
    tag: str = "SELECT"


@attrs.define(eq=False)
class FakePostgres:
    """One backend. `receive` takes what a client sends, `output` collects the replies, `closed` tells that it
    has ended the connection. `defaults` are what RESET goes back to, `changed` what the session has set.
    """

    noise: Random | None = None
    defaults: dict[str, str] = attrs.field(factory=lambda: dict(DEFAULTS))
    output: bytearray = attrs.field(factory=bytearray)
    closed: bool = False
    changed: dict[str, str] = attrs.field(factory=dict)
    statements: dict[str, Statement] = attrs.field(factory=dict)
    portals: dict[str, Portal] = attrs.field(factory=dict)
    status: int = Status.IDLE
    _input: Assembler = attrs.field(factory=lambda: Assembler(MAX_LARGE))
    _reported: dict[str, str] = attrs.field(init=False)
    _changed_before: dict[str, str] | None = None
    _skipping: bool = False
    _copying: str = ""
    """"simple" or "extended" while it copies from the client."""
    _copied: bytearray = attrs.field(factory=bytearray)

    def __attrs_post_init__(self) -> None:
        self._reported = self.settings

    @property
    def settings(self) -> dict[str, str]:
        return self.defaults | self.changed

    def receive(self, data: bytes) -> None:
        self._input.feed(data)
        while not self.closed and (message := self._input.message()) is not None:
            self._take(chr(message[0]), message[1])

    def deliver(self, most: int | None = None) -> bytes:
        """The next bytes of output, at most so many."""
        size = len(self.output) if most is None else min(most, len(self.output))
        piece = bytes(self.output[:size])
        del self.output[:size]
        return piece

    def make_noise(self) -> None:
        """An asynchronous message."""
        assert self.noise is not None
        notification = messages.message(ord("A"), b"\0\0\0\1channel\0\0")
        self.output += self.noise.choice([messages.notice("00000", "noise"), notification])

    # -- messages --------------------------------------------------------------------------------------------

    def _take(self, tag: str, body: bytes) -> None:
        if self.noise is not None and self.noise.random() < 0.1:
            self.make_noise()
        if self._copying:
            self._copy(tag, body)
        elif tag == "X":
            self.closed = True
        elif tag == "S":
            self._skipping = False
            self._end_implicit()
            self._ready()
        elif tag in "dcfH" or self._skipping:
            pass
        elif tag in "QF":
            self._simple(tag, body)
        else:
            try:
                self._extended(tag, body)
            except Failure as failure:
                self._fail(failure)
                self._skipping = True

    def _simple(self, tag: str, body: bytes) -> None:
        self._start()
        try:
            if tag == "F":
                self._call(body)
            else:
                self.statements.pop("", None)
                self._query(body.rstrip(b"\0").decode())
        except Failure as failure:
            self._fail(failure)
        if not self._copying:
            self._end_implicit()
            self._ready()

    def _query(self, text: str) -> None:
        commands = [fakesql.read(part) for part in text.split(";")]
        for command in commands:
            if len(commands) > 1 and command.kind == "empty":
                continue
            if command.kind != "empty":
                self._refuse_if_aborted(command)
            self._start()
            self.portals.pop("", None)
            portal = Portal(command, [], self._gives_rows(command))
            self._plan(command)
            if command.kind == "execute":
                portal.rows = self._execute_rows(portal, "simple")
            if portal.gives_rows:
                self.output += fakesql.ROW_DESCRIPTION
            self._run(portal, 0, "simple")

    def _call(self, body: bytes) -> None:
        """FunctionCall of reverse(text)."""
        if self.status == Status.FAILED:
            raise Failure("25P02")
        oid, formats, arguments, size = struct.unpack_from("!IHHI", body)
        if (oid, formats, arguments) != (3062, 0, 1):
            raise Failure("42883")
        value = body[12 : 12 + size][::-1]
        self.output += messages.message(ord("V"), len(value).to_bytes(4, "big") + value)

    def _extended(self, tag: str, body: bytes) -> None:
        self._start()
        match tag:
            case "P":
                name, text = (part.decode() for part in body.split(b"\0")[:2])
                self._parse(name, text)
            case "B":
                self._bind(body)
            case "D":
                self._describe(body[:1], body[1:-1].decode())
            case "E":
                name = body[:-5].decode()
                self._execute(name, int.from_bytes(body[-4:], "big"))
            case "C":
                kept: dict[str, Statement] | dict[str, Portal]
                kept = self.statements if body[:1] == b"S" else self.portals
                kept.pop(body[1:-1].decode(), None)
                self.output += messages.CLOSE_COMPLETE
            case _:
                self.output += messages.error("08P01", "invalid frontend message type", severity="FATAL")
                self.closed = True

    def _parse(self, name: str, text: str) -> None:
        if not name:
            self.statements.pop("", None)
        command = fakesql.read(text)
        if command.kind != "empty":
            self._refuse_if_aborted(command)
        self._keep(name, command)
        self.output += messages.PARSE_COMPLETE

    def _keep(self, name: str, command: Command, text: str = "") -> None:
        if name in self.statements:
            raise Failure("42P05")
        self.statements[name] = Statement(command, self._gives_rows(command), text)

    def _named(self, name: str) -> Command:
        if name not in self.statements:
            raise Failure("26000")
        return self.statements[name].command

    def _gives_rows(self, command: Command) -> bool:
        """Whether it gives rows, as far as one can tell now: the statement that EXECUTE names may change."""
        if command.kind == "execute" and command.name in self.statements:
            return self._gives_rows(self.statements[command.name].command)
        return command.has_rows

    def _bind(self, body: bytes) -> None:
        if body.count(b"\0") < 2:
            raise Failure("08P01")
        portal, statement, rest = body.split(b"\0", 2)
        command = self._named(statement.decode())
        at = 2 + 2 * int.from_bytes(rest[:2], "big")
        count = int.from_bytes(rest[at : at + 2], "big")
        at += 2
        parameters: list[str | None] = []
        for _ in range(count):
            size = int.from_bytes(rest[at : at + 4], "big")
            if size == 0xFFFFFFFF:
                parameters.append(None)
                size = 0
            else:
                parameters.append(rest[at + 4 : at + 4 + size].decode())
            at += 4 + size
        if count != command.parameters:
            raise Failure("08P01")
        self._refuse_if_aborted(command)
        name = portal.decode()
        if name and name in self.portals:
            raise Failure("42P03")
        self.portals[name] = Portal(command, parameters, self._gives_rows(command))
        self._plan(command)
        self.output += messages.BIND_COMPLETE

    def _describe(self, target: bytes, name: str) -> None:
        described: Statement | Portal
        if target == b"S":
            self._named(name)
            described = self.statements[name]
        else:
            described = self._portal(name)
        if self.status == Status.FAILED and described.gives_rows:
            raise Failure("25P02")
        if target == b"S":
            self.output += described.command.parameter_description
        if described.gives_rows and described.command.kind == "execute":
            self._named(described.command.name)
        self.output += fakesql.ROW_DESCRIPTION if described.gives_rows else messages.NO_DATA

    def _execute(self, name: str, limit: int) -> None:
        portal = self._portal(name)
        if portal.command.kind == "empty":
            self.output += messages.EMPTY_QUERY
            return
        self._refuse_if_aborted(portal.command)
        self._run(portal, limit, "extended")

    def _portal(self, name: str) -> Portal:
        if name not in self.portals:
            raise Failure("34000")
        return self.portals[name]

    # -- commands --------------------------------------------------------------------------------------------

    def _plan(self, command: Command) -> None:
        if command.kind == "divide":
            raise Failure("22012")

    def _run(self, portal: Portal, limit: int, protocol: str) -> None:
        command = portal.command
        if portal.gives_rows:
            self._run_rows(portal, limit, protocol)
            return
        if portal.rows is not None:
            if protocol == "simple":  # it has run already
                self.output += messages.command_complete(portal.tag)
                return
            raise Failure("55000")
        if command.kind == "execute":
            portal.rows = self._execute_rows(portal, protocol)
        else:
            portal.rows = []
            self._run_command(command, portal, protocol)
        if portal.tag:
            self.output += messages.command_complete(portal.tag)

    def _execute_rows(self, portal: Portal, protocol: str) -> list[tuple[str, ...]]:
        """What EXECUTE executes has run: its rows; `portal` has its tag."""
        command = self._named(portal.command.name)
        if command.parameters:
            raise Failure("42601")
        self._plan(command)
        portal.tag = "EXECUTE"
        if command.kind == "execute":
            inner = Portal(command, [], self._gives_rows(command))
            rows = self._execute_rows(inner, protocol)
            portal.tag = inner.tag
        elif command.has_rows:
            rows = self._rows(command, [])
            portal.tag = "SHOW" if command.kind == "show" else "SELECT"
        else:
            rows = []
            if command.kind != "empty":
                self._run_command(command, portal, protocol)
        if rows and not portal.gives_rows:
            portal.tag += f" {len(rows)}" if portal.tag == "SELECT" else ""
        return rows

    def _run_command(self, command: Command, portal: Portal, protocol: str) -> None:
        """What gives no rows; `portal` has its tag then, if it is not to come later."""
        portal.tag = ""
        match command.kind:
            case "empty":
                self.output += messages.EMPTY_QUERY
            case "copy_in":
                self.output += COPY_IN_RESPONSE
                self._copying = protocol
                self._copied.clear()
            case "copy_out":
                line = messages.message(ord("d"), command.value.encode() + b"\n")
                self.output += COPY_OUT_RESPONSE + line * command.count + messages.message(ord("c"))
                portal.tag = f"COPY {command.count}"
            case "begin":
                self.status = Status.IN_TRANSACTION
                portal.tag = "BEGIN"
            case "exit":
                portal.tag = "ROLLBACK" if self.status == Status.FAILED else command.value
                self._end(commit=portal.tag == "COMMIT")
            case "set":
                self.changed["application_name"] = command.value
                portal.tag = "SET"
            case "reset":
                self.changed.pop("application_name", None)
                portal.tag = "RESET"
            case "prepare":
                text = f"PREPARE {command.name} AS {command.value}"
                self._keep(command.name, fakesql.read(command.value), text)
                portal.tag = "PREPARE"
            case "deallocate":
                self._deallocate(command.name)
                portal.tag = "DEALLOCATE ALL" if command.name == "ALL" else "DEALLOCATE"
            case _:
                if self.status == Status.IN_TRANSACTION:
                    raise Failure("25001")
                self.changed.clear()
                self.statements.clear()
                self.portals.clear()
                portal.tag = "DISCARD ALL"

    def _deallocate(self, name: str) -> None:
        if name == "ALL":
            self.statements.clear()
        else:
            self._named(name)
            del self.statements[name]

    def _run_rows(self, portal: Portal, limit: int, protocol: str) -> None:
        if portal.rows is None and portal.command.kind == "execute":
            portal.rows = self._execute_rows(portal, protocol)
        elif portal.rows is None:
            portal.rows = self._rows(portal.command, portal.parameters)
            portal.tag = "SHOW" if portal.command.kind == "show" else "SELECT"
        count = min(limit, len(portal.rows)) if limit else len(portal.rows)
        self.output += b"".join(fakesql.data_row(*row) for row in portal.rows[:count])
        del portal.rows[:count]
        if limit and count == limit:
            self.output += messages.message(ord("s"))
        else:
            tag = portal.tag + (f" {count}" if portal.tag == "SELECT" else "")
            self.output += messages.command_complete(tag)

    def _rows(self, command: Command, parameters: list[str | None]) -> list[tuple[str, ...]]:
        match command.kind:
            case "echo":
                return [(parameters[0] or "",)] * command.count
            case "set_config":
                return [self._set_config(parameters)]
            case "restore":
                return [self._set_config([n, v]) for n, v in _pairs(parameters) if n not in self.changed]
            case "inspect":
                return self._inspected(command.value)
            case "show":
                return [(self.settings["application_name"],)]
            case _:
                return [(command.value,)] * command.count

    def _set_config(self, parameters: list[str | None]) -> tuple[str, ...]:
        for name, value in _pairs(parameters):
            if value is None:
                self.changed.pop(name, None)
            else:
                self.changed[name] = value
        return tuple(self.settings[name] for name, _ in _pairs(parameters))

    def _inspected(self, sql: str) -> list[tuple[str, ...]]:
        """The answer to the pooler's question what the session holds."""
        rows: list[tuple[str, ...]] = []
        if "'setting'" in sql:
            rows += [
                ("setting", name.encode().hex(), value.encode().hex()) for name, value in self.changed.items()
            ]
        if "'prepared'" in sql:
            named = [(name, statement.text) for name, statement in self.statements.items() if statement.text]
            rows += [("prepared", name.encode().hex(), text.encode().hex()) for name, text in named]
        return rows

    def _copy(self, tag: str, body: bytes) -> None:
        try:
            match tag:
                case "d":
                    self._copied += body
                    if any(not line.isdigit() for line in self._copied.split(b"\n")[:-1]):
                        raise Failure("22P02")
                case "c":
                    self.output += messages.command_complete(f"COPY {len(self._copied.splitlines())}")
                    self._copy_ended()
                case "f":
                    raise Failure("57014")
                case "S" | "H":
                    pass
                case _:
                    self.output += messages.error("08P01", "unexpected message type during COPY")
                    self.output += messages.error("08P01", "synchronization was lost", severity="FATAL")
                    self.closed = True
        except Failure as failure:
            self._fail(failure)
            self._skipping = self._copying == "extended"
            self._copy_ended()

    def _copy_ended(self) -> None:
        if self._copying == "simple":
            self._end_implicit()
            self._ready()
        self._copying = ""

    # -- transactions ----------------------------------------------------------------------------------------

    def _refuse_if_aborted(self, command: Command) -> None:
        if self.status == Status.FAILED and command.kind != "exit":
            raise Failure("25P02")

    def _start(self) -> None:
        if self._changed_before is None:
            self._changed_before = dict(self.changed)

    def _end_implicit(self) -> None:
        if self.status == Status.IDLE:
            self._end(commit=True)

    def _end(self, *, commit: bool) -> None:
        """A transaction ends, and with it every portal."""
        if not commit and self._changed_before is not None:
            self.changed = self._changed_before
        self._changed_before = None
        self.portals.clear()
        self.status = Status.IDLE

    def _fail(self, failure: Failure) -> None:
        self.output += messages.error(failure.sqlstate, "scripted failure")
        if self.status == Status.IDLE:
            self._end(commit=False)
            return
        if self._changed_before is not None:
            self.changed = dict(self._changed_before)
        self.status = Status.FAILED

    def _ready(self) -> None:
        for name, value in self.settings.items():
            if self._reported[name] != value:
                self._reported[name] = value
                self.output += messages.parameter_status(name, value)
        self.output += messages.READY[self.status]

    @property
    def unread(self) -> bytes:
        """The start of a message."""
        return bytes(self._input.buffer)

    @property
    def at_rest(self) -> bool:
        """Whether nothing of what it was sent is still open."""
        nothing_open = not (self._copying or self._skipping or self.portals)
        return nothing_open and self.status == Status.IDLE and self._changed_before is None


def _pairs(parameters: list[str | None]) -> list[tuple[str, str | None]]:
    return [(name or "", value) for name, value in zip(parameters[::2], parameters[1::2], strict=True)]
