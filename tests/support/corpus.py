"""The corpus of tests/corpus: sequences of statements as readable text, and what they mean as messages.

It knows the format and nothing of who runs it or what is answered. A file holds sequences:

    === title of a sequence
    begin                                       a simple Query, one line each
    select 1;
      select 2                                  an indented line continues the line above
    @b show work_mem                            a step of another session, called b
    \\e select $1::int ;; 7                      Parse, Bind, Describe, Execute, Sync of the unnamed statement

A line that begins with # is a comment. `{u}` stands for a schema (and a prefix for the names of roles,
channels, ...) that this run has for itself, `{k}` for a number that it has for itself; both have a fixed
length. A session logs in with its first step.

    \\login [as=ROLE] [NAME=VALUE ...]           log in (anew) with these parameters, quoted as in a shell
    \\reconnect                                  say goodbye and log in again as before
    \\vanish                                     close the connection without saying so
    \\wait N                                     wait until N notifications have come in all
    \\copy SQL ;; LINE ;; ...                    COPY FROM STDIN: Query, CopyData for each line, CopyDone
    \\copyfail SQL ;; LINE ;; ...                the same, ended by CopyFail
    \\function OID ;; VALUE ;; ...               FunctionCall with arguments as text

These are kept back and written at once by the line that ends them:

    \\parse NAME(TYPE, ...) SQL                  NAME alone without types; - is the unnamed one, everywhere
    \\bind PORTAL NAME ;; VALUE ;; ...           \\N is NULL
    \\describe S NAME                            or P PORTAL
    \\execute PORTAL [LIMIT]
    \\close S NAME                               or P PORTAL
    \\query SQL
    \\more                                       a Sync that does not end the write
    \\sync                                       Sync, write all, read until every ReadyForQuery has come
    \\send                                       the same without a Sync
    \\flush                                      Flush, write all, read what was asked for so far
"""

from __future__ import annotations

import re
import shlex
import struct
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import attrs

from trio_pool.wire import messages
from trio_pool.wire.tags import Frontend, Target

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DIRECTORY = Path(__file__).parent.parent / "corpus"
MAIN = "a"
SEPARATOR = " ;;"
NULL = "\\N"

Kind = Literal["exchange", "copy", "copyfail", "login", "reconnect", "vanish", "wait"]

TYPE_OIDS: Mapping[str, int] = {
    "bool": 16,
    "bytea": 17,
    "name": 19,
    "int8": 20,
    "int2": 21,
    "int4": 23,
    "regclass": 2205,
    "text": 25,
    "oid": 26,
    "json": 114,
    "float8": 701,
    "unknown": 705,
    "varchar": 1043,
    "date": 1082,
    "timestamp": 1114,
    "timestamptz": 1184,
    "interval": 1186,
    "numeric": 1700,
    "void": 2278,
    "int4[]": 1007,
    "text[]": 1009,
}


class CorpusError(Exception):
    """A file of the corpus says something that the format does not know."""


@attrs.frozen
class Message:
    """One message to send, before `{u}` and `{k}` are filled in."""

    kind: str
    arguments: Sequence[str] = ()
    values: Sequence[str] = ()


@attrs.frozen
class Step:
    """What one session does before anybody does anything else; `text` is how the file has it."""

    session: str
    kind: Kind
    text: str
    sent: Sequence[Message] = ()
    flushes: bool = False
    parameters: Mapping[str, str] = attrs.field(factory=dict)
    count: int = 0


@attrs.frozen
class StatementSequence:
    """Steps that belong together, from log-in to goodbye."""

    file: str
    line: int
    title: str
    steps: Sequence[Step]

    @property
    def sessions(self) -> list[str]:
        """Their names, in order of appearance."""
        return list(dict.fromkeys(step.session for step in self.steps))


def files() -> list[str]:
    """The names of the corpus' files, without their suffix."""
    return sorted(path.stem for path in DIRECTORY.glob("*.txt"))


def differences(file: str) -> set[str]:
    """Titles of the sequences of a file that may be answered otherwise than on a direct connection; the
    reasons are in differences.toml.
    """
    known = tomllib.loads((DIRECTORY / "differences.toml").read_text())
    return set(known.get(file, {}))


def load(file: str) -> list[StatementSequence]:
    """The sequences of a file, in its order; raises `CorpusError` with file and line."""
    sequences: list[StatementSequence] = []
    for line, title, body in _blocks(file):
        try:
            read = steps(body)
        except (CorpusError, ValueError, IndexError, KeyError) as problem:
            raise CorpusError(f"{file}.txt:{line}: {title}: {problem!r}") from problem
        sequences.append(StatementSequence(file, line, title, read))
    titles = [one.title for one in sequences]
    twice = {title for title in titles if titles.count(title) > 1}
    if twice:
        raise CorpusError(f"{file}.txt: used twice: {twice}")
    return sequences


def encode(message: Message) -> bytes:
    """The bytes of a message; a statement's text and values go as UTF-8."""
    argument = message.arguments
    name = [_name(one) for one in argument]
    match message.kind:
        case "query":
            return messages.query(argument[0])
        case "parse":
            oids = [_oid(one) for one in message.values]
            types = struct.pack(f"!H{len(oids)}I", len(oids), *oids)
            return messages.parse(name[0], messages.text(argument[1]) + types)
        case "bind":
            counted = struct.pack("!HH", 0, len(message.values)) + b"".join(map(_value, message.values))
            body = name[0] + b"\0" + name[1] + b"\0" + counted + b"\0\0"
            return messages.message(Frontend.BIND, body)
        case "describe":
            return messages.message(Frontend.DESCRIBE, _target(argument[0]) + name[1] + b"\0")
        case "execute":
            limit = int(argument[1]) if len(argument) > 1 else 0
            return messages.message(Frontend.EXECUTE, name[0] + b"\0" + struct.pack("!I", limit))
        case "close":
            return messages.message(Frontend.CLOSE, _target(argument[0]) + name[1] + b"\0")
        case "function":
            head = struct.pack("!IHH", int(argument[0]), 0, len(message.values))
            return messages.message(
                Frontend.FUNCTION_CALL, head + b"".join(map(_value, message.values)) + b"\0\0"
            )
        case "more" | "sync":
            return messages.SYNC
        case "flush":
            return messages.FLUSH
    raise AssertionError(message)


def _blocks(file: str) -> Iterable[tuple[int, str, list[str]]]:
    title, start, body = "", 0, list[str]()
    for number, raw in enumerate((DIRECTORY / f"{file}.txt").read_text("utf-8").splitlines(), 1):
        if raw.startswith("==="):
            if title:
                yield start, title, body
            title, start, body = raw.removeprefix("===").strip(), number, []
        elif raw.startswith("#") or not raw.strip():
            continue
        elif raw[0].isspace():
            body[-1] += "\n" + raw
        else:
            body.append(raw)
    if title:
        yield start, title, body


def steps(lines: Iterable[str]) -> list[Step]:
    """What the lines of a sequence mean; raises `CorpusError`."""
    read: list[Step] = []
    pending: dict[str, list[tuple[Message, str]]] = {}
    for line in lines:
        addressed = re.match(r"@(\w+)\s+", line)
        session = addressed[1] if addressed else MAIN
        rest = line[addressed.end() :] if addressed else line
        kept = pending.setdefault(session, [])
        if not rest.startswith("\\"):
            _nothing_kept(kept)
            read.append(Step(session, "exchange", line, [Message("query", [rest])]))
            continue
        word, _, rest = rest[1:].partition(" ")
        if word in ("login", "reconnect", "vanish", "wait", "copy", "copyfail", "e", "function"):
            _nothing_kept(kept)
            read.append(_single(session, word, rest.strip(), line))
        elif word in ("sync", "send", "flush"):
            if word != "send":
                kept.append((Message(word), ""))
            text = "\n".join([text for _, text in kept if text] + [line])
            read.append(Step(session, "exchange", text, [one for one, _ in kept], word == "flush"))
            kept.clear()
        else:
            kept.append((_message(word, rest.strip()), line))
    for kept in pending.values():
        _nothing_kept(kept)
    return read


def _nothing_kept(kept: Sequence[object]) -> None:
    if kept:
        raise CorpusError("messages before this are not ended by \\sync, \\send or \\flush")


def _single(session: str, word: str, rest: str, line: str) -> Step:
    match word:
        case "login":
            pairs = (one.partition("=")[::2] for one in shlex.split(rest))
            return Step(session, "login", line, parameters=dict(pairs))
        case "reconnect":
            return Step(session, "reconnect", line)
        case "vanish":
            return Step(session, "vanish", line)
        case "wait":
            return Step(session, "wait", line, count=int(rest))
        case "copy":
            sql, *values = _split(rest)
            return Step(session, "copy", line, [Message("query", [sql], values)])
        case "copyfail":
            sql, *values = _split(rest)
            return Step(session, "copyfail", line, [Message("query", [sql], values)])
        case "function":
            oid, *values = _split(rest)
            return Step(session, "exchange", line, [Message("function", [oid], values)])
        case "e":
            sql, *values = _split(rest)
            sent = [
                Message("parse", ["-", sql]),
                Message("bind", ["-", "-"], values),
                Message("describe", ["P", "-"]),
                Message("execute", ["-"]),
                Message("sync"),
            ]
            return Step(session, "exchange", line, sent)
    raise AssertionError(word)


def _message(word: str, rest: str) -> Message:
    match word:
        case "parse":
            matched = re.match(r"([^\s(]+)(?:\(([^)]*)\))?(?:\s+(.*))?$", rest, re.DOTALL)
            if matched is None:
                raise CorpusError(rest)
            types = [one.strip() for one in (matched[2] or "").split(",") if one.strip()]
            return Message("parse", [matched[1], matched[3] or ""], types)
        case "bind":
            names, *values = _split(rest)
            portal, statement = names.split()
            return Message("bind", [portal, statement], values)
        case "describe" | "close" | "execute":
            return Message(word, rest.split())
        case "query":
            return Message("query", [rest])
        case "more":
            return Message("more")
    raise CorpusError(f"unknown command \\{word}")


def _split(rest: str) -> list[str]:
    first, *values = rest.split(SEPARATOR)
    return [first, *(value.removeprefix(" ") for value in values)]


def _name(name: str) -> bytes:
    return b"" if name == "-" else name.encode()


def _oid(name: str) -> int:
    return int(name) if name.isdigit() else TYPE_OIDS[name]


def _value(value: str) -> bytes:
    if value == NULL:
        return struct.pack("!i", -1)
    encoded = value.encode()
    return struct.pack("!i", len(encoded)) + encoded


def _target(letter: str) -> bytes:
    return bytes([{"S": Target.STATEMENT, "P": Target.PORTAL}[letter]])
