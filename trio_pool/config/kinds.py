"""The kinds of values of keys: how each is read from TOML, spelled back, and called in the reference.

A model's field carries a ``Key`` in its metadata; the reader and the reference know nothing else about it. A
kind looks at one value only. What depends on several keys is in ``checks``.
"""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import attrs

from trio_pool.config.address import parse_address, parse_tcp_address
from trio_pool.config.durations import OFF, format_duration, format_size, parse_duration, parse_size
from trio_pool.config.origin import parse_origin
from trio_pool.config.problems import Refused, refuse
from trio_pool.config.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from enum import StrEnum

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# PostgreSQL's own limit on max_connections (MAX_BACKENDS, PostgreSQL 18): no origin can serve more.
MOST_SERVERS: Final = 262_143

UNIX: Final = "unix"
"""Stands among networks for every client on a Unix socket."""


def _spell(value: object) -> str:
    """A JSON literal, which for strings, integers and booleans is TOML's too."""
    return json.dumps(value, ensure_ascii=False)


@attrs.frozen
class Kind:
    """``read`` gets a TOML value and the directory that files are relative to; it raises ``Refused``."""

    name: str
    read: Callable[[object, Path], Any]
    spell: Callable[[Any], str] = _spell


@attrs.frozen
class Key:
    """A key of a TOML table: what it may hold and what it means (Markdown)."""

    kind: Kind
    meaning: str


def about(kind: Kind, meaning: str) -> dict[str, Key]:
    """The metadata of a field that is a key of its table."""
    return {"key": Key(kind, meaning)}


def keys_of(*models: type[attrs.AttrsInstance]) -> dict[str, tuple[Key, attrs.Attribute[Any]]]:
    """The keys of the table that these models make up together, in their order."""
    return {
        field.name: (field.metadata["key"], field)
        for model in models
        for field in attrs.fields(model)
        if "key" in field.metadata
    }


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar of the known names, however far away it is."""
    return difflib.get_close_matches(name, list(known), n=1, cutoff=0.0)[0]


def is_near(name: str, known: Iterable[str]) -> bool:
    """Whether the name is surely a slip of the pen. The cutoff lets one letter too few or too many pass."""
    return bool(difflib.get_close_matches(name, list(known), n=1, cutoff=0.8))


def type_name(value: object) -> str:
    """What TOML calls the value's type."""
    match value:
        case bool():
            return "a boolean"
        case str():
            return "a string"
        case int():
            return "an integer"
        case float():
            return "a float"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "a table"
        case datetime.date() | datetime.time():
            return "a date or time"
        case _:
            return f"a Python {type(value).__name__}"


def wrong_type(value: object, expected: str, remedy: str) -> Refused:
    """The value is not quoted: it may be a secret in the wrong place."""
    return refuse(f"must be {expected}, not {type_name(value)}", remedy)


def integer(minimum: int, maximum: int | None = None) -> Kind:
    bounds = f"at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"

    def read(value: object, base: Path) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(value, "an integer", f"write an integer, {bounds}, without quotes")
        if value < minimum or (maximum is not None and value > maximum):
            raise refuse(f"{value} is out of range", f"write an integer, {bounds}")
        return value

    return Kind(f"integer, {bounds}", read)


def integer_or(word: str, otherwise: Kind) -> Kind:
    """An integer, or one word in its place."""

    def read(value: object, base: Path) -> object:
        if isinstance(value, str):
            if value != word:
                raise refuse(f"{_spell(value)} is unknown", f'write a number without quotes, or "{word}"')
            return word
        return otherwise.read(value, base)

    return Kind(f'{otherwise.name}, or `"{word}"`', read)


def choice(enum: type[StrEnum]) -> Kind:
    def read(value: object, base: Path) -> StrEnum:
        text = _read_text(value, base)
        try:
            return enum(text)
        except ValueError:
            likely = nearest(text, enum)
            others = ", ".join(_spell(str(member)) for member in enum)
            raise refuse(
                f"{_spell(text)} is unknown", f'use one of {others}; nearest is "{likely}"'
            ) from None

    return Kind(", ".join(f'`"{member}"`' for member in enum), read)


def array(kind: Kind, name: str) -> Kind:
    def read(value: object, base: Path) -> tuple[object, ...]:
        if not isinstance(value, list | tuple):
            raise wrong_type(value, "an array", "put it in brackets: [...]")
        items, faults = [], []
        for index, item in enumerate(value):
            try:
                items.append(kind.read(item, base))
            except Refused as refused:
                faults += [attrs.evolve(fault, at=(index, *fault.at)) for fault in refused.faults]
        if faults:
            raise Refused(*faults)
        return tuple(items)

    return Kind(name, read, lambda items: f"[{', '.join(map(kind.spell, items))}]")


def one_or_several(kind: Kind, name: str) -> Kind:
    """A value, or an array of at least one; either way a tuple is what comes of it."""
    several = array(kind, name)

    def read(value: object, base: Path) -> tuple[object, ...]:
        if not isinstance(value, list | tuple):
            return (kind.read(value, base),)
        if not value:
            raise refuse("is empty, so nothing can match it", "name something, or leave the key out")
        items: tuple[object, ...] = several.read(value, base)
        return items

    return Kind(f"{kind.name}, or array of these", read, several.spell)


def _read_boolean(value: object, base: Path) -> bool:
    if not isinstance(value, bool):
        raise wrong_type(value, "a boolean", "write true or false, without quotes")
    return value


def _read_text(value: object, base: Path) -> str:
    if not isinstance(value, str):
        raise wrong_type(value, "a string", "put it in quotes")
    if not value or "\0" in value:
        raise refuse("is empty or has a zero byte in it", "write some text, or leave the key out")
    return value


def _read_quantity(value: object, noun: str, unit: str) -> str:
    """The text of a duration or size; an integer can only be 0, since it has no unit."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise wrong_type(value, f"a {noun}", f'write a string with a unit, such as "15{unit}"')
    if isinstance(value, int) and value != 0:
        raise refuse(f"{value} has no unit", f'write a string with a unit, such as "{abs(value)}{unit}"')
    return str(value)


def _read_duration(value: object, base: Path) -> float:
    return parse_duration(_read_quantity(value, "duration", "s"))


def _read_span(value: object, base: Path) -> float:
    seconds = _read_duration(value, base)
    return 0.0 if seconds == OFF else seconds


def _read_lasting_span(value: object, base: Path) -> float:
    seconds = _read_duration(value, base)
    if seconds == OFF:
        raise refuse(
            "0 could mean never or for ever", 'write enabled = false for never, or a long time such as "365d"'
        )
    return seconds


def _read_lasting_time(value: object, base: Path) -> float:
    seconds = _read_duration(value, base)
    if seconds == OFF:
        raise refuse("0 is no length of time", 'write a string with a unit, such as "10s"')
    return seconds


def _read_size(value: object, base: Path) -> int:
    size = parse_size(_read_quantity(value, "size", "MB"))
    if not size:
        raise refuse("0 leaves no room", "write a size of at least 1B, or enabled = false")
    return size


def _read_file(value: object, base: Path) -> Path:
    return base / (value if isinstance(value, Path) else _read_text(value, base))


def _read_network(value: object, base: Path) -> Network | Literal["unix"]:
    text = _read_text(value, base)
    if text == UNIX:
        return UNIX
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        remedy = f'write "{ipaddress.ip_network(text, strict=False)}"'
    except ValueError:
        remedy = 'write an address or a network, such as "10.0.0.0/8" or "::1/128"'
    raise refuse(f"{_spell(text)} is not a network", remedy)


def _read_secret(value: object, base: Path) -> Secret:
    return Secret(_read_text(value, base))


def _read_share(value: object, base: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong_type(value, "a number", "write a number from 0 to 1, such as 0.01")
    if not 0 <= value <= 1:
        raise refuse(f"{value} is not between 0 and 1", "write a part of the whole, such as 0.01")
    return float(value)


BOOLEAN = Kind("boolean", _read_boolean)
SHARE = Kind("number", _read_share, lambda share: f"{share:g}")
TEXT = Kind("string", _read_text)
FILE = Kind("file", _read_file, lambda path: _spell(str(path)))
SECRET = Kind("string", _read_secret, repr)
SIZE = Kind("size", _read_size, lambda size: _spell(format_size(size)))
NETWORK = Kind("network", _read_network, lambda network: _spell(str(network)))
ADDRESS = Kind(
    "address", lambda value, base: parse_address(_read_text(value, base)), lambda a: _spell(str(a))
)
TCP_ADDRESS = Kind(
    "address", lambda value, base: parse_tcp_address(_read_text(value, base)), lambda a: _spell(str(a))
)
ORIGIN = Kind(
    "URL", lambda value, base: parse_origin(_read_text(value, base), base), lambda o: _spell(str(o))
)

DURATION = Kind("duration", _read_duration, lambda seconds: _spell(format_duration(seconds)))
"""A limit: "0" is ``OFF``."""
SPAN = attrs.evolve(DURATION, read=_read_span)
"""A length of time in which something happens: "0" is none at all."""
LASTING_TIME = attrs.evolve(DURATION, read=_read_lasting_time)
"""A length of time in which something happens again and again: "0" is refused."""
LASTING_SPAN = attrs.evolve(DURATION, read=_read_lasting_span)
"""A length of time where "0" could be taken either way, and is refused."""
