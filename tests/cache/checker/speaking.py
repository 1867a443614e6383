"""A client that asks questions in all the ways there are, and has the answers checked."""

from __future__ import annotations

import itertools
import struct
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import trio

from tests.cache.checker.reads import FAMILIES, Question
from tests.cache.checker.schema import SLOTS
from tests.net.peer import Peer
from tests.support import requests
from trio_pool.wire import messages

if TYPE_CHECKING:
    from random import Random

    from tests.cache.checker.ledger import Ledger, Version
    from tests.cache.checker.reads import Identity, Rows, Spec

PATIENCE = 20.0
"""Seconds after which nothing comes any more."""
TEXT_WAYS = ("simple", "simple", "unnamed", "described", "prepared", "prepared")
BINARY_WAYS = ("unnamed binary", "prepared binary")
SHARE_OF_EXECUTE = 0.005
"""Of the questions that go by PREPARE and EXECUTE in SQL, each of which ends everything that is kept."""
INTERRUPTED = ("57014", "57P", "08", "25P03", "58")
"""Beginnings of SQLSTATEs of those whom somebody has interrupted."""


class Gone(Exception):
    """The connection has ended."""


@attrs.frozen
class Group:
    """What came up to one ReadyForQuery."""

    rows: Rows
    error: str
    tags: tuple[str, ...]
    message: str = ""


MOST_ASKED = 6
"""Questions that are asked again and again, for a while: otherwise hardly one would find an answer."""


@attrs.define(eq=False)
class Common:
    """What all clients of one run share. `flavours` are the renderings for a zone, a style and an output."""

    ledger: Ledger
    direct: Peer
    flavours: dict[tuple[str, str, str], list[str | None]] = attrs.field(factory=dict)
    reads: Counter[str] = attrs.field(factory=Counter)
    writes: Counter[str] = attrs.field(factory=Counter)
    errors: Counter[str] = attrs.field(factory=Counter)
    popular: list[tuple[Spec, int, str]] = attrs.field(factory=list)
    _asking: trio.Lock = attrs.field(factory=trio.Lock)

    async def flavour(self, who: Identity) -> list[str | None]:
        """How the constant columns look to somebody, from PostgreSQL itself."""
        key = who.zone, who.style, who.output
        async with self._asking:
            if key not in self.flavours:
                settings = (
                    f"SET TimeZone = '{key[0]}'; SET DateStyle = '{key[1]}'; SET bytea_output = '{key[2]}'"
                )
                await self.direct.send(requests.query(settings))
                await groups(self.direct, 1)
                await self.direct.send(requests.query("SELECT at, raw FROM checked.plain WHERE id = 1"))
                ((row,),) = [group.rows for group in await groups(self.direct, 1)]
                self.flavours[key] = row
        return self.flavours[key]


async def groups(peer: Peer, count: int, *, binary: bool = False) -> list[Group]:
    """What a request with so many ReadyForQuery is answered with. Raises Gone."""
    found = []
    for _ in range(count):
        rows: Rows = []
        error = message = ""
        tags = []
        exchanged = []
        with trio.move_on_after(PATIENCE) as scope:
            exchanged = await peer.exchange()
        if scope.cancelled_caught:
            raise AssertionError("no answer")
        for tag, body in exchanged:
            if tag == ord("D"):
                rows.append(_binary_row(body) if binary else messages.read_row(body))
            elif tag == ord("C"):
                tags.append(body.rstrip(b"\0").decode())
            elif tag == ord("E"):
                fields = messages.read_error(body)
                error, message = error or fields.sqlstate, message or fields.summary
        if not exchanged or exchanged[-1][0] != ord("Z"):
            raise Gone(message)
        found.append(Group(rows, error, tuple(tags), message))
    return found


def _binary_row(body: bytes) -> list[str | None]:
    """Of texts, but for the second column, which is a number."""
    columns: list[str | None] = []
    at = 2
    for number in range(int.from_bytes(body[:2], "big")):
        size = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4
        if size < 0:
            columns.append(None)
            continue
        value = body[at : at + size]
        columns.append(str(int.from_bytes(value, "big", signed=True)) if number == 1 else value.decode())
        at += size
    return columns


def bind(name: str, parameters: list[str], *, binary: bool) -> bytes:
    values = b"".join(struct.pack("!I", len(p)) + p.encode() for p in parameters)
    formats = b"\0\1\0\1" if binary else b"\0\0"
    head = b"\0" + name.encode() + b"\0" + struct.pack("!HH", 0, len(parameters))
    return messages.message(ord("B"), head + values + formats)


@attrs.define(eq=False)
class Speaker:
    """One client, of the pooler at `address`."""

    common: Common
    address: tuple[str, int]
    random: Random
    who: Identity
    peer: Peer = attrs.field(init=False)
    names: dict[str, str] = attrs.field(factory=dict)
    _numbers: itertools.count[int] = attrs.field(factory=itertools.count)

    async def log_in(self) -> None:
        who = self.who = attrs.evolve(self.who, role="", by="")
        settings = {
            "user": who.user,
            "database": who.database,
            "search_path": who.path,
            "TimeZone": who.zone,
            "DateStyle": who.style,
            "bytea_output": who.output,
        }
        self.names = {}
        self.peer = await Peer.log_in(self.address, settings)

    async def say(self, *data: bytes, count: int | None = None) -> list[Group]:
        """Send it in one go."""
        await self.peer.send(b"".join(data))
        return await groups(self.peer, len(data) if count is None else count)

    async def query(self, sql: str) -> Group:
        return (await self.say(requests.query(sql)))[0]

    def new_name(self) -> str:
        """For a prepared statement."""
        return f"s{next(self._numbers)}"

    def question(self, family: str) -> Question:
        """One about these cells."""
        spec = self.random.choice(FAMILIES[family])
        return Question(self.common.ledger, spec, self.random.choice(SLOTS), self.who)

    def popular_question(self) -> tuple[Question, str]:
        """One that others ask, too; and the way."""
        popular = self.common.popular
        if len(popular) < MOST_ASKED or self.random.random() < 0.002:
            spec = self.random.choice(FAMILIES[self.random.choice(list(FAMILIES))])
            popular.append((spec, self.random.choice(SLOTS), self.way(spec)))
            del popular[:-MOST_ASKED]
        spec, k, way = self.random.choice(popular)
        return Question(self.common.ledger, spec, k, self.who), way

    def way(self, spec: Spec) -> str:
        if spec.simple:
            return "simple"
        if self.random.random() < SHARE_OF_EXECUTE:
            return "executed"
        return self.random.choice(TEXT_WAYS + (BINARY_WAYS if spec.binary else ()))

    async def ask(
        self,
        question: Question,
        *,
        behind: bytes = b"",
        groups_before: int = 0,
        mine: dict[str, Version] | None = None,
        exactly: bool = False,
        way: str = "",
    ) -> list[Group]:
        """Have it answered and checked, in one write with what it stands `behind`: a write of the client's
        own, with so many ReadyForQuery, 0 if the question ends the same group. Returns what that is answered.

        `mine`: what the client has written and must see if that worked; `exactly`: in an open transaction.
        """
        spec = question.spec
        way = "one group" if behind and not groups_before else way or self.way(spec)
        flavour = await self.common.flavour(self.who) if spec.flavoured else []
        request, preparation = self._request(spec, question.k, way)
        question.sent(trio.current_time(), self.address, mine, exactly=exactly)
        await self.peer.send(behind + preparation + request)
        writes = await groups(self.peer, groups_before)
        prepared = await groups(self.peer, bool(preparation))
        (answer,) = await groups(self.peer, 1, binary=way.endswith("binary"))
        self.common.reads[spec.family] += 1
        error = next((group.error for group in prepared if group.error), answer.error)
        if error:
            self.names.clear()
        if way == "one group":
            writes = [answer]
        failed = any(group.error or "ROLLBACK" in group.tags for group in writes)
        if failed:
            question.forget()
        if error.startswith(INTERRUPTED) or (
            error and (way == "one group" or ((exactly or failed) and error == "25P02"))
        ):
            self.common.errors[f"read {error}"] += 1
        else:
            question.check(answer.rows, error, flavour, way)
        return writes

    def _request(self, spec: Spec, k: int, way: str) -> tuple[bytes, bytes]:
        """The request, and one of its own that must go before it."""
        if way == "simple":
            return requests.query(spec.sql.replace("{k}", str(k))), b""
        sql = spec.sql.replace("{k}", "$1::int")
        parameters = [str(k)] if "$1" in sql else []
        binary = way.endswith("binary")
        run = requests.execute() + requests.SYNC
        if way == "one group":
            return requests.parse("", sql) + bind("", parameters, binary=False) + run, b""
        if way.startswith("unnamed"):
            binding = bind("", parameters, binary=binary)
            return requests.parse("", sql) + binding + requests.describe_portal() + run, b""
        if way == "described":
            binding = bind("", parameters, binary=False)
            return requests.parse("", sql) + requests.describe("") + binding + run, b""
        key = f"{way == 'executed'} {sql}"
        name = self.names.get(key)
        new = name is None
        if name is None:
            name = self.names[key] = self.new_name()
        if way == "executed":
            types = "(int)" if parameters else ""
            values = f"({k})" if parameters else ""
            prepare = requests.query(f"PREPARE {name}{types} AS {sql}") if new else b""
            return requests.query(f"EXECUTE {name}{values}"), prepare
        prepare = requests.parse(name, sql) + requests.SYNC if new else b""
        return bind(name, parameters, binary=binary) + run, prepare
