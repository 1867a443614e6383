"""The way of a client to PostgreSQL over an edge and an origin, and what is seen on it.

    client -- observer -- edge -- link -- origin -- PostgreSQL

Both poolers are processes of their own; observer and link are threads of this one (bench/link_path.py).
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import attrs
import pg8000.native

from bench.link_path import TLS, Observer, Turn, counting, observing
from tests.support.pooler import Pooler
from tests.support.target import DATABASE, PASSWORD, USER, Target

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from bench.link_crossings import Crossings
    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

LINKS = 2
"""Connections of the edge to the origin, all of them opened ahead."""
ROUND_TRIP = 0.004
REST_SECONDS = 0.05
"""Nothing may be under way for so long; many times a round trip."""
WARM_SECONDS = 30.0


@attrs.define(eq=False)
class Path:
    """`port` is where clients connect to, `edge` the pooler that they reach."""

    pg: LocalPostgres
    edge: Pooler
    origin: Pooler
    port: int
    observer: Observer
    link: Crossings
    certificates: Certificates | None

    @property
    def target(self) -> Target:
        """Without TLS, so that the turns show what is sent."""
        return Target("edge", "127.0.0.1", self.port, self.pg, None)

    @property
    def tls(self) -> Target:
        return attrs.evolve(self.target, certificates=self.certificates)

    def rest(self) -> None:
        """Return when nothing is under way any more, and forget what was seen."""
        before = -1
        deadline = time.monotonic() + WARM_SECONDS
        while (now := self.link.pieces) != before:
            assert time.monotonic() < deadline, "the link does not come to rest"
            before = now
            time.sleep(REST_SECONDS)
        self.observer.turns.clear()

    @contextlib.contextmanager
    def seen(self) -> Iterator[list[str]]:
        """The turns of a client within the block, once it has ended: what it sent, and the crossings until it
        had its answer. Goodbyes have none and are left out.
        """
        before = len(self.observer.turns)
        found: list[str] = []
        yield found
        found += [spelled(turn) for turn in self.observer.turns[before:] if turn.sent not in ("X", "")]


def spelled(turn: Turn) -> str:
    """Such as `PDS 1`: Parse, Describe and Sync took one crossing."""
    what = "connect" if turn.connecting and turn.sent != TLS else turn.sent
    return f"{what} {turn.crossings}"


@contextlib.contextmanager
def opened(
    pg: LocalPostgres, certificates: Certificates | None, edge_database: Mapping[str, object] | None = None
) -> Iterator[Path]:
    """A path whose links are there and have been used."""
    warm = {"databases": {DATABASE: {"min_pool_size": LINKS}}}
    tls = certificates is not None
    with (
        Pooler(pg, pool_size=LINKS, tls=tls, certificates=certificates, auth="trust", extra=warm) as origin,
        counting(origin.port, ROUND_TRIP) as (link_port, link),
    ):
        mode = f"verify-full&sslrootcert={certificates.ca}" if certificates is not None else "disable"
        url = f"trio-pool://{USER}@127.0.0.1:{link_port}/{DATABASE}?sslmode={mode}"
        database = {"origin": url, "min_pool_size": LINKS, **(edge_database or {})}
        with (
            Pooler(
                pg,
                pool_size=LINKS,
                tls=tls,
                certificates=certificates,
                extra={"databases": {DATABASE: database}},
            ) as edge,
            observing(edge.port, link) as (port, observer),
        ):
            path = Path(pg, edge, origin, port, observer, link, certificates)
            _warm_up(path)
            yield path


def _warm_up(path: Path) -> None:
    target = path.target
    with pg8000.native.Connection(
        USER, host=target.host, port=target.port, database=DATABASE, password=PASSWORD, ssl_context=False
    ) as connection:
        connection.run("select 1")
    deadline = time.monotonic() + WARM_SECONDS
    while sum(line.crossings > 0 for line in path.link.lines) < LINKS:
        assert time.monotonic() < deadline, "the edge has not opened its links"
        time.sleep(0.01)
    path.rest()
