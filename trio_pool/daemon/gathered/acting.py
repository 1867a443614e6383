"""What has come of a command that was given to several processes, and what of it holds for one that comes
later. Pure.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

import attrs

from trio_pool.daemon.console.failure import ConsoleError
from trio_pool.daemon.console.outcome import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

Command = tuple[str, str, str]
"""Name, argument, and what follows."""

LASTS: Final = ("PAUSE", "KILL", "SUSPEND", "RESUME", "DISABLE", "ENABLE")
"""Commands that a process which comes later has to know of."""
UNDOING: Final = {"PAUSE": "RESUME", "SUSPEND": "RESUME"}
"""What undoes a command that has been done in some processes, and was given up while others were at it."""
_NUMBERED: Final = re.compile(r"(\d+)(.*)", re.DOTALL)


def combined(name: str, outcomes: Sequence[Outcome]) -> Outcome:
    """Of all processes that have said anything. What one has refused and another has done is done: where it
    was refused, there was nothing to do.
    """
    successes = [outcome for outcome in outcomes if outcome.failure is None]
    if successes:
        return Outcome(successes[0].tag, _lines([outcome.notices for outcome in successes]))
    return outcomes[0] if outcomes else Outcome(name, [], ConsoleError("no worker is there to do it"))


def _lines(all_: Sequence[list[str]]) -> list[str]:
    """Every line once; lines that differ in the number with which they begin become one with the sum."""
    numbers: dict[str, int] = {}
    found: dict[str, str] = {}
    for line in (line for lines in all_ for line in lines):
        numbered = _NUMBERED.fullmatch(line)
        if numbered is None:
            found[line] = line
        else:
            rest = numbered[2]
            numbers[rest] = numbers.get(rest, 0) + int(numbered[1])
            found[rest] = f"{numbers[rest]}{rest}"
    return list(found.values())


@attrs.frozen
class Held:
    """What operators have said and still holds: that is what a process which comes later has to be told."""

    disabled: frozenset[str] = frozenset()
    paused: frozenset[str] = frozenset()
    all_paused: bool = False
    suspended: bool = False

    def after(self, command: Command) -> Held:
        """When this has been done."""
        name, argument, _ = command
        one = frozenset({argument} if argument else ())
        match name:
            case "PAUSE" | "KILL" if one:
                return attrs.evolve(self, paused=self.paused | one)
            case "PAUSE" | "KILL":
                return attrs.evolve(self, all_paused=True)
            case "SUSPEND":
                return attrs.evolve(self, suspended=True)
            case "RESUME" if one:
                return attrs.evolve(self, paused=self.paused - one)
            case "RESUME":
                return attrs.evolve(self, all_paused=False, suspended=False)
            case "DISABLE":
                return attrs.evolve(self, disabled=self.disabled | one)
            case "ENABLE":
                return attrs.evolve(self, disabled=self.disabled - one)
        return self

    @property
    def commands(self) -> list[Command]:
        """What brings a new process to this. The pause of all comes last, for after it no other is taken."""
        found = [("DISABLE", name, "") for name in sorted(self.disabled)]
        found += [("PAUSE", name, "") for name in sorted(self.paused)]
        if self.all_paused:
            found.append(("PAUSE", "", ""))
        elif self.suspended:
            found.append(("SUSPEND", "", ""))
        return found
