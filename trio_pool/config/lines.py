"""The line on which each key, table and array element of a TOML document stands.

``tomllib`` reads values and forgets where they were. This scanner does the opposite: it follows the structure
of a document that ``tomllib`` has already accepted and keeps only places, so it never judges syntax. It must
not be given a document that was refused.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_left
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from trio_pool.config.problems import KeyPath

_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# The closing quotes may follow one or two that belong to the text, hence {3,5}.
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:\\.|[^"\\])*"' r"|'[^']*'",
    re.DOTALL,
)
_BARE_VALUE = re.compile(r"[^,\]}#\n]+")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Line numbers, from 1, by path; a table that is only implied has the line of its first mention."""
    scanner = _Scanner(text.replace("\r\n", "\n"))
    scanner.document()
    return scanner.lines


def line_of(path: KeyPath, lines: dict[KeyPath, int]) -> int:
    """The line of the value, else of the innermost table around it that is mentioned, else the first."""
    for length in range(len(path), 0, -1):
        if path[:length] in lines:
            return lines[path[:length]]
    return 1


@attrs.define(eq=False)
class _Scanner:
    text: str
    lines: dict[KeyPath, int] = attrs.field(factory=dict)
    _at: int = 0
    _newlines: list[int] = attrs.field(init=False)
    _lengths: dict[KeyPath, int] = attrs.field(factory=dict)
    """How many elements each array of tables has so far."""

    def __attrs_post_init__(self) -> None:
        self._newlines = [found.start() for found in re.finditer("\n", self.text)]

    def document(self) -> None:
        table: KeyPath = ()
        self._take(_BLANK)
        while self._at < len(self.text):
            if self._accept("[["):
                table = self._new_element(self._key())
                self._expect("]]")
            elif self._accept("["):
                table = self._latest(self._key())
                self._mark(table)
                self._expect("]")
            else:
                self._pair(table)
            self._take(_BLANK)

    def _pair(self, table: KeyPath) -> None:
        path = table + self._key()
        self._mark(path, below=len(table))
        self._expect("=")
        self._value(path)

    def _value(self, path: KeyPath) -> None:
        if self._accept("["):
            self._array(path)
        elif self._accept("{"):
            self._inline_table(path)
        elif not self._take(_STRING) and not self._take(_BARE_VALUE):
            raise self._surprise("a value")

    def _array(self, path: KeyPath) -> None:
        index = 0
        while True:
            self._take(_BLANK)
            if self._accept("]"):
                return
            self._mark((*path, index))
            self._value((*path, index))
            index += 1
            self._take(_BLANK)
            self._accept(",")

    def _inline_table(self, path: KeyPath) -> None:
        while True:
            self._take(_BLANK)  # TOML 1.1 allows newlines and comments here
            if self._accept("}"):
                return
            self._pair(path)
            self._take(_BLANK)
            self._accept(",")

    def _key(self) -> KeyPath:
        """A dotted key, without its quotes."""
        steps = []
        while True:
            self._take(_SPACE)
            quoted = self._take(_STRING)
            step = tomllib.loads(f"key = {quoted}")["key"] if quoted else self._take(_BARE_KEY)
            if not quoted and not step:
                raise self._surprise("a key")
            steps.append(step)
            self._take(_SPACE)
            if not self._accept("."):
                return tuple(steps)

    def _latest(self, key: KeyPath) -> KeyPath:
        """The path that a header means: below an array of tables it continues the last element."""
        path: KeyPath = ()
        for step in key:
            path = (*path, step)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        return path

    def _new_element(self, key: KeyPath) -> KeyPath:
        array = (*self._latest(key[:-1]), key[-1])
        index = self._lengths.get(array, 0)
        self._lengths[array] = index + 1
        self._mark((*array, index))
        return (*array, index)

    def _mark(self, path: KeyPath, below: int = 0) -> None:
        line = bisect_left(self._newlines, self._at) + 1
        for length in range(below + 1, len(path) + 1):
            self.lines.setdefault(path[:length], line)

    def _take(self, pattern: re.Pattern[str]) -> str:
        found = pattern.match(self.text, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found.group()

    def _accept(self, token: str) -> bool:
        if self.text.startswith(token, self._at):
            self._at += len(token)
            return True
        return False

    def _expect(self, token: str) -> None:
        self._take(_SPACE)
        if not self._accept(token):
            raise self._surprise(token)
        self._take(_SPACE)

    def _surprise(self, expected: str) -> AssertionError:
        return AssertionError(f"line {bisect_left(self._newlines, self._at) + 1}: expected {expected}")
