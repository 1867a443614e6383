"""What wants to know which tables the statements of clients may change, as they are sent."""

from __future__ import annotations

from typing import Final, Protocol

EVERYTHING: Final = frozenset({0})
"""OIDs of tables that stand for all of them."""
SCHEMA: Final = -1
"""Stands among the OIDs of tables for what there is at all: tables, triggers, functions..."""
EVERYTHING_AND_SCHEMA: Final = EVERYTHING | {SCHEMA}
NOTHING_TOUCHED: Final[frozenset[int]] = frozenset()


class Watch(Protocol):
    """Knows the tables of one database."""

    def touched(self, text: bytes) -> frozenset[int]:
        """The OIDs of the tables that a statement may change; `EVERYTHING` in doubt. Hot path."""
