"""Clients that go beyond a time limit on purpose, each kind in its way.

An offence is something that one logged-in client does, the reply that it must get for it, and the proof that
its connection is as good as before. Everything that comes back carries the client's name, so that a reply of
somebody else's is noticed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import attrs
import trio

from tests.support import requests, talk
from tests.support.requests import Reply
from tests.support.talk import done, executed, extended, refused, selected
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from tests.net.peer import Peer

TABLE: Final = "offended"
"""Of one column, int, with one row, 0, which somebody keeps locked."""
SINK: Final = "offences"
"""Of one column, text: empty for ever."""
SET_UP: Final = f"create table {TABLE} (n int); insert into {TABLE} values (0); create table {SINK} (t text);"
LOCK: Final = f"begin; update {TABLE} set n = n"
SLOW: Final = "pg_sleep(30)"
FAILED: Final = "25P02"
FOR_EVER: Final = 20.0
"""Seconds after which a busy transaction gives up to be ended."""


@attrs.define(eq=False)
class Offender:
    """One client and the limit that it will exceed, in seconds; `sqlstate` is what it must get then."""

    peer: Peer
    name: str
    limit: float
    sqlstate: str
    chance: random.Random
    count: int = 0

    def tag(self) -> str:
        """A text that nobody else uses."""
        self.count += 1
        return f"{self.name}.{self.count}"

    async def send(self, *requests_: bytes) -> None:
        await self.peer.send(b"".join(requests_))

    async def replies(self, groups: int = 1) -> list[Reply]:
        return await talk.told(self.peer, groups)

    async def ask(self, sql: str) -> list[Reply]:
        return await talk.ask(self.peer, sql)

    async def begin(self) -> None:
        """Begin a transaction and do something in it."""
        expect(await self.ask("begin"), done("BEGIN", "T"))
        expect(await self.ask(f"insert into {SINK} values ('{self.tag()}')"), done("INSERT 0 1", "T"))

    async def end(self) -> None:
        """The transaction is a failed one; end it."""
        for _ in range(self.chance.randrange(3)):
            expect(await self.ask("select 1"), refused(FAILED, "E"))
        exit_ = self.chance.choice(["rollback", "commit", "end", "abort"])
        expect(await self.ask(exit_), done("ROLLBACK"))

    async def prove(self) -> None:
        """The connection is as good as before: in step, outside of a transaction, and its own."""
        tag = self.tag()
        expect(await self.ask(f"select '{tag}'"), selected(tag))
        tag = self.tag()
        await self.send(extended("select $1::text", tag), requests.SYNC)
        expect(await self.replies(), [*executed(tag), Reply("Z", "I")])

    async def idle(self) -> None:
        """Longer than the limit."""
        await trio.sleep(self.limit * self.chance.uniform(1.3, 2.0))


def expect(actual: list[Reply], expected: list[Reply]) -> None:
    assert actual == expected, f"{actual} instead of {expected}"


# -- the six kinds -------------------------------------------------------------------------------------------


async def run_slowly(offender: Offender) -> None:
    """A slow query: simple or extended, alone or in a transaction."""
    in_transaction = offender.chance.random() < 0.5
    if in_transaction:
        await offender.begin()
    status = "E" if in_transaction else "I"
    if offender.chance.random() < 0.5:
        replies = await offender.ask(f"select '{offender.tag()}' from {SLOW}")
        expect(replies[-2:], refused(offender.sqlstate, status))
        assert replies[:-2] in ([], [Reply("T", "1")])
    else:
        await offender.send(extended(f"select $1::text from {SLOW}", offender.tag()), requests.SYNC)
        expect(
            await offender.replies(),
            [
                Reply("1"),
                Reply("2"),
                *refused(offender.sqlstate, status),
            ],
        )
    if in_transaction:
        await offender.end()


async def pipeline_slowly(offender: Offender) -> None:
    """A slow statement among quick ones, all sent at once; those behind it are run."""
    before, after = offender.tag(), offender.tag()
    slow = offender.limit * 0.45
    if offender.chance.random() < 0.5:
        await offender.send(
            requests.query(f"select '{before}'"),
            extended(f"select $1::text from {SLOW}", offender.tag()),
            extended("select 'skipped'"),
            requests.SYNC,
            extended("select $1::text", after),
            requests.SYNC,
        )
        expect(
            await offender.replies(3),
            [
                *selected(before),
                Reply("1"),
                Reply("2"),
                *refused(offender.sqlstate),
                *executed(after),
                Reply("Z", "I"),
            ],
        )
        return
    # None of these is too slow, but up to Sync they are one.
    together = [offender.tag() for _ in range(8)]
    await offender.send(
        *(extended(f"select $1::text from pg_sleep({slow})", tag) for tag in together),
        requests.SYNC,
        requests.query(f"select '{after}'"),
    )
    replies = await offender.replies(2)
    assert replies[-6:] == [*refused(offender.sqlstate), *selected(after)]
    rows = [reply.content for reply in replies[:-6] if reply.tag == "D"]
    assert 1 <= len(rows) <= 3
    assert rows == together[: len(rows)]


async def stall_copy(offender: Offender) -> None:
    """COPY FROM STDIN whose data does not come, or comes too late."""
    in_transaction = offender.chance.random() < 0.5
    if in_transaction:
        await offender.begin()
    status = "E" if in_transaction else "I"
    extended_ = offender.chance.random() < 0.5
    copy = f"copy {SINK} from stdin"
    row = requests.copy_data(f"{offender.tag()}\n".encode())
    if extended_:
        await offender.send(extended(copy), requests.FLUSH)
    else:
        await offender.send(requests.query(copy))
    while (message := await offender.peer.receive()) is not None and message[0] != ord("G"):
        assert message[0] in b"12"
    if offender.chance.random() < 0.7:
        await offender.send(row)
    if offender.chance.random() < 0.5:
        await offender.idle()
        await offender.send(row, requests.COPY_DONE)
        expected = refused(offender.sqlstate, status)
        if extended_:
            await offender.send(requests.SYNC)
        expect(await offender.replies(), expected)
    else:
        message = await offender.peer.receive()
        assert message is not None
        assert message[0] == Backend.ERROR_RESPONSE
        assert messages.read_error(message[1]).sqlstate == offender.sqlstate
        await offender.send(row, requests.COPY_DONE)
        if extended_:
            await offender.send(requests.SYNC)
        expect(await offender.replies(), [Reply("Z", status)])
    if in_transaction:
        await offender.end()


async def idle_in_transaction(offender: Offender) -> None:
    """A transaction in which nothing happens for too long."""
    await offender.begin()
    await offender.idle()
    if offender.chance.random() < 0.5:
        expect(await offender.ask(f"select '{offender.tag()}'"), refused(offender.sqlstate, "E"))
    else:
        await offender.send(extended("select $1::text", offender.tag()), requests.SYNC)
        expect(await offender.replies(), refused(offender.sqlstate, "E"))
    await offender.end()


async def be_busy(offender: Offender) -> None:
    """A transaction of statements none of which is slow."""
    await offender.begin()
    until = trio.current_time() + FOR_EVER
    while trio.current_time() < until:
        tag = offender.tag()
        replies = await offender.ask(f"select '{tag}' from pg_sleep({offender.chance.random() * 0.01})")
        if replies != selected(tag, status="T"):
            expect(replies[-2:], refused(offender.sqlstate, "E"))
            assert replies[:-2] in ([], [Reply("T", "1")])
            break
    else:
        raise AssertionError("the transaction was never ended")
    await offender.end()


async def wait_for_lock(offender: Offender) -> None:
    """A statement that waits for somebody else's row, alone or in a transaction."""
    in_transaction = offender.chance.random() < 0.5
    if in_transaction:
        await offender.begin()
    status = "E" if in_transaction else "I"
    expect(await offender.ask(f"update {TABLE} set n = n + 1"), refused(offender.sqlstate, status))
    if in_transaction:
        await offender.end()


@attrs.frozen
class Offence:
    """A kind of offence, the limit of `[timeouts]` that it exceeds, and what it gets for that."""

    commit: Callable[[Offender], Awaitable[None]]
    limit: str
    sqlstate: str

    def __str__(self) -> str:
        return f"{self.commit.__name__} beyond {self.limit}"


OFFENCES: Final[Sequence[Offence]] = [
    Offence(run_slowly, "query", "57014"),
    Offence(pipeline_slowly, "query", "57014"),
    Offence(stall_copy, "query", "57014"),
    Offence(wait_for_lock, "query", "57014"),
    Offence(stall_copy, "idle_in_transaction", "57014"),
    Offence(idle_in_transaction, "idle_in_transaction", "25P03"),
    Offence(be_busy, "transaction", "25P04"),
    Offence(run_slowly, "transaction", "25P04"),
    Offence(wait_for_lock, "transaction", "25P04"),
    Offence(idle_in_transaction, "transaction", "25P04"),
]
