"""How the data plane wakes the task that owns a connection.

The smallest thing that works: one waiter, one flag. A `trio.Event` per wait would do the same for twice the
memory per idle client.
"""

from __future__ import annotations

import trio


class Mailbox:
    """Wakes one task. A `wake` that comes before `wait` is not lost; several count as one."""

    __slots__ = ("_awake", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._awake = False

    def wake(self) -> None:
        """Wake the task, or make its next `wait` return at once."""
        self._awake = True
        if self._task is not None:
            task, self._task = self._task, None
            trio.lowlevel.reschedule(task)

    async def wait(self) -> None:
        """Sleep until somebody calls `wake`."""
        if self._awake:
            await trio.lowlevel.checkpoint()
        else:
            self._task = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        self._awake = False

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED
