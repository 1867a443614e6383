"""One change: its statements, and what the cells hold once it is committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.cache.checker.schema import SLOTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tests.cache.checker.ledger import Ledger

N = "{n}"
"""In a statement, a line of COPY or a content: the version."""
NULL = "null"


@attrs.frozen
class Op:
    """One change of some cells.

    `literal`: no parameters are allowed in its place; `transactional`: it may stand in a transaction block,
    and is undone with it; `killable`: nothing depends on knowing whether it has happened; `copy`: lines for
    the last statement.
    """

    family: str
    statements: tuple[str, ...]
    effects: dict[str, str | None]
    literal: bool = False
    transactional: bool = True
    block_only: bool = False
    killable: bool = True
    copy: str = ""

    def contents(self, n: int) -> dict[str, str | None]:
        return {name: str(n) if content == N else content for name, content in self.effects.items()}


@attrs.frozen
class Plan:
    """Cells to lock, and what makes the change then; None if nothing can be done now."""

    cells: tuple[str, ...]
    make: Callable[[Ledger], Op | None]


def simple(
    family: str, statement: str, *cells: str, literal: bool = False, transactional: bool = True
) -> Plan:
    def make(_: Ledger) -> Op:
        effects = alike(cells, N)
        return Op(family, (statement,), effects, literal=literal, transactional=transactional)

    return Plan(cells, make)


def alike(cells: Iterable[str], content: str | None) -> dict[str, str | None]:
    """The same in each."""
    return dict.fromkeys(cells, content)


def slots(name: str) -> tuple[str, ...]:
    return tuple(f"{name}/{slot}" for slot in SLOTS)
