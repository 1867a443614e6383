"""Who writes, in one way after the other, until the run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import trio

from tests.cache.checker.ops import N, Op
from tests.cache.checker.reads import PATHS
from tests.cache.checker.schema import SLOTS
from tests.cache.checker.speaking import PATIENCE, Gone, Group, Speaker, groups
from tests.cache.checker.writes import choose
from tests.net.peer import Peer
from tests.support import requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.cache.checker.ledger import Version, Writing

UNSURE = ("08", "57P", "58", "XX")
"""Beginnings of SQLSTATEs after which nobody knows whether a COMMIT has happened."""
PERIOD, QUIET = 4.0, 2.5
"""In each period the schema is left alone for so many seconds: nothing is kept while it changes."""
NOT_YET = ("trace_at_commit",)
"""What is written only when the transaction is committed."""


def render(statement: str, n: int) -> str:
    return statement.replace(N, str(n))


@attrs.define(eq=False, kw_only=True)
class Writer(Speaker):
    """Writes, in one way after the other. `share_of_schema`: how many of the changes are to the schema."""

    share_of_schema: float
    share_of_kills: float
    share_past: float
    pause: float
    killer: Peer
    past: Peer | None = None
    other: Peer = attrs.field(init=False)
    troubled: bool = False
    """Whether a transaction that failed may still be open: a COMMIT that is cancelled does not end it."""

    async def run(self) -> None:
        while True:
            try:
                await self.log_in()
                self.other = await Peer.log_in(self.address, {"search_path": PATHS[0]})
                async with self.peer, self.other:
                    while True:
                        await self._step()
            except Gone as gone:
                self.common.errors[f"writer gone: {gone}"] += 1

    async def _step(self) -> None:
        if self.random.random() < self.share_of_kills:
            await self._kill_server()
            return
        await trio.sleep(self.random.expovariate(1 / self.pause) if self.random.random() < 0.8 else 0)
        popular = self.common.popular
        family = self.random.choice(popular)[0].family if popular and self.random.random() < 0.7 else ""
        schema = self.share_of_schema if trio.current_time() % PERIOD > QUIET else 0.0
        plan = choose(self.random, schema, family)
        ledger = self.common.ledger
        async with ledger.writing(plan.cells, "", self.address) as writing:
            op = plan.make(ledger)
            if op is None:
                return
            ways = self._ways(op)
            way = self.random.choice(ways)
            name = way.__name__.strip("_")
            writing.how = f"{name}: {'; '.join(op.statements)[:160]}"
            self.common.writes[f"{op.family} {name}"] += 1
            await way(op, writing)
        if self.troubled:
            self.troubled = False
            await self.query("ROLLBACK")
        if self.random.random() < 0.5:
            await self._read_own(op)

    async def _read_own(self, op: Op) -> None:
        await self.ask(self.question(op.family))

    def _ways(self, op: Op) -> list[Callable[[Op, Writing], Awaitable[None]]]:
        ways: list[Callable[[Op, Writing], Awaitable[None]]] = []
        if self.past is not None and self.random.random() < self.share_past:
            return [self._past]
        if len(op.statements) == 1 and not op.block_only:
            ways += [self._alone, self._alone, self._piped]
            if not op.copy:
                ways += [self._unnamed, self._unnamed, self._unnamed_piped]
                if op.transactional:
                    ways += [self._do]
            if not op.literal and not op.statements[0].startswith("CALL"):
                ways += [self._prepared, self._executed]
        elif not op.copy:
            ways += [self._together]
        if op.transactional:
            ways += [self._block, self._block, self._savepoint, self._two_phase]
            if op.killable:
                ways += [self._chain, self._killed_client, self._timed_out]
                if not op.copy:
                    ways += [self._cancelled]
            if not op.copy:
                ways += [self._block_piped]
        return ways

    # -- ways ------------------------------------------------------------------------------------------------

    def _begin(self, op: Op, writing: Writing, *, dead: bool = False) -> tuple[list[bytes], list[str]]:
        """The requests with a version of their own, and as text."""
        n = self.common.ledger.number()
        writing.write(op.contents(n), dead=dead)
        texts = [render(statement, n) for statement in op.statements]
        found = [requests.query(text) for text in texts]
        if op.copy:
            found[-1] += requests.copy_data(render(op.copy, n).encode()) + requests.COPY_DONE
        return found, texts

    def _ended(self, writing: Writing, answers: list[Group], tag: str = "") -> bool:
        """What became of it. `tag`: of a COMMIT that has committed."""
        errors = [group.error for group in answers if group.error]
        self.troubled = bool(errors)
        for group in answers:
            if group.error:
                self.common.errors[f"write {group.error} {group.message[:60]}"] += 1
        if any(error.startswith(UNSURE) for error in errors):
            writing.unknown()
        elif errors or (tag and tag not in [t for group in answers for t in group.tags]):
            writing.rolled_back()
        else:
            writing.committed()
            return True
        return False

    async def _alone(self, op: Op, writing: Writing) -> None:
        (request,), _ = self._begin(op, writing)
        writing.sent()
        self._ended(writing, await self.say(request))

    async def _past(self, op: Op, writing: Writing) -> None:
        """Past the pooler: noticed by replication only."""
        assert self.past is not None
        writing.via = None
        sent, _ = self._begin(op, writing)
        writing.sent()
        block = [requests.query("BEGIN"), *sent, requests.query("COMMIT")] if op.transactional else sent
        await self.past.send(b"".join(block))
        answers = await groups(self.past, len(block))
        self._ended(writing, answers, "COMMIT" if op.transactional else "")

    async def _together(self, op: Op, writing: Writing) -> None:
        _, texts = self._begin(op, writing)
        texts = ["BEGIN", *texts, "COMMIT"] if op.block_only or self.random.random() < 0.5 else texts
        writing.sent()
        answers = await self.say(requests.query("; ".join(texts)))
        if any(group.error for group in answers) and texts[0] == "BEGIN":
            await self.query("ROLLBACK")
        self._ended(writing, answers)

    async def _piped(self, op: Op, writing: Writing) -> None:
        """The write and a reading in one go."""
        (request,), _ = self._begin(op, writing)
        await self._piped_with(op, writing, request)

    async def _piped_with(
        self, op: Op, writing: Writing, request: bytes, count: int = 1, tag: str = ""
    ) -> None:
        writing.sent()
        question = self.question(op.family)
        answers = await self.ask(question, behind=request, groups_before=count, mine=self._mine(writing))
        self._ended(writing, answers, tag)

    @staticmethod
    def _mine(writing: Writing, *, open_: bool = False) -> dict[str, Version]:
        """What the client sees of its own, in the transaction or behind it."""
        return {
            cell.name: version
            for cell, version in writing.versions.items()
            if not (open_ and cell.name.startswith(NOT_YET))
        }

    async def _unnamed(self, op: Op, writing: Writing) -> None:
        request = self._extended(op, writing, "")
        writing.sent()
        self._ended(writing, await self.say(request + requests.SYNC))

    async def _unnamed_piped(self, op: Op, writing: Writing) -> None:
        """In one group, or in two, in one go."""
        request = self._extended(op, writing, "")
        plain = op.statements[0].startswith(("UPDATE", "INSERT", "DELETE"))
        if plain and "RETURNING" not in op.statements[0] and self.random.random() < 0.5:
            writing.sent()
            mine = self._mine(writing, open_=True)
            question = self.question(op.family)
            self._ended(writing, await self.ask(question, behind=request, mine=mine))
        else:
            await self._piped_with(op, writing, request + requests.SYNC)

    def _extended(self, op: Op, writing: Writing, name: str, known: bool = False) -> bytes:
        """Without Sync."""
        n = self.common.ledger.number()
        writing.write(op.contents(n))
        if op.literal:
            sql, parameters = render(op.statements[0], n), []
        else:
            sql, parameters = op.statements[0].replace(N, "$1::int"), [str(n)] * (N in op.statements[0])
        parse = b"" if known else requests.parse(name, sql)
        return parse + requests.bind(name, *parameters) + requests.execute()

    async def _prepared(self, op: Op, writing: Writing) -> None:
        key = f"write {op.statements[0]}"
        known = key in self.names
        name = self.names.setdefault(key, self.new_name())
        request = self._extended(op, writing, name, known)
        writing.sent()
        if not self._ended(writing, await self.say(request + requests.SYNC)):
            self.names.pop(key, None)

    async def _executed(self, op: Op, writing: Writing) -> None:
        """PREPARE and EXECUTE in SQL."""
        n = self.common.ledger.number()
        name = self.new_name()
        sql = op.statements[0].replace(N, "$1")
        given = f"({n})" if "$1" in sql else ""
        await self.query(f"PREPARE {name}{'(int)' if given else ''} AS {sql}")
        writing.write(op.contents(n))
        writing.sent()
        self._ended(writing, await self.say(requests.query(f"EXECUTE {name}{given}")))
        await self.query(f"DEALLOCATE {name}")

    async def _do(self, op: Op, writing: Writing) -> None:
        _, (text,) = self._begin(op, writing)
        writing.sent()
        spelled = text.replace("'", "''")
        do = f"DO $do$ BEGIN EXECUTE '{spelled}'; END $do$"
        self._ended(writing, await self.say(requests.query(do)))

    async def _block(self, op: Op, writing: Writing) -> None:
        """Message by message, with a reading in the middle."""
        sent, _ = self._begin(op, writing)
        await self.query("BEGIN")
        answers = [answer for request in sent for answer in await self.say(request)]
        if not any(answer.error for answer in answers) and self.random.random() < 0.7:
            mine = self._mine(writing, open_=True)
            await self.ask(self.question(op.family), mine=mine, exactly=True)
        if self.random.random() < 0.3:
            await self.query("ROLLBACK")
            writing.rolled_back()
            return
        writing.sent()
        if self.random.random() < 0.3:
            behind = self.question(op.family)
            commit = requests.query("COMMIT")
            answers += await self.ask(behind, behind=commit, groups_before=1, mine=self._mine(writing))
        else:
            answers += await self.say(requests.query("COMMIT"))
        self._ended(writing, answers, "COMMIT")

    async def _savepoint(self, op: Op, writing: Writing) -> None:
        """What is written first is undone."""
        first, _ = self._begin(op, writing, dead=True)
        second, _ = self._begin(op, writing)
        steps = [requests.query("BEGIN"), requests.query("SAVEPOINT s"), *first]
        steps += [requests.query("ROLLBACK TO SAVEPOINT s"), *second]
        answers = [answer for request in steps for answer in await self.say(request)]
        writing.sent()
        answers += await self.say(requests.query("COMMIT"))
        self._ended(writing, answers, "COMMIT")

    async def _chain(self, op: Op, writing: Writing) -> None:
        """COMMIT AND CHAIN, and what the next transaction does."""
        sent, _ = self._begin(op, writing)
        answers = await self.say(requests.query("BEGIN"), *sent)
        writing.sent()
        answers += await self.say(requests.query("COMMIT AND CHAIN"))
        self._ended(writing, answers, "COMMIT")
        again, _ = self._begin(op, writing)
        answers = await self.say(*again)
        commits = self.random.random() < 0.5
        writing.sent() if commits else None
        answers += await self.say(requests.query("COMMIT" if commits else "ROLLBACK"))
        self._ended(writing, answers, "COMMIT")

    async def _block_piped(self, op: Op, writing: Writing) -> None:
        """A whole transaction and a reading in one go."""
        sent, _ = self._begin(op, writing)
        requested = [requests.query("BEGIN"), *sent, requests.query("COMMIT")]
        await self._piped_with(op, writing, b"".join(requested), len(requested), "COMMIT")

    async def _two_phase(self, op: Op, writing: Writing) -> None:
        """Prepared by one client, and committed by another."""
        sent, _ = self._begin(op, writing)
        gid = f"g{self.random.randrange(10**12)}"
        prepare = requests.query(f"PREPARE TRANSACTION '{gid}'")
        answers = [
            a for request in (requests.query("BEGIN"), *sent, prepare) for a in await self.say(request)
        ]
        if "PREPARE TRANSACTION" not in answers[-1].tags:
            self._ended(writing, answers, "COMMIT")
            return
        finish = "COMMIT" if self.random.random() < 0.8 else "ROLLBACK"
        if finish == "COMMIT":
            writing.sent()
        with trio.CancelScope(shield=True):  # it would hold its locks for ever
            await self.other.send(requests.query(f"{finish} PREPARED '{gid}'"))
            await self._answer_of_other(writing)

    async def _answer_of_other(self, writing: Writing) -> None:
        exchanged = []
        with trio.move_on_after(PATIENCE):
            exchanged = await self.other.exchange()
        assert exchanged, "no answer"
        tags = tuple(body.rstrip(b"\0").decode() for tag, body in exchanged if tag == ord("C"))
        self._ended(writing, [Group([], "" if tags else "XX000", tags)], "COMMIT PREPARED")

    async def _timed_out(self, op: Op, writing: Writing) -> None:
        """Statements have a time limit, which may or may not be enough."""
        sent, _ = self._begin(op, writing)
        limit = requests.query(f"SET LOCAL statement_timeout = '{self.random.randrange(1, 12)}ms'")
        steps = [requests.query("BEGIN"), limit, *sent, requests.query("SELECT pg_sleep(0.004)")]
        answers = [answer for request in steps for answer in await self.say(request)]
        writing.sent()
        answers += await self.say(requests.query("COMMIT"))
        self._ended(writing, answers, "COMMIT")

    async def _cancelled(self, op: Op, writing: Writing) -> None:
        """Cancelled at some time, before or after the end."""
        _, texts = self._begin(op, writing)
        writing.sent()
        await self.peer.send(requests.query("; ".join(["BEGIN", *texts, "SELECT pg_sleep(0.004)", "COMMIT"])))
        await trio.sleep(self.random.random() * 0.008)
        await self.peer.request_cancel()
        (answer,) = await self.say(count=1)
        if answer.error:
            await self.query("ROLLBACK")
        self._ended(writing, [answer])

    async def _killed_client(self, op: Op, writing: Writing) -> None:
        """The client goes away in the middle of its COMMIT."""
        sent, _ = self._begin(op, writing)
        victim = await Peer.log_in(self.address, {"search_path": PATHS[0]})
        requested = [requests.query("BEGIN"), *sent, requests.query("COMMIT")]
        whole = self.random.random() < 0.5
        try:
            if not whole:
                await victim.send(b"".join(requested[:-1]))
                for _ in requested[:-1]:
                    await victim.exchange()
            writing.sent()
            await victim.send(b"".join(requested) if whole else requested[-1])
            if self.random.random() < 0.5:
                await trio.sleep(self.random.random() * 0.003)
        finally:
            victim.close()
        writing.unknown()

    async def _kill_server(self) -> None:
        """PostgreSQL's process is ended in the middle of a COMMIT that takes long."""
        k = self.random.choice(SLOTS)
        ledger = self.common.ledger
        async with ledger.writing([f"slow/{k}"], "killed server: UPDATE slow", self.address) as writing:
            op = Op("slow", (f"UPDATE slow SET v = {N} WHERE id = {k}",), {f"slow/{k}": N})
            sent, _ = self._begin(op, writing)
            self.common.writes["slow killed_server"] += 1
            asked = requests.query("SELECT pg_backend_pid()")
            answers = await self.say(requests.query("BEGIN"), *sent, asked)
            if any(answer.error for answer in answers):
                await self.query("ROLLBACK")
                self._ended(writing, answers)
                return
            pid = answers[-1].rows[0][0]
            writing.sent()
            await self.peer.send(requests.query("COMMIT"))
            await trio.sleep(self.random.random() * 0.03)
            await self.killer.send(requests.query(f"SELECT pg_terminate_backend({pid})"))
            await self.killer.exchange()
            try:
                answers = await self.say(count=1)
            except Gone:
                writing.unknown()
                raise
            self._ended(writing, answers, "COMMIT")
