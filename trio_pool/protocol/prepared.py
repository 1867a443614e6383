"""What one server has prepared."""

from __future__ import annotations

from collections import OrderedDict
from itertools import islice
from typing import TYPE_CHECKING

from trio_pool.protocol.pending import Pending
from trio_pool.protocol.replies import Action, Edit

if TYPE_CHECKING:
    from trio_pool.protocol.replies import Group
    from trio_pool.protocol.statements import Statement


class ServerStatements:
    """What one server has prepared, the least recently used first.

    A change is noted when its Parse or Close is sent, together with the group it travels in, and stays
    `unconfirmed` until it is answered: behind an error in that group it is skipped. Within the same group it
    may be relied upon (what relies on it would be skipped as well); a later group closes the name and parses
    again, which is right whatever happened.
    """

    __slots__ = ("_pending", "limit", "present", "unconfirmed")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.present: OrderedDict[Statement, None] = OrderedDict()
        self.unconfirmed: dict[Statement, Group] = {}
        self._pending: Pending[Statement, bool] = Pending(self._assume)

    def has(self, statement: Statement, group: Group | None) -> bool:
        """Whether a Bind in `group` (None: one without edits) may rely on the statement. Hot path."""
        if statement not in self.present:
            return False
        if self.unconfirmed and self.unconfirmed.get(statement, group) is not group:
            return False
        self.present.move_to_end(statement)
        return True

    def parse(self, statement: Statement, group: Group) -> Edit:
        """Note that a Parse is sent in `group`.

        The edit swallows its reply; the caller may make it a forwarded one.
        """

        def proven() -> None:
            statement.proven = True

        return self._change(statement, True, Edit(0, Action.SWALLOW, done=proven), group)

    def close(self, statement: Statement, group: Group) -> Edit:
        """Note that a Close is sent in `group`."""
        return self._change(statement, False, Edit(0, Action.SWALLOW), group)

    def _change(self, statement: Statement, present: bool, edit: Edit, group: Group) -> Edit:
        self.unconfirmed[statement] = group
        self._pending.begin(statement, statement in self.present, present, edit)
        return edit

    def _assume(self, statement: Statement, present: bool) -> None:
        if present:
            self.present[statement] = None
        else:
            self.present.pop(statement, None)
        if statement not in self._pending:
            del self.unconfirmed[statement]

    def overflow(self) -> list[Statement]:
        """The statements to close before another is parsed."""
        return list(islice(self.present, max(0, len(self.present) - self.limit + 1)))

    def clear(self) -> None:
        """DISCARD ALL or DEALLOCATE ALL ran. What is unconfirmed was sent behind it and is still to come."""
        self.present.clear()
        self._pending.rebase(False)

    def __len__(self) -> int:
        return len(self.present)
