"""The keys of the configuration as the console shows and sets them, by the names of the TOML file.

What is set holds until the next reload. It goes through the same checks as the file, and is applied in the
same way.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_pool.config import kinds, tables
from trio_pool.config.checks import find_faults
from trio_pool.config.problems import Refused, spell_path
from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.reload import RESTARTS
from trio_pool.errors import SqlState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.config.kinds import Key
    from trio_pool.config.model import Config
    from trio_pool.config.tables import Table

Path_ = tuple[str, ...]

_GENERAL: Final = (
    tables.LISTEN,
    tables.LISTEN_TLS,
    tables.AUTH,
    tables.TIMEOUTS,
    tables.SESSION,
    tables.ADMIN,
    tables.HTTP,
)
_OF_DATABASE: Final = (tables.DATABASE, tables.DATABASE_TIMEOUTS, tables.CACHE)
_OF_USER: Final = (tables.USER, tables.USER_TIMEOUTS)


@attrs.frozen
class Entry:
    """One key: where it is, what it is, what it would be if nothing were said."""

    path: Path_
    key: Key
    value: Any
    default: Any

    @property
    def name(self) -> str:
        return spell_path(self.path)

    @property
    def changeable(self) -> bool:
        """Whether SET may change it: not what takes a restart, and nothing that comes with a password."""
        return self.path not in RESTARTS and self.key.kind not in (kinds.SECRET, kinds.ORIGIN)

    def spell(self, value: Any) -> str | None:
        """As the file has it, without the quotes around it; None for what is not set."""
        if value is None or value is attrs.NOTHING:
            return None
        spelled = self.key.kind.spell(value)
        return str(json.loads(spelled)) if spelled.startswith('"') else spelled


def entries(config: Config) -> Iterator[Entry]:
    """All keys, the general ones first."""
    for table in _GENERAL:
        yield from _of_table(config, table, tuple(table.header.split(".")))
    for name in config.databases:
        for table in _OF_DATABASE:
            yield from _of_table(config, table, ("databases", name, *table.header.split(".")[2:]))
    for name in config.users:
        for table in _OF_USER:
            yield from _of_table(config, table, ("users", name, *table.header.split(".")[2:]))


def _of_table(config: Config, table: Table, path: Path_) -> Iterator[Entry]:
    model = _get(config, path)
    for name, (key, field) in table.keys.items():
        if hasattr(model, name):  # not the ways to say a password
            yield Entry((*path, name), key, getattr(model, name), _default(field))


def _default(field: attrs.Attribute[Any]) -> Any:
    default: Any = field.default
    return default.factory() if hasattr(default, "factory") else default


def _get(config: Config, path: Path_) -> Any:
    found: Any = config
    for step in path:
        found = found[step] if isinstance(found, dict) else getattr(found, step)
    return found


def changed(config: Config, entry: Entry, text: str) -> Config:
    """The configuration with another value of one key. Raises `ConsoleError`."""
    if entry.path in RESTARTS:
        raise ConsoleError(
            "SET failed",
            detail=f"{entry.name} takes a restart.",
            hint="Change it in the configuration file.",
            sqlstate=SqlState.NOT_ACCEPTING,
        )
    if not entry.changeable:
        raise ConsoleError(
            "SET failed",
            detail=f"{entry.name} comes with a password, which does not belong into a command.",
            hint="Change it in the configuration file, then RELOAD.",
        )
    try:
        value = entry.key.kind.read(_toml(text), Path())
    except Refused as refused:
        raise ConsoleError("SET failed", detail=f"{entry.name}: {refused}.") from None
    after: Config = _replaced(config, entry.path, value)
    if entry.path[0] == "timeouts":
        after = _followed(after, entry, value)
    faults = [f"{spell_path(fault.at)}: {fault}." for fault in find_faults(after)]
    if faults:
        raise ConsoleError("SET failed", detail="\n".join(faults))
    return after


def _toml(text: str) -> object:
    """A number, a boolean or an array as TOML has them, anything else a string."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return text


def _replaced(node: Any, path: Path_, value: Any) -> Any:
    if not path:
        return value
    first, rest = path[0], path[1:]
    if isinstance(node, dict):
        return {**node, first: _replaced(node[first], rest, value)}
    return attrs.evolve(node, **{first: _replaced(getattr(node, first), rest, value)})


def _followed(config: Config, entry: Entry, value: Any) -> Config:
    """A general time limit is that of every database which had the same: which of them have said so by
    themselves is not known any more.
    """
    for name, database in config.databases.items():
        if getattr(database.timeouts, entry.path[1]) == entry.value:
            config = _replaced(config, ("databases", name, *entry.path), value)
    return config
