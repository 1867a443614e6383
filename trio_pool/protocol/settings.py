"""Run-time settings that travel with the client, and what servers report about theirs.

Two small immutable values, interned, so that "nothing differs" is one identity test on the hot path:

- `Settings`: what a session has set away from the server's defaults (StartupMessage, and reported parameters
  changed by SET).
- `Reported`: the values of all parameters that the server reports (ParameterStatus), which every client must
  have been told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, overload
from weakref import WeakValueDictionary

import attrs

from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import ItemsView, Iterable, Iterator, Mapping

READ_ONLY = frozenset(
    {
        "in_hot_standby",
        "integer_datetimes",
        "is_superuser",
        "server_encoding",
        "server_version",
        "session_authorization",
    }
)
"""Reported parameters that a session cannot set: they change with the server, not with the client."""


@attrs.frozen(eq=False, weakref_slot=True)
class Settings:
    """An immutable, interned mapping of parameter names to values; compare with `is`."""

    _values: Mapping[str, str]

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


_known: WeakValueDictionary[frozenset[tuple[str, str]], Settings] = WeakValueDictionary()


def intern(values: Mapping[str, str]) -> Settings:
    """The one `Settings` with these values."""
    key = frozenset(values.items())
    known = _known.get(key)
    if known is None:
        known = _known[key] = Settings(dict(values))
    return known


NONE = intern({})


def difference(has: Settings, wants: Settings) -> bytes:
    """Requests, ended by one Sync, that bring a server which `has` to what a client `wants`. Their replies
    are to be swallowed.

    They leave no unnamed statement behind: the client could otherwise execute ours. Values travel as
    parameters of `set_config`, never inside SQL text. `b""` if there is nothing to do.
    """
    changed = {name: value for name, value in wants.items() if has.get(name) != value}
    gone = [name for name in has if name not in wants]
    if not changed and not gone:
        return b""
    requests = b"".join(_run(f"RESET {quote_setting(name)}", []) for name in gone)
    requests += b"".join(
        _run("SELECT pg_catalog.set_config($1, $2, false)", pair) for pair in changed.items()
    )
    return requests + messages.close_statement(b"") + messages.SYNC


def canonical(wanted: Settings, reported: Settings) -> Settings:
    """Settings as the server names and spells them, where it reports them: `timezone = utc` becomes `TimeZone
    = UTC`.
    """
    names = {name.lower(): name for name in reported}
    spelled = {names.get(name.lower(), name): value for name, value in wanted.items()}
    return intern({name: reported.get(name, value) for name, value in spelled.items()})


def needs_no_trial(name: str, value: str) -> bool:
    """Whether every server takes the value exactly as it is: an application name of plain ASCII that fits."""
    return name == "application_name" and len(value) < 64 and value.isascii() and value.isprintable()


def _run(sql: str, parameters: Iterable[str]) -> bytes:
    return (
        messages.parse(b"", messages.text(sql) + b"\0\0") + messages.bind(b"", parameters) + messages.EXECUTE
    )


def quote_setting(name: str) -> str:
    """A parameter name as SQL: each dotted part a quoted identifier."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


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
            raise ValueError(f"startup option {word!r} needs the form name=value")
        settings[name.replace("-", "_")] = value
    return settings
