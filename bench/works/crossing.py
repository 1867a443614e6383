"""How many round trips a client waits for whose database is far away.

Counted in time: the milliseconds that something takes, divided by those of a round trip. A client connects
and asks once, asks again, and runs a transaction of three statements, over TLS and with SCRAM, one message at
a time like most drivers. It gets there in four ways:

- direct: everything crosses, TCP's handshake included;
- pgbouncer-there: PgBouncer stands near the database, so everything crosses as well;
- pgbouncer-here: it stands near the application, and has its connections to the database open;
- trio-pool: an edge near the application, an origin near the database, links between them.

PostgreSQL is one of its own, for it must speak TLS.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import attrs

from trio_pool.cli.installations import available_installations
from trio_pool.cli.postgres import LocalPostgres, ServerCertificate

from .. import figures, poolers
from ..link import link
from ..login import HOST, Login
from ..problems import LeftOut
from ..results import Figure
from ..sample import Done, Sample, accounted
from ..session import Session, tls_context
from ..stage import DIRECT, PGBOUNCER, TRIO_POOL
from .connecting import door
from .work import Plan, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.protocol.credentials import ScramKeys

    from ..stage import Stage, Start

TRIPS = (
    Figure("connect_trips", "round trips to connect and ask once", "lower", ".2f"),
    Figure("warm_trips", "round trips of the next statement", "lower", ".2f"),
    Figure("transaction_trips", "round trips of a transaction of three", "lower", ".2f"),
)
MILLISECONDS = tuple(
    attrs.evolve(
        trip,
        key=trip.key.replace("trips", "milliseconds"),
        title=trip.title.replace("round trips", "milliseconds", 1),
        spec=",.1f",
    )
    for trip in TRIPS
)
DISTANCES = (5, 20, 80, 200)
THERE, HERE = f"{PGBOUNCER}-there", f"{PGBOUNCER}-here"
T = TypeVar("T")
QUERY = "SELECT 1"
READY = 4
"""Connections that are opened ahead."""

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@attrs.define(eq=False)
class Client:
    """Does what is measured; `taken` are milliseconds of each thing that it did."""

    login: Login
    context: ssl.SSLContext | None
    keys: ScramKeys | None = attrs.field(default=None, repr=False)
    taken: list[list[float]] = attrs.field(factory=lambda: [[], [], []])

    def act(self) -> None:
        """Everything once."""
        client = self._timed(0, self._connect)
        try:
            self._timed(1, lambda: _ask(client, QUERY))
            self._timed(2, lambda: _ask(client, "BEGIN", QUERY, QUERY, QUERY, "COMMIT"))
        finally:
            client.close()

    def _connect(self) -> Session:
        client = Session.connect(self.login, self.context, keys=self.keys)
        self.keys = client.keys
        _ask(client, QUERY)
        return client

    def _timed(self, number: int, does: Callable[[], T]) -> T:
        begin = time.perf_counter()
        done = does()
        self.taken[number].append((time.perf_counter() - begin) * 1e3)
        return done


def _ask(client: Session, *texts: str) -> None:
    for text in texts:
        client.query(text)
        client.until(b"Z")


@contextlib.contextmanager
def over(distance: float, version: str, stage: Stage) -> Iterator[Plan]:
    """A plan for this round trip, in milliseconds, and version of TLS."""
    with (
        tempfile.TemporaryDirectory(prefix="trio-pool-bench-") as name,
        _database(Path(name)) as (
            database,
            entry,
        ),
    ):

        def load(target: poolers.Target, seconds: float) -> Done:
            client = Client(target.login, _context(target.login, version))
            begin, used = time.monotonic(), time.process_time()
            while not client.taken[0] or time.monotonic() < begin + seconds:
                client.act()
            lasted = time.monotonic() - begin
            found = [figures.percentile(sorted(taken), 0.5) for taken in client.taken]
            measured = {figure.key: one for figure, one in zip(MILLISECONDS, found, strict=True)}
            measured |= {figure.key: one / distance for figure, one in zip(TRIPS, found, strict=True)}
            busy = (time.process_time() - used) / lasted
            return Done(len(client.taken[0]), measured, figures.latencies(client.taken[0]), busy)

        def measure(target: poolers.Target, seconds: int) -> Sample:
            return accounted(target, functools.partial(load, target, seconds))

        title = f"the database {distance:g} ms away (round trip), TLS {version}, SCRAM, one client"
        targets = _targets(stage, database, entry, distance)
        yield Plan(title, targets, measure, lambda target: load(target, 1.0))


@contextlib.contextmanager
def _database(directory: Path) -> Iterator[tuple[Login, poolers.Door]]:
    """A PostgreSQL with TLS and SCRAM, and what poolers let their clients in with."""
    found = next((one for one in available_installations() if one.has_tls), None)
    if found is None:
        raise LeftOut("needs a PostgreSQL that was built with TLS")
    entry = door(directory)
    tls = ServerCertificate(entry.certificate, entry.key)
    with LocalPostgres(bin_dir=found.bin_dir, tls=tls, auth="scram-sha-256") as pg:
        # The same keys everywhere: with a SCRAM secret PgBouncer logs in by those that its client has shown.
        pg.run_sql(f"alter role {pg.superuser} password '{entry.secret}'")
        yield Login(pg.host, pg.port, password=entry.password, sslmode="require"), entry


def _targets(stage: Stage, database: Login, entry: poolers.Door, distance: float) -> dict[str, Start]:
    settings = poolers.Settings(stage.pool(), door=entry, toml=f"min_pool_size = {READY}\n")
    bouncer = attrs.evolve(settings, ini=f"min_pool_size = {READY}\n")
    targets: dict[str, Start] = {}
    if DIRECT not in stage.options.without:
        targets[DIRECT] = lambda: _far(poolers.direct(database), distance)
    program = stage.pgbouncer
    if program is not None and PGBOUNCER not in stage.options.without:
        targets[THERE] = lambda: _far(poolers.pgbouncer(program, THERE, database, bouncer), distance)
        targets[HERE] = lambda: _here(
            functools.partial(poolers.pgbouncer, program, HERE), database, bouncer, distance
        )
    if TRIO_POOL not in stage.options.without:
        targets[TRIO_POOL] = lambda: _edge(database, settings, distance)
    return targets


@contextlib.contextmanager
def _far(
    started: contextlib.AbstractContextManager[poolers.Target], distance: float
) -> Iterator[poolers.Target]:
    """A target that is far away from its clients."""
    with started as target, link(target.port, distance / 2, handshake=True) as between:
        login = attrs.evolve(target.login, host=HOST, port=between.port)
        yield attrs.evolve(target, login=login, link=between.pid)


@contextlib.contextmanager
def _here(
    start: Callable[[Login, poolers.Settings], contextlib.AbstractContextManager[poolers.Target]],
    database: Login,
    settings: poolers.Settings,
    distance: float,
) -> Iterator[poolers.Target]:
    """A pooler that is far away from its database."""
    with (
        link(database.port, distance / 2, database.host, handshake=True) as between,
        start(database, attrs.evolve(settings, link=between)) as target,
    ):
        yield target


@contextlib.contextmanager
def _edge(database: Login, settings: poolers.Settings, distance: float) -> Iterator[poolers.Target]:
    """An edge that is far away from its origin."""
    start = functools.partial(poolers.trio_pool, TRIO_POOL)
    with (
        poolers.trio_pool("origin", database, settings) as origin,
        _here(start, origin.login, attrs.evolve(settings, scheme="trio-pool"), distance) as target,
    ):
        yield target


def _context(login: Login, version: str) -> ssl.SSLContext | None:
    context = tls_context(login)
    if context is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    return context


def _work(distance: int, version: str) -> Work:
    other = "" if version == "1.3" else "-tls" + version.replace(".", "")
    return Work(
        f"crossing-{distance}{other}",
        f"round trips with the database {distance} ms away, TLS {version}",
        functools.partial(over, distance, version),
        figures=(*TRIPS, *MILLISECONDS),
        unit="client",
        against=(HERE, DIRECT, THERE),
    )


WORKS = (*(_work(distance, "1.3") for distance in DISTANCES), _work(80, "1.2"))
