"""What is to be done with the answers to one statement, and what its comment asks for.

A comment that says `trio-pool:` gives directives, separated by commas:

    /* trio-pool: cache=off */                 never answered from memory, and not kept
    /* trio-pool: max_age=5s, tag=prices */    fresh for 5 seconds; ended by PURGE CACHE TAG prices
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import attrs

from trio_pool.config.durations import OFF, parse_duration
from trio_pool.config.problems import Refused

if TYPE_CHECKING:
    from trio_pool.cache.statuses import Tally

MARK = b"trio-pool:"
_COMMENT = re.compile(rb"/\*\s*trio-pool:(.*?)\*/|--\s*trio-pool:([^\r\n]*)", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*(\w+)\s*=\s*([^,\s]+)\s*")
_TAG = re.compile(r"[\w.:-]{1,64}")


@attrs.frozen
class Directives:
    """What a statement's comment says. `max_age` and `stale` in seconds; None: as configured.

    `wrong`: the first one that is not understood; then the statement is not answered from memory.
    """

    off: bool = False
    max_age: float | None = None
    stale: float | None = None
    tags: frozenset[str] = frozenset()
    wrong: str = ""


NO_DIRECTIVES = Directives()


def directives_of(text: bytes) -> Directives:
    """From the comments of a statement. What looks like one inside a string counts as well: harmless."""
    found = NO_DIRECTIVES
    for block, line in _COMMENT.findall(text):
        for directive in (block or line).decode(errors="replace").split(","):
            found = _with(found, directive)
    return found


def _with(found: Directives, directive: str) -> Directives:
    match = _DIRECTIVE.fullmatch(directive)
    name, value = match.groups() if match is not None else ("", "")
    try:
        match name:
            case "cache" if value in ("on", "off"):
                return attrs.evolve(found, off=value == "off")
            case "max_age":
                max_age = parse_duration(value)
                return attrs.evolve(found, max_age=max_age, off=found.off or max_age == OFF)
            case "stale_while_revalidate":
                stale = parse_duration(value)
                return attrs.evolve(found, stale=0.0 if stale == OFF else stale)
            case "tag" if _TAG.fullmatch(value):
                return attrs.evolve(found, tags=found.tags | {value})
    except Refused:
        pass
    return found if found.wrong else attrs.evolve(found, off=True, wrong=directive.strip())


@attrs.frozen(eq=False)
class Plan:
    """For one statement: `refused` counts those whose answers are not kept; None if they may be.

    `slots` are what they depend on (`Freshness`).
    """

    refused: Tally | None
    max_age: float = 0.0
    stale: float = 0.0
    slots: tuple[int, ...] = ()
