"""Reading the console's commands.

The grammar is PgBouncer's (1.24, `admin.c`): a word and perhaps one more, or `SET key = value`. Words are
letters, digits and underscores, or stand in double quotes; nothing depends on upper or lower case but names
in arguments. Beyond it, comments count for nothing, and what follows PURGE CACHE is for `purge` to read.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.daemon.console.failure import ConsoleError

if TYPE_CHECKING:
    from collections.abc import Iterable

_WORD: Final = r"""("(?:[^"]|"")*"|[0-9a-z_]+)"""
_KEY: Final = r"""("(?:[^"]|"")*"|[0-9a-z_.]+|[0-9a-z_]+(?:\.(?:"(?:[^"]|"")*"|[0-9a-z_-]+))+)"""
_COMMAND: Final = re.compile(rf"{_WORD}(?:\s+{_WORD})?(?:\s+{_WORD})?", re.IGNORECASE)
_SET: Final = re.compile(
    rf"set\s+(?:session\s+)?{_KEY}\s*(?:=|\bto\b)\s*('(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|[^\s;'\"]+)",
    re.IGNORECASE,
)
_PURGE: Final = re.compile(r"(purge)\s+(cache)\b\s*(.*)", re.IGNORECASE | re.DOTALL)
_COMMENT: Final = re.compile(r"/\*.*?\*/|--[^\n]*", re.DOTALL)

# Of any two commands that differ in more than a slip of the pen, the similarity is below.
_NEAR: Final = 0.6

TRANSACTIONS: Final = frozenset({"begin", "start", "commit", "end", "rollback", "abort"})


@attrs.frozen
class Command:
    """`name` in upper case; `argument` and `more` as they are, "" where there is none."""

    name: str
    argument: str = ""
    more: str = ""


@attrs.frozen
class Setting:
    """`SET key = value`."""

    key: str
    value: str


def read(text: str, known: Iterable[str]) -> Command | Setting | None:
    """The command of a text, None if there is none in it. Raises `ConsoleError`, which names the nearest of
    the `known` commands.
    """
    bare = _COMMENT.sub(" ", text).strip()
    if bare.endswith(";"):
        bare = bare[:-1].rstrip()
    if not bare:
        return None
    setting = _SET.fullmatch(bare)
    if setting is not None:
        return Setting(_unquoted(setting[1]), _unquoted(setting[2]))
    purge = _PURGE.fullmatch(bare)
    if purge is not None:
        return Command(purge[1].upper(), purge[2], purge[3])
    words = _COMMAND.fullmatch(bare)
    if words is None:
        raise invalid(text, known)
    return Command(_unquoted(words[1]).upper(), _unquoted(words[2]), _unquoted(words[3]))


def invalid(text: str, known: Iterable[str]) -> ConsoleError:
    """PgBouncer's words, and what was probably meant."""
    words = text.strip().rstrip(";").upper().split()
    if words and words[0].lower() in TRANSACTIONS:
        hint = "The console has no transactions: connect with autocommit."
    else:
        names = [name for name in known if words[:1] != ["SHOW"] or name.startswith("SHOW ")]
        near = nearest(" ".join(words[:2]), names) or nearest(" ".join(words[:1]), names)
        hint = f"The nearest command is {near}." if near else ""
    return ConsoleError(f"invalid command '{text}', use SHOW HELP;", hint=hint or None)


def nearest(name: str, known: Iterable[str]) -> str:
    """The most similar of the known names, "" if none is near."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1, cutoff=_NEAR)), "")


def _unquoted(word: str | None) -> str:
    if not word:
        return ""
    quote = word[0]
    return word[1:-1].replace(quote * 2, quote) if quote in "\"'" else word
