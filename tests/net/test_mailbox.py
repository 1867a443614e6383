"""How the data plane wakes a task."""

from __future__ import annotations

import trio
import trio.testing

from trio_pool.net.mailbox import Mailbox


def test_a_wake_before_the_wait_is_not_lost() -> None:
    """Whatever the order, the task wakes; several wakes count as one."""

    async def main() -> None:
        mailbox = Mailbox()
        mailbox.wake()
        mailbox.wake()
        await mailbox.wait()
        with trio.move_on_after(0.01) as scope:
            await mailbox.wait()
        assert scope.cancelled_caught

    trio.run(main)


def test_a_sleeping_task_is_woken() -> None:
    """`wake` reaches a task that waits already, and the next wait sleeps again."""

    async def main() -> None:
        mailbox = Mailbox()
        woken = 0

        async def sleeper() -> None:
            nonlocal woken
            for _ in range(2):
                await mailbox.wait()
                woken += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(sleeper)
            await trio.testing.wait_all_tasks_blocked()
            mailbox.wake()
            await trio.testing.wait_all_tasks_blocked()
            assert woken == 1
            mailbox.wake()
        assert woken == 2

    trio.run(main)


def test_a_cancelled_wait_leaves_the_mailbox_usable() -> None:
    """A deadline may end a wait; a wake after it is kept for the next one."""

    async def main() -> None:
        mailbox = Mailbox()
        with trio.move_on_after(0):
            await mailbox.wait()
        mailbox.wake()
        with trio.fail_after(1):
            await mailbox.wait()

    trio.run(main)


def test_waiting_always_lets_others_run() -> None:
    """Also a wait that need not wait is a checkpoint, so no task can keep the loop to itself."""

    async def main() -> None:
        mailbox = Mailbox()
        mailbox.wake()
        with trio.testing.assert_checkpoints():
            await mailbox.wait()

    trio.run(main)
