"""Clients that ask all the while, and what has become of each; and who looks at PostgreSQL meanwhile."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import attrs
import trio

from tests.net.peer import Peer
from tests.support.target import USER
from trio_pool.net.clients import SLOT_SHIFT
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.pooler import Pooler

ENDED = (AssertionError, trio.BrokenResourceError, trio.ClosedResourceError, OSError)


def worker_of(peer: Peer) -> int:
    """The index of the worker that has let a client in."""
    return (peer.process_id >> SLOT_SHIFT) - 1


@contextmanager
def ended(processes: list[int]) -> Iterator[None]:
    """Processes that are no children of ours end with the block, whatever happens."""
    try:
        yield
    finally:
        for process in processes:
            if is_alive(process):
                os.kill(process, signal.SIGKILL)


@attrs.define(eq=False)
class Crowd:
    """`errors` are those of clients whose worker had not been killed since they logged in."""

    pooler: Pooler
    answered: int = 0
    logins: int = 0
    cancelled: int = 0
    killed: Counter[int] = attrs.field(factory=Counter)
    """How often each worker has been."""
    victims: int = 0
    errors: list[str] = attrs.field(factory=list)
    of_worker: Counter[int] = attrs.field(factory=Counter)
    """Logins, by the worker that has let them in."""
    most_servers: int = 0
    looks: int = 0

    def __str__(self) -> str:
        return (
            f"{self.answered} answers, {self.logins} logins, {self.cancelled} statements cancelled, "
            f"{self.killed.total()} kills, {self.victims} victims, {len(self.errors)} errors "
            f"{self.errors[:5]}, at most {self.most_servers} servers in {self.looks} looks"
        )

    @property
    def address(self) -> tuple[str, int]:
        return self.pooler.host, self.pooler.port

    async def ask(self, name: str, statements: int = 50, pause: float = 0.0) -> None:
        """Log in, ask so many times, leave, and again."""
        while True:
            before = self.killed.total()
            peer: Peer | None = None
            try:
                async with await Peer.connect(self.address) as peer:
                    await peer.start({"user": USER, "database": "app"})
                    assert peer.process_id, "ended before it was let in"
                    self.logins += 1
                    self.of_worker[worker_of(peer)] += 1
                    for number in range(statements):
                        word = f"{name} {number}"
                        if number % 3:
                            assert await peer.rows(f"select '{word}'") == [word]
                        else:
                            assert await peer.rows("begin") == []
                            assert await peer.rows(f"select '{word}'") == [word]
                            assert await peer.rows("commit") == []
                        self.answered += 1
                        await trio.sleep(pause)
                    await peer.send(messages.TERMINATE)
            except ENDED as error:
                self._note(peer, before, error)

    def _note(self, peer: Peer | None, before: int, error: Exception) -> None:
        """Excused is a client of a worker that was killed; if it had not been told yet who it is, when any
        has been since it connected.
        """
        if peer is not None and peer.process_id:
            index = worker_of(peer)
            excused = self.killed[index] > 0 and self.killed.total() > before
        else:
            excused = peer is not None and self.killed.total() > before
        if excused:
            self.victims += 1
        else:
            self.errors.append(repr(error))

    async def cancel(self) -> None:
        """Have a statement cancelled that would run for long, and again. Any worker may get the request."""
        while True:
            before = self.killed.total()
            peer: Peer | None = None
            try:
                async with await Peer.connect(self.address) as peer:
                    await peer.start({"user": USER, "database": "app"})
                    await peer.send(messages.query("select pg_sleep(60)"))
                    with trio.fail_after(20):
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._request, peer)
                            errors = await peer.errors()
                            nursery.cancel_scope.cancel()
                    assert [error.sqlstate for error in errors] == ["57014"], errors
                    self.cancelled += 1
            except* ENDED as ends:
                self._note(peer, before, ends)
            await trio.sleep(0.01)

    async def _request(self, peer: Peer) -> None:
        """Until it is cancelled: a request that comes before its statement has no effect, and one to a worker
        that is killed neither.
        """
        while True:
            with suppress(*ENDED):
                await peer.request_cancel()
            await trio.sleep(0.2)

    async def kill(self, index: int) -> None:
        """One worker; returns when its place is taken."""
        before = self.pooler.mark()
        latest = [entry for entry in self.pooler.log_events("worker accepts") if entry["worker"] == index][-1]
        self.killed[index] += 1
        os.kill(latest["process"], signal.SIGKILL)
        await trio.to_thread.run_sync(self.pooler.wait_for_event, "worker accepts", 30.0, before)

    async def hand_over(self, process: int) -> int:
        """Have another process take over from this one; returns its id when it has."""
        before = self.pooler.mark()
        os.kill(process, signal.SIGUSR2)
        done = await trio.to_thread.run_sync(self.pooler.wait_for_event, "handed over", 60.0, before)
        return int(done["process"])

    async def count_servers(self, peer: Peer) -> None:
        """How many connections the tests' user has, as often as can be."""
        while True:
            (count,) = await peer.rows(f"select count(*) from pg_stat_activity where usename = '{USER}'")
            self.looks += 1
            self.most_servers = max(self.most_servers, int(count))
            await trio.sleep(0.002)


def is_alive(process: int) -> bool:
    """Whether there is such a process, other than one that its parent has not asked for yet."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_gone(process: int) -> None:
    """Return when it has ended."""
    with trio.fail_after(30):
        while is_alive(process):  # noqa: ASYNC110
            await trio.sleep(0.02)


def processes_below(parent: int) -> Iterator[int]:
    """Children, and theirs, that are alive."""
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    found = re.fullmatch(r"\d+ \(.*\) (\S) (\d+) .*", file.read(), re.DOTALL)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if found and found[1] != "Z" and int(found[2]) == parent:
                yield int(entry)
                yield from processes_below(int(entry))
