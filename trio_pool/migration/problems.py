"""What makes an import impossible, with its place: file, line, key, what is wrong, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable


@attrs.frozen
class Place:
    """Where something stands in one of PgBouncer's files; line 0 is the file as a whole."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@attrs.frozen
class ImportProblem:
    """Something that PgBouncer would refuse as well, or a file that cannot be read."""

    place: Place
    key: str
    what: str
    remedy: str

    def __str__(self) -> str:
        """`file:line: key: what is wrong; remedy`."""
        key = f" {self.key}:" if self.key else ""
        return f"{self.place}:{key} {self.what}; {self.remedy}"


class CannotImport(Exception):
    """`problems` has all that was found."""

    def __init__(self, problems: Iterable[ImportProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def cannot(place: Place, key: str, what: str, remedy: str) -> CannotImport:
    """The exception for one problem."""
    return CannotImport([ImportProblem(place, key, what, remedy)])
