"""Run-time settings that travel with the client, and what servers report about theirs.

Two small immutable values, interned, so that "nothing differs" is one identity test on the hot path:

- `Settings`: what a session has set away from the server's defaults (StartupMessage, and reported parameters
  changed by SET).
- `Reported`: the values of all parameters that the server reports (ParameterStatus), which every client must
  have been told.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, overload
from weakref import WeakValueDictionary

import attrs

from trio_pool.wire import messages
from trio_pool.wire.tags import Frontend

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, Mapping

IDENTITY = ("session_authorization", "role")
"""Parameters that say who the session is, in the order in which they can be set: each resets those behind."""
_READING = ("client_encoding", "standard_conforming_strings", "backslash_quote", "transform_null_equals")
"""What decides how a text is read, once and for all; PostgreSQL looks the rest up whenever it plans."""
_MEANING = ("search_path", *IDENTITY, *_READING)


@attrs.frozen(eq=False, weakref_slot=True)
class Settings:
    """An immutable, interned mapping of parameter names to values; compare with `is`."""

    _values: Mapping[str, str]
    meaning: bytes = attrs.field(init=False)
    """Those that change what the text of a statement means, as a key; empty for most."""

    @property
    def reading(self) -> Settings:
        """Those that change how the text of a statement is read."""
        return intern({name: self._values[name] for name in _READING if name in self._values})

    @meaning.default
    def _meaning(self) -> bytes:
        return b"\0".join(_bytes(f"\0{n}={self._values[n]}") for n in _MEANING if n in self._values)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        return self._values.get(name, default)

    def items(self) -> ItemsView[str, str]:
        return self._values.items()

    def but(self, changes: Mapping[str, str] | Settings) -> Settings:
        """The same with `changes` applied."""
        return intern({**self._values, **dict(changes.items())})


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # a StartupMessage may hold any bytes


_known: WeakValueDictionary[frozenset[tuple[str, str]], Settings] = WeakValueDictionary()


def intern(values: Mapping[str, str]) -> Settings:
    """The one `Settings` with these values."""
    key = frozenset(values.items())
    known = _known.get(key)
    if known is None:
        known = _known[key] = Settings(dict(values))
    return known


NONE = intern({})


def difference(has: Settings, wants: Settings, reported: Settings, *, guarded: bool = True) -> bytes:
    """Requests, ended by one Sync, that bring a server which `has` to what a client `wants`. Their replies
    are to be swallowed. What the server has `reported` to be so already is left alone.

    All or nothing: one statement sets everything. When it is `guarded` a failure leaves the session in a
    failed transaction, so that what was sent right behind it cannot run under other settings than its own.

    They leave no unnamed statement behind: the client could otherwise execute ours. Values travel as
    parameters of `set_config`, never inside SQL text; NULL resets. `b""` if there is nothing to do.
    """
    changes = _changes(has, wants, reported)
    if not changes:
        return b""
    requests = b""
    encoding = reported.get("client_encoding", "UTF8")
    if encoding != "UTF8" and not all(_is_ascii(value) for _, value in changes):
        requests += run(_set_config(1), ["client_encoding", "UTF8"])
        changes = [(n, v) for n, v in changes if n != "client_encoding"]
        changes.append(("client_encoding", wants.get("client_encoding")))
    requests += run(_set_config(len(changes)), [text for change in changes for text in change])
    if guarded:
        requests = _BEGIN + requests + _COMMIT
    return requests + messages.close_statement(b"") + messages.SYNC


def _changes(has: Settings, wants: Settings, reported: Settings) -> list[tuple[str, str | None]]:
    """What is to be set, None to reset, in an order that works: whoever may set something is the login user,
    so identity is laid aside first and put on last.
    """
    changes: dict[str, str | None] = {name: None for name in has if name not in wants}
    changes.update(
        (name, value) for name, value in wants.items() if (has.get(name) or reported.get(name)) != value
    )
    if not changes:
        return []
    ordered: list[tuple[str, str | None]] = [(name, None) for name in IDENTITY if name in has]
    ordered += [(name, value) for name, value in changes.items() if name not in IDENTITY]
    ordered += [(name, wants[name]) for name in IDENTITY if name in wants]
    return ordered


@functools.lru_cache(maxsize=64)
def _set_config(count: int) -> str:
    calls = ", ".join(f"pg_catalog.set_config(${2 * n + 1}, ${2 * n + 2}, false)" for n in range(count))
    return f"SELECT {calls}"


def _is_ascii(value: str | None) -> bool:
    return value is None or value.isascii()


def passing_change(has: Settings, wants: Settings) -> tuple[list[str], list[str]]:
    """Statements that change for a moment how texts are read, and those that change it back; they return no
    rows. Values are PostgreSQL's own words for these parameters.
    """
    names = [name for name in _READING if has.get(name) != wants.get(name)]
    there, back = ([_set(name, to.get(name)) for name in names] for to in (wants, has))
    return there, back


def _set(name: str, value: str | None) -> str:
    if value is None:
        return f"SET {name} TO DEFAULT"
    assert re.fullmatch(r"[A-Za-z0-9_]+", value), value
    return f"SET {name} TO '{value}'"


def restoration(wanted: Settings) -> bytes:
    """Requests, ended by one Sync, that set again what was reset: on a connection of the client's own, RESET
    would go back to what its StartupMessage said.
    """
    parameters = [text for pair in wanted.items() for text in pair]
    requests = run_apart(_restore(len(wanted)).encode(), parameters)
    return b"".join(requests) + messages.close_statement(b"") + messages.SYNC


@functools.lru_cache(maxsize=64)
def _restore(count: int) -> str:
    """Parameters with a dot are in no view: of these, what is empty has been reset."""
    pairs = [(2 * n + 1, 2 * n + 2) for n in range(count)]
    values = ", ".join(f"(${name}::pg_catalog.text, ${value}::pg_catalog.text)" for name, value in pairs)
    return (
        f"SELECT pg_catalog.set_config(name, value, false) FROM (VALUES {values}) AS wanted (name, value)"
        " WHERE CASE WHEN name OPERATOR(pg_catalog.=) 'role'"
        " THEN pg_catalog.current_setting('role') OPERATOR(pg_catalog.=) 'none'"
        " WHEN pg_catalog.strpos(name, '.') OPERATOR(pg_catalog.>) 0"
        " THEN coalesce(pg_catalog.current_setting(name, true), '') OPERATOR(pg_catalog.=) ''"
        " ELSE name OPERATOR(pg_catalog.<>) ALL (ARRAY(SELECT name::pg_catalog.text"
        " FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session')) END"
    )


def needs_no_trial(name: str, value: str, server_encoding: str | None = None) -> bool:
    """Whether every server takes the value exactly as it is: an application name of plain ASCII that fits,
    and UTF8 as it is `spelled`, where the encoding of the database is known and not the one that PostgreSQL
    cannot convert to it.
    """
    if name == "client_encoding":
        return value == "UTF8" and server_encoding not in (None, "MULE_INTERNAL")
    return name == "application_name" and len(value) < 64 and value.isascii() and value.isprintable()


def spelled(name: str, value: str) -> str:
    """A value as PostgreSQL reports it, where drivers spell the same one in many ways."""
    if name == "client_encoding" and re.sub("[^a-z0-9]", "", value.lower()) in ("utf8", "unicode"):
        return "UTF8"
    return value


def run(sql: str, parameters: Iterable[str | None] = ()) -> bytes:
    """A statement of ours through the unnamed statement and portal, without Sync."""
    return (
        messages.parse(b"", messages.text(sql) + b"\0\0") + messages.bind(b"", parameters) + messages.EXECUTE
    )


def run_apart(sql: bytes, parameters: Iterable[str | None] = ()) -> list[bytes]:
    """The requests of a statement of ours in a transaction of the client's, whose unnamed portal stays."""
    binding = messages.message(Frontend.BIND, _PORTAL + messages.bind(b"", parameters)[5:])
    execution = messages.message(Frontend.EXECUTE, _PORTAL + b"\0\0\0\0\0")
    return [messages.parse(b"", sql + b"\0\0\0"), binding, execution, messages.close_portal(_PORTAL)]


_PORTAL = b"trio-pool"

# Read committed whatever the session's default is: a deferrable serializable one would wait for a snapshot.
_BEGIN = run("BEGIN ISOLATION LEVEL READ COMMITTED")
_COMMIT = run("COMMIT")


def read_options(options: str) -> dict[str, str]:
    """The settings in a StartupMessage's `options`: `-c name=value`, `-cname=value` and `--name=value`.

    Words are split at white space; a backslash keeps the next character (`pg_split_opts` in postinit.c).
    Raises ValueError naming what is not a setting.
    """
    words = [re.sub(r"\\(.)", r"\1", word) for word in re.findall(r"(?:\\.|[^\s\\])+", options)]
    settings: dict[str, str] = {}
    remaining = iter(words)
    for word in remaining:
        if word == "-c":
            assignment = next(remaining, "")
        elif word.startswith("-c") or word.startswith("--"):
            assignment = word[2:]
        else:
            raise ValueError(
                f"unsupported startup option {word!r}: only -c name=value and --name=value are carried along"
            )
        name, equals, value = assignment.partition("=")
        if not equals or not name:
            raise ValueError(f"{word[:2]}{' ' if word == '-c' else ''}{assignment} requires a value")
        settings[name.replace("-", "_")] = value
    return settings
