"""Fifty clients of all kinds on two servers: each gets what it would get from a server of its own."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from tests.support import requests
from tests.support.ahead import sharing
from tests.support.requests import Reply, read_replies
from tests.support.serving import direct
from tests.support.talk import extended
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from tests.net.peer import Peer
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

CLIENTS = 50
ROUNDS = 30
MOST_ROUNDS = 200
"""Where the machine is so slow that few statements count as fast."""
SYNC = requests.SYNC


async def answer(peer: Peer, data: bytes, groups: int) -> list[Reply]:
    await peer.send(data)
    received = b""
    for _ in range(groups):
        exchanged = await peer.exchange()
        assert exchanged
        assert exchanged[-1][0] == Backend.READY_FOR_QUERY, exchanged
        received += b"".join(messages.message(*message) for message in exchanged)
    return read_replies(received)


def some_request(chance: random.Random, number: int) -> tuple[bytes, int]:
    """Something that tells whose it is, and how many ReadyForQuery answer it."""
    n = number * 100_000 + chance.randrange(100_000)
    kind = chance.randrange(100)
    if kind < 40:
        return requests.query(f"select {n}"), 1
    if kind < 50:
        return extended("select $1::text || $2::text", str(n), "x") + SYNC, 1
    if kind < 60:
        return requests.bind("s", str(n)) + requests.describe_portal() + requests.execute() + SYNC, 1
    if kind < 68:
        return requests.query(f"select {n} + g from generate_series(1, {chance.randrange(50)}) as g"), 1
    if kind < 72:
        return requests.query(f"select {n} / 0"), 1
    if kind < 74:
        return requests.query(f"select {n} from no_such_table"), 1
    if kind < 77:
        return requests.bind("s", None) + requests.execute() + SYNC, 1
    if kind < 80:
        return requests.query(f"select repeat('y', {200_000 + n % 1000})"), 1
    if kind < 84:
        return requests.query(f"select {n} where false"), 1
    if kind < 88:
        name = chance.choice(
            ["TimeZone = 'UTC'", "TimeZone = 'Asia/Tokyo'", f"application_name = 'a{number % 3}'"]
        )
        return requests.query(f"set {name}"), 1
    if kind < 92:
        both = requests.query("show timezone") + requests.query(f"select {n}, timestamptz '2020-01-01 0:00Z'")
        return both, 2
    if kind < 97:
        parts = ["begin", f"select {n}", f"select {n} + 1", chance.choice(["commit", "rollback"])]
        return b"".join(map(requests.query, parts)), 4
    return requests.query(f"select {n}") + extended("select $1::text", str(n)) + SYNC, 2


async def test_cross_talk(postgres: LocalPostgres) -> None:
    """Thousands of statements, each answer compared with PostgreSQL's own for the same client."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    async with sharing(
        postgres,
        pool_size=2,
        limit=90,
        session={"server_prepared_statements": 2},
        timeouts={"lease_wait": "60s"},
    ) as shared:

        def enough_were_queued() -> bool:
            return shared.ahead.statistics.queued > 20

        async def talk(number: int) -> None:
            chance = random.Random(seed + number)
            async with await shared.running.log_in() as peer, direct(postgres) as own:
                prepare = requests.parse("s", f"select $1::text, {number % 5}") + SYNC
                assert await answer(peer, prepare, 1) == await answer(own, prepare, 1)
                rounds = 0
                while rounds < ROUNDS or (not enough_were_queued() and rounds < MOST_ROUNDS):
                    rounds += 1
                    data, groups = some_request(chance, number)
                    expected = await answer(own, data, groups)
                    assert await answer(peer, data, groups) == expected, data

        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(talk, number)
        print(shared.ahead.statistics)
        assert enough_were_queued()
