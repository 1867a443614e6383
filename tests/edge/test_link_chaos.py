"""Clients at two edges on one origin while links are cut, stalled and restored at random.

    TRIO_POOL_CHAOS=120 pytest tests/edge/test_link_chaos.py        two minutes and 200 clients

No wrong or crossed reply, no query a second after its link was cut, one answer or one clear error for every
request, and everything recovers by itself.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from typing import TYPE_CHECKING

import attrs
import pytest
import trio

from tests.net.harness import watcher
from tests.net.peer import Peer
from tests.support import requests
from tests.support.faulty import Network, network
from tests.support.linked import EDGE, EDGE_PASSWORD, mutual
from tests.support.pooler import Pooler
from tests.support.target import DATABASE
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

LONG = float(os.environ.get("TRIO_POOL_CHAOS", "0"))
SECONDS = LONG or 5.0
CLIENTS = 100 if LONG else 16
"""At each of the two edges."""
SERVERS = 10
SEED = int(os.environ.get("TRIO_POOL_CHAOS_SEED", "1"))
LONGEST = 15.0
"""Seconds that any request may take: the wait for a lease is the longest of them."""
CLEAR = {
    "08001": "origin down",
    "08006": "link lost",
    "53300": "no lease",
    "57014": "cancelled",
    "57P01": "origin stopping",
}


class Ended(Exception):
    """The edge has closed the connection."""


@attrs.define(eq=False)
class Edge:
    name: str
    pooler: Pooler
    network: Network


@attrs.define(eq=False)
class Tally:
    """What has happened. `committed` are ids that must be in the table, `forbidden` those that must not."""

    answers: int = 0
    errors: Counter[str] = attrs.field(factory=Counter)
    reconnects: int = 0
    cuts: int = 0
    stalls: int = 0
    refusals: int = 0
    orphans: list[str] = attrs.field(factory=list)
    cut_off: int = 0
    """Queries that ran for what was cut."""
    longest: float = 0.0
    committed: set[str] = attrs.field(factory=set)
    forbidden: set[str] = attrs.field(factory=set)


@attrs.define(eq=False)
class Client:
    """One client of an edge, which checks every reply."""

    edge: Edge
    name: str
    tally: Tally
    chance: random.Random
    peer: Peer | None = None
    number: int = 0

    async def run(self, over: trio.Event) -> None:
        while not over.is_set():
            try:
                await self.request()
            except Ended:
                self.tally.reconnects += 1
                self.drop()
        self.drop()

    def drop(self) -> None:
        if self.peer is not None:
            self.peer.close()
            self.peer = None

    async def request(self) -> None:
        """One of the things that clients do."""
        if self.peer is None:
            await self.connect()
        self.number += 1
        kind = self.chance.choices(
            [self.ask, self.ask_prepared, self.transact, self.linger, self.cancel], [16, 12, 8, 1, 2]
        )[0]
        await kind(f"{self.name} {self.number}")
        await trio.sleep(self.chance.random() * 0.01)

    async def connect(self) -> None:
        """An edge lets its clients in even while the origin is away, once it has seen it."""
        with trio.fail_after(LONGEST):
            self.peer = await Peer.log_in((self.edge.pooler.host, self.edge.pooler.port))

    async def exchange(self, data: bytes) -> tuple[list[str], str]:
        """Rows and SQLSTATE ("" if there was no error) of one request. Exactly one ReadyForQuery ends it."""
        assert self.peer is not None
        began = time.monotonic()
        with trio.fail_after(LONGEST):
            try:
                await self.peer.send(data)
            except trio.BrokenResourceError:
                raise Ended from None
            received = await self.peer.exchange()
        self.tally.longest = max(self.tally.longest, time.monotonic() - began)
        assert not self.peer.unread, "more than was asked for"
        errors = [messages.read_error(body) for tag, body in received if tag == Backend.ERROR_RESPONSE]
        for error in errors:
            if error.sqlstate != "25P02":
                assert error.sqlstate in CLEAR, error
                self.tally.errors[CLEAR[error.sqlstate]] += 1
        assert len(errors) <= 1, errors
        if not received or received[-1][0] != Backend.READY_FOR_QUERY:
            raise Ended
        rows = [messages.read_row(body)[0] or "" for tag, body in received if tag == Backend.DATA_ROW]
        if not errors:
            self.tally.answers += 1
        return rows, errors[0].sqlstate if errors else ""

    async def ask(self, word: str) -> None:
        rows, error = await self.exchange(messages.query(f"select '{word}'"))
        assert rows == [word] or (error and rows in ([], [word])), (word, rows, error)

    async def ask_prepared(self, word: str) -> None:
        parse = requests.parse("p", "select $1::text || ' prepared'") if self.number % 2 else b""
        data = messages.close_statement(b"p") + parse if parse else requests.parse("", "select $1::text")
        name = "p" if parse else ""
        data += requests.bind(name, word) + requests.execute() + requests.SYNC
        rows, error = await self.exchange(data)
        expected = f"{word} prepared" if parse else word
        assert rows == [expected] or (error and rows in ([], [expected])), (word, rows, error)

    async def transact(self, word: str) -> None:
        """Committed if, and only if, the COMMIT was answered so; unknown if it was lost."""
        _, error = await self.exchange(messages.query("begin"))
        for sql in (
            f"insert into chaos values ('{word}')",
            f"select count(*) from chaos where id = '{word}'",
        ):
            rows, failed = await self.exchange(messages.query(sql))
            error = error or failed
            assert failed or rows in ([], ["1"])
        if error:
            self.tally.forbidden.add(word)
            _, refused = await self.exchange(messages.query("rollback"))
            assert refused in ("", "08006", "08001"), refused
            return
        _, failed = await self.exchange(messages.query("commit"))
        if not failed:
            self.tally.committed.add(word)

    async def linger(self, word: str) -> None:
        """Long enough to be cut off."""
        rows, error = await self.exchange(
            messages.query(f"select '{word}', pg_sleep(2.5) /* {self.edge.name} */")
        )
        assert rows == [word] or (error and not rows), (word, rows, error)

    async def cancel(self, word: str) -> None:
        """Nobody else's query may get it."""
        assert self.peer is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cancel_later)
            rows, error = await self.exchange(messages.query(f"select '{word}', pg_sleep(0.1)"))
        assert rows == [word] or (error and not rows), (word, rows, error)

    async def cancel_later(self) -> None:
        assert self.peer is not None
        await trio.sleep(self.chance.random() * 0.05)
        await self.peer.request_cancel()


@attrs.define(eq=False)
class Vandal:
    """Breaks the networks, and looks for what survives at the database."""

    edges: list[Edge]
    eye: Peer
    tally: Tally
    chance: random.Random

    async def run(self, seconds: float) -> None:
        until = trio.current_time() + seconds
        while trio.current_time() < until:
            await trio.sleep(self.chance.uniform(0.1, 0.4))
            edge = self.chance.choice(self.edges)
            match self.chance.randrange(4):
                case 0:
                    await self.cut_all(edge)
                case 1:
                    self.tally.cuts += edge.network.cut(self.chance.randint(1, 3))
                case 2:
                    self.tally.stalls += 1
                    edge.network.stall()
                    await trio.sleep(self.chance.uniform(0.1, 1.0))
                    edge.network.restore()
                case _:
                    self.tally.refusals += 1
                    edge.network.refusing = True
                    self.tally.cuts += edge.network.cut()
                    await trio.sleep(self.chance.uniform(0.1, 0.7))
                    edge.network.restore()

    async def cut_all(self, edge: Edge) -> None:
        """What ran for the edge has ended a second later."""
        running = await self.running(edge)
        self.tally.cut_off += len(running)
        self.tally.cuts += edge.network.cut()
        await trio.sleep(1)
        self.tally.orphans += running & await self.running(edge)

    async def running(self, edge: Edge) -> set[str]:
        return set(
            await self.eye.rows(
                "select pid || ' ' || query_start from pg_stat_activity"
                f" where state = 'active' and query like '%/* {edge.name} */' and pid <> pg_backend_pid()"
            )
        )


@pytest.fixture(scope="module")
def origin(postgres: LocalPostgres, certificates: Certificates) -> Iterator[Pooler]:
    extra = {
        "users": {EDGE: {"password": EDGE_PASSWORD, "max_leases": SERVERS - 2}},
        "listen": {"tls": {"mode": "require", "client_ca": str(certificates.ca)}},
        "timeouts": {"lease_wait": "5s"},
    }
    with Pooler(postgres, pool_size=SERVERS, certificates=certificates, extra=extra) as running:
        yield running


def edge_in_front_of(pg: LocalPostgres, certificates: Certificates, port: int) -> Pooler:
    url = f"trio-pool://{EDGE}@localhost:{port}/{DATABASE}?{mutual(certificates)}"
    database = {"origin": url, "password": EDGE_PASSWORD, "password_env": None, "pool_size": 12}
    extra = {"databases": {DATABASE: database}, "timeouts": {"lease_wait": "5s", "server_connect": "3s"}}
    return Pooler(pg, tls=False, auth="trust", extra=extra)


@pytest.mark.timeout(SECONDS + 90)
async def test_links_may_fail_in_every_way(
    postgres: LocalPostgres, certificates: Certificates, origin: Pooler
) -> None:
    """Every request has one answer or one clear error, and nothing of what was cut off goes on."""
    make_table(postgres)
    tally = Tally()
    chance = random.Random(SEED)
    with trio.fail_after(SECONDS + 60):
        async with network(origin.port) as first, network(origin.port) as second, watcher(postgres) as eye:
            with (
                edge_in_front_of(postgres, certificates, first.port) as ann,
                edge_in_front_of(postgres, certificates, second.port) as ben,
            ):
                edges = [Edge("ann", ann, first), Edge("ben", ben, second)]
                await vandalized(edges, eye, tally, chance)
    await check(postgres, tally)


def make_table(pg: LocalPostgres) -> None:
    """For what is committed."""
    pg.run_sql(
        "drop table if exists chaos; create table chaos (id text); alter table chaos owner to app",
        database=DATABASE,
    )


async def check(pg: LocalPostgres, tally: Tally) -> None:
    """What must be true when it is over."""
    print(tally.answers, "answers", dict(tally.errors), "longest", round(tally.longest, 2))
    print(
        tally.cuts, "cuts", tally.stalls, "stalls", tally.refusals, "refusals", tally.reconnects, "reconnects"
    )
    print(tally.cut_off, "running when they were cut off;", len(tally.committed), "committed")
    assert tally.orphans == []
    assert tally.cut_off or not LONG
    assert tally.answers > 100
    async with await Peer.connect(f"{pg.socket_dir}/.s.PGSQL.{pg.port}") as peer:
        await peer.start({"user": pg.superuser, "database": DATABASE})
        ids = await peer.rows("select id from chaos")
    assert len(ids) == len(set(ids))
    assert tally.committed <= set(ids)
    assert not tally.forbidden & set(ids)


async def vandalized(
    edges: list[Edge], eye: Peer, tally: Tally, chance: random.Random, seconds: float = SECONDS
) -> None:
    over = trio.Event()
    clients = [
        Client(edge, f"{edge.name}{number}", tally, random.Random(chance.random()))
        for edge in edges
        for number in range(CLIENTS)
    ]
    async with trio.open_nursery() as nursery:
        for client in clients:
            nursery.start_soon(client.run, over)
        await Vandal(edges, eye, tally, chance).run(seconds)
        before = tally.answers
        while tally.answers < before + 3 * len(clients):  # noqa: ASYNC110
            await trio.sleep(0.01)
        over.set()
    tally.errors["after the end"] = 0
    survivors = [Client(edge, f"{edge.name} later", tally, chance) for edge in edges]
    counted = tally.errors.total()
    for client in survivors:
        await client.connect()
        await client.ask("well")
        client.drop()
    assert tally.errors.total() == counted
