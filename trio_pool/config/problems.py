"""What is wrong with a configuration: faults, problems with their place, the error that carries them.

A parser of one value knows neither file nor line; it refuses with faults. The reader knows where the value
stands and turns each fault into a problem. No fault and no problem ever quotes a value that may be a secret.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable

KeyPath: TypeAlias = tuple[str | int, ...]
"""The keys and array indexes that lead to a value: ``("auth", "rules", 0, "method")``."""

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def spell_path(path: KeyPath) -> str:
    """The path as TOML would spell it: ``auth.rules[0].method``, ``databases."*".origin``."""
    spelled = ""
    for step in path:
        if isinstance(step, int):
            spelled += f"[{step}]"
            continue
        key = (
            step if _BARE_KEY.fullmatch(step) else '"' + step.replace("\\", "\\\\").replace('"', '\\"') + '"'
        )
        spelled += f".{key}" if spelled else key
    return spelled


@attrs.frozen
class Fault:
    """One thing that is wrong, relative to the value that was looked at.

    ``looks_at`` names the other keys that the finding depends on: when one of them is itself refused, the
    finding would only repeat that and is dropped.
    """

    what: str
    remedy: str
    at: KeyPath = ()
    looks_at: tuple[KeyPath, ...] = ()

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


class Refused(ValueError):
    """A value cannot be accepted, for one or several reasons."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*faults)
        self.faults = faults

    def __str__(self) -> str:
        return ", and ".join(str(fault) for fault in self.faults)


def refuse(what: str, remedy: str) -> Refused:
    """The exception for a value with a single fault."""
    return Refused(Fault(what, remedy))


@attrs.frozen
class Problem:
    """A fault and its place. ``line`` is None where there is no file, as in ``Config.from_dict``."""

    where: str
    line: int | None
    path: KeyPath
    what: str
    remedy: str

    @property
    def key(self) -> str:
        return spell_path(self.path)

    def __str__(self) -> str:
        """``file:line: key.path: what is wrong; remedy``."""
        place = self.where if self.line is None else f"{self.where}:{self.line}"
        key = f" {self.key}:" if self.path else ""
        return f"{place}:{key} {self.what}; {self.remedy}"


class ConfigurationError(Exception):
    """The configuration cannot be used. ``problems`` has all that is wrong, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
