"""`trio-pool demo --edge`: the same three things done with the database far away, directly and over an edge.

    client ------------------ 80 ms ------------------ PostgreSQL
    client -- edge ---------- 80 ms -- origin -------- PostgreSQL

Both ways lead through a link that delays what passes and counts how often it goes there and back; it is the
measuring harness's (`bench/link_path.py`). PostgreSQL asks for a password (SCRAM), and so does the edge. Only
the origin knows PostgreSQL's.
"""

from __future__ import annotations

import importlib
import secrets
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import trio

from trio_pool.cli.bench import harness
from trio_pool.config.model import Config
from trio_pool.daemon.service import Service, serve

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from trio_pool.cli.demo import Screen
    from trio_pool.cli.postgres import LocalPostgres

HOST = "127.0.0.1"
DATABASE = "postgres"
ROUND_TRIP = 0.08
LINKS = 4
QUERY = "SELECT 1"
TRANSACTION = ("BEGIN", QUERY, QUERY, QUERY, "COMMIT")
ROUNDS = 3
BAR = 48
"""Columns of the longest bar."""
REASONS = (
    "The edge lets clients in by itself and has its links to the origin open; BEGIN it answers at once, and",
    "sends it along with the first statement. With TLS a direct connection would take two or three round",
    "trips more, and the edge none.",
)


@attrs.frozen
class Way:
    """A way to the database: what a client logs in to, and what is counted on it.

    `opening` is what the count does not see: TCP's own handshake, where a connection crosses the link.
    """

    name: str
    login: Any
    link: Any
    opening: int


@attrs.define
class Taken:
    """What one thing took on one way: milliseconds, the shortest of all rounds, and round trips."""

    milliseconds: float
    trips: int


def origin_configuration(pg: LocalPostgres, secret: str) -> Config:
    """Near the database: the only one who knows its password. The edge logs in with the `secret`."""
    return _configuration(
        f"{HOST}:0",
        f"postgresql://{pg.superuser}@{pg.host}:{pg.port}?sslmode=disable",
        str(pg.password),
        secret,
    )


def edge_configuration(port: int, link_port: int, secret: str) -> Config:
    """Near the application. Clients and the link have the same secret: it is a demo."""
    origin = f"trio-pool://postgres@{HOST}:{link_port}?sslmode=disable"
    return _configuration(f"{HOST}:{port}", origin, secret, secret)


def _configuration(address: str, origin: str, password: str, secret: str) -> Config:
    return Config.from_dict(
        {
            "listen": {"addresses": [address]},
            "auth": {"method": "scram-sha-256"},
            "users": {"postgres": {"password": secret}},
            "databases": {
                DATABASE: {
                    "origin": origin,
                    "password": password,
                    "pool_size": 2 * LINKS,
                    "min_pool_size": LINKS,
                }
            },
            "http": {"address": f"{HOST}:0"},
        }
    )


@asynccontextmanager
async def far_away(pg: LocalPostgres, port: int, secret: str) -> AsyncIterator[tuple[Service, list[Way]]]:
    """An origin, and an edge in front of it behind a link; the edge, and the two ways to PostgreSQL."""
    path = importlib.import_module(f"{harness()}.link_path")
    login = importlib.import_module(f"{harness()}.login")
    async with _serving(origin_configuration(pg, secret)) as origin:
        with (
            path.counting(_port(origin), ROUND_TRIP, handshake=True) as (far_port, links),
            path.counting(pg.port, ROUND_TRIP, handshake=True) as (direct_port, direct),
        ):
            async with _serving(edge_configuration(port, far_port, secret)) as edge:
                to_postgres = login.Login(HOST, direct_port, password=pg.password)
                to_edge = login.Login(HOST, _port(edge), password=secret)
                yield edge, [Way("direct", to_postgres, direct, 1), Way("edge", to_edge, links, 0)]


@asynccontextmanager
async def _serving(config: Config) -> AsyncIterator[Service]:
    """Until the block has ended, however it does: who still asks in it is answered."""
    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[Service]) -> None:
        with scope:
            await serve(config, task_status=task_status)

    async with trio.open_nursery() as nursery:
        service: Service = await nursery.start(run)
        scope.shield = True
        try:
            yield service
        finally:
            scope.cancel()


def _port(service: Service) -> int:
    return int(service.addresses[0].rpartition(":")[2])


def try_out(way: Way) -> Iterator[tuple[str, Taken]]:
    """What a client does, one thing after the other. Blocks; raises what logging in raises."""
    session = importlib.import_module(f"{harness()}.session")

    def taken(does: Callable[[], None], opening: int = 0) -> Taken:
        way.link.begin()
        begin = time.perf_counter()
        does()
        return Taken((time.perf_counter() - begin) * 1e3, way.link.of_action + opening)

    client: Any = None

    def connect() -> None:
        nonlocal client
        client = session.Session.connect(way.login, None)
        ask(QUERY)

    def ask(*texts: str) -> None:
        for text in texts:
            client.query(text)
            client.until(b"Z")

    try:
        yield "connect and ask once", taken(connect, way.opening)
        yield "ask again", taken(lambda: ask(QUERY))
        yield "a transaction of three statements", taken(lambda: ask(*TRANSACTION))
    finally:
        if client is not None:
            client.close()


def tried_out(way: Way) -> list[tuple[str, Taken]]:
    """All of it."""
    return [*try_out(way)]


async def compare(ways: list[Way], screen: Screen) -> None:
    """Do everything on each way, show what it took as it is done, and what it comes to."""
    found: dict[str, dict[str, Taken]] = {}
    for number in range(ROUNDS):
        for way in ways:
            for what, taken in await trio.to_thread.run_sync(tried_out, way):
                best = found.setdefault(what, {}).setdefault(way.name, taken)
                best.milliseconds = min(best.milliseconds, taken.milliseconds)
                best.trips = min(best.trips, taken.trips)
        if number + 1 < ROUNDS:
            screen.say(f"  round {number + 1} of {ROUNDS} ...")
    screen.say()
    most = max(taken.milliseconds for done in found.values() for taken in done.values())
    for what, done in found.items():
        screen.say(what)
        for name, taken in done.items():
            screen.say(f"  {name:8}{_drawn(taken, most)}")
    screen.say()
    direct, edge = (sum(done[way.name].milliseconds for done in found.values()) for way in ways)
    screen.say(f"All of it: {direct:,.0f} ms directly, {edge:,.0f} ms over the edge.")


def _drawn(taken: Taken, most: float) -> str:
    bar = "#" * max(1, round(BAR * taken.milliseconds / most))
    trips = "1 round trip" if taken.trips == 1 else f"{taken.trips} round trips"
    return f"{bar} {taken.milliseconds:,.0f} ms, {trips}"


async def show(pg: LocalPostgres, ways: list[Way], edge: Service, secret: str, screen: Screen) -> None:
    """The comparison, why it is so, and how to get at it."""
    screen.say(f"PostgreSQL {pg.version} is far away: a round trip takes {ROUND_TRIP * 1e3:.0f} ms.")
    screen.say("  direct    client ------------ 80 ms ------------ PostgreSQL")
    screen.say("  edge      client - trio-pool - 80 ms - trio-pool - PostgreSQL")
    screen.say()
    await compare(ways, screen)
    screen.say()
    for line in REASONS:
        screen.say(line)
    screen.say()
    screen.say("It is still there, 80 ms away:")
    login = f"postgresql://postgres:{secret}@"
    screen.say(f"Edge:     psql {login}{edge.addresses[0]}/{DATABASE}")
    screen.say(f"Direct:   psql postgresql://postgres:{pg.password}@{HOST}:{ways[0].login.port}/{DATABASE}")
    screen.say(f"Look:     {edge.http_address}")
    screen.say("Ctrl-C stops everything.")


def new_secret() -> str:
    """A password for this demo."""
    return secrets.token_urlsafe(12)


async def warm(ways: list[Way]) -> None:
    """Return when the edge has its links, as it would have had for a long time."""
    links = ways[1].link
    await trio.to_thread.run_sync(tried_out, ways[1])
    while len(links.lines) < LINKS or any(not line.crossings for line in links.lines):  # noqa: ASYNC110
        await trio.sleep(0.02)
    await trio.sleep(3 * ROUND_TRIP)
