"""Values that requests under way will change, if they succeed.

Whoever sends a request assumes that it succeeds, since the requests behind it build upon it. It may fail or
be skipped, and not only the latest one: in a pipeline of groups each can fail by itself. So a key's history
is kept until all of it is answered: what is known first, then the changes in the order in which they were
sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_pool.protocol.replies import Edit

K = TypeVar("K")
V = TypeVar("V")


@attrs.define(eq=False)
class Pending(Generic[K, V]):
    """Unanswered changes by key.

    `assume` is told the value that a key has from now on, as far as anybody can tell.
    """

    assume: Callable[[K, V], None]
    _histories: dict[K, list[tuple[Edit | None, V]]] = attrs.field(factory=dict)

    def begin(self, key: K, before: V, after: V, edit: Edit) -> None:
        """A request is sent that changes the key's value, `before` being the present one.

        Its edit, which may have callbacks already, will tell how it ended.
        """
        history = self._histories.setdefault(key, [(None, before)])
        history.append((edit, after))
        done, undo = edit.done, edit.undo

        def confirm() -> None:
            if done is not None:
                done()
            history[0] = (None, after)
            self._answered(key, history, edit)

        def revert() -> None:
            if undo is not None:
                undo()
            self._answered(key, history, edit)

        edit.done, edit.undo = confirm, revert
        self.assume(key, after)

    def rebase(self, value: V) -> None:
        """What was known of all keys is this now; what is under way was sent later."""
        for key, history in self._histories.items():
            history[0] = (None, value)
            self.assume(key, history[-1][1])

    def __contains__(self, key: K) -> bool:
        return key in self._histories

    def _answered(self, key: K, history: list[tuple[Edit | None, V]], edit: Edit) -> None:
        history[:] = [change for change in history if change[0] is not edit]
        if len(history) == 1:
            del self._histories[key]
        self.assume(key, history[-1][1])
