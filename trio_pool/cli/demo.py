"""`trio-pool demo`: a PostgreSQL, the pooler in front of it, and a load that shows it at work.

Everything lives in one nursery, so whatever ends the demo (its time, Ctrl-C, an error) ends all of it:
clients, pooler, pgbench, PostgreSQL, its temporary directory.
"""

from __future__ import annotations

import errno
import math
import shutil
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import click
import trio
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from trio_pool.cli import demo_edge
from trio_pool.cli.load import Load, LoadError, Pgbench
from trio_pool.cli.postgres import Auth, LocalPostgres, PostgresNotFound, PostgresStartError
from trio_pool.cli.serve import leaves
from trio_pool.config.model import Config
from trio_pool.daemon.logs import configure_logs
from trio_pool.daemon.service import Service, serve
from trio_pool.pooling.pool import PoolKey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

HOST = "127.0.0.1"
DATABASE = "postgres"
POOL_SIZE = 8
SCALE = 10
CLIENTS = 32
LOADS = (
    Load("select-only", 5, CLIENTS, ("-S",)),
    Load("TPC-B", 3, CLIENTS),
)


@attrs.define(eq=False)
class Screen:
    """What the demo says: with a moving bar on a terminal, else in plain lines."""

    console: Console = attrs.field(factory=lambda: Console(highlight=False, soft_wrap=True))

    def say(self, line: str = "") -> None:
        self.console.print(line, markup=False)

    async def show(self, pgbench: Pgbench, load: Load) -> None:
        """Run a load and show how it goes."""
        if not self.console.is_terminal:
            tps = await pgbench.run(
                load, lambda at, tps: self.say(f"{load.name}: {at:.0f} s, {tps:,.0f} tps")
            )
        else:
            tps = await self._show_bar(pgbench, load)
        self.say(f"{load.name}, {load.clients} clients: {tps:,.0f} transactions per second")

    async def _show_bar(self, pgbench: Pgbench, load: Load) -> float:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total} s"),
            TextColumn("{task.fields[tps]}"),
        )
        # No refresh thread: there is news once per second, and this process is what is being measured.
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as bars:
            bar = bars.add_task(load.name, total=load.seconds, tps="")

            def progress(at: float, tps: float) -> None:
                bars.update(bar, completed=at, tps=f"{tps:,.0f} tps", refresh=True)

            bars.refresh()
            return await pgbench.run(load, progress)


@asynccontextmanager
async def running_postgres(auth: Auth = "trust") -> AsyncIterator[LocalPostgres]:
    """A `LocalPostgres`, started and stopped in a worker thread because both block. Neither is cut short."""
    pg = LocalPostgres(auth=auth)
    await trio.to_thread.run_sync(pg.__enter__)
    try:
        yield pg
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(pg.__exit__, None, None, None)


def configuration(pg: LocalPostgres, port: int) -> Config:
    """Everybody on this machine may come in, as whoever they say they are: it is a demo."""
    return Config.from_dict(
        {
            "listen": {"addresses": [f"{HOST}:{port}"]},
            "auth": {"method": "trust"},
            "databases": {
                "*": {
                    "origin": f"postgresql://{pg.superuser}@{pg.host}:{pg.port}?sslmode=disable",
                    "pool_mode": "transaction",
                    "pool_size": POOL_SIZE,
                }
            },
            "admin": {"users": [pg.superuser]},
            "http": {"address": f"{HOST}:0"},
        }
    )


async def demonstrate(port: int, duration: float, screen: Screen) -> None:
    """The whole demo. Returns after `duration` seconds of serving, or on SIGINT or SIGTERM.

    Raises what starting PostgreSQL, the pooler and pgbench raise, in an exception group.
    """
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_signalled, signals, nursery.cancel_scope)
            screen.say("Starting PostgreSQL ...")
            async with running_postgres() as pg, trio.open_nursery() as serving:
                service: Service = await serving.start(serve, configuration(pg, port))
                await _show(service, pg, screen)
                await trio.sleep(duration)
                serving.cancel_scope.cancel()
            nursery.cancel_scope.cancel()
    screen.say("Stopped.")


async def demonstrate_edge(port: int, duration: float, screen: Screen) -> None:
    """The demo of an edge; as `demonstrate`."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_end_when_signalled, signals, nursery.cancel_scope)
            screen.say("Starting PostgreSQL, an origin beside it, and an edge ...")
            secret = demo_edge.new_secret()
            async with (
                running_postgres(auth="scram-sha-256") as pg,
                demo_edge.far_away(pg, port, secret) as (edge, ways),
            ):
                await demo_edge.warm(ways)
                await demo_edge.show(pg, ways, edge, secret, screen)
                await trio.sleep(duration)
            nursery.cancel_scope.cancel()
    screen.say("Stopped.")


async def _end_when_signalled(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()


async def _show(service: Service, pg: LocalPostgres, screen: Screen) -> None:
    """Load through the pooler, then what it took and where to connect."""
    address = service.addresses[0]
    screen.say(f"PostgreSQL {pg.version} is on {pg.host}:{pg.port}, trio-pool in front of it on {address}.")
    screen.say("Filling pgbench's tables ...")
    program = pg.bin("pgbench")
    await Pgbench(program, pg.host, pg.port).initialize(SCALE)
    pooled = Pgbench(program, HOST, int(address.rpartition(":")[2]))
    for load in LOADS:
        await screen.show(pooled, load)
    screen.say(_summary(service))
    screen.say()
    for line in _invitation(pg, address, service.http_address):
        screen.say(line)


def _summary(service: Service) -> str:
    """How few PostgreSQL connections it took."""
    pool = service.pools[PoolKey(DATABASE, LocalPostgres.superuser)].pool
    statistics = pool.statistics()
    return (
        f"{CLIENTS} clients were served by {pool.servers} PostgreSQL connections: "
        f"{statistics.leases:,} leases, each for one transaction."
    )


def _invitation(pg: LocalPostgres, address: str, page: str | None) -> Iterator[str]:
    yield f"Connect:  psql postgresql://{pg.superuser}@{address}/{DATABASE}"
    yield f"Console:  psql postgresql://{pg.superuser}@{address}/trio_pool -c 'SHOW POOLS'"
    yield f"Look:     {page}"
    if shutil.which("psql") is None:
        yield f"psql is:  {pg.bin('psql')}"
    yield "Ctrl-C stops everything."


@click.command("demo")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=6432,
    show_default=True,
    help="Where the pooler listens; 0 is any free port.",
)
@click.option(
    "--duration",
    type=click.FloatRange(0),
    metavar="SECONDS",
    help="End after serving for so long. Default: at Ctrl-C.",
)
@click.option("--edge", is_flag=True, help="Show an edge and an origin, with 80 ms between them.")
def command(port: int, duration: float | None, edge: bool) -> None:
    """Start a PostgreSQL with the pooler in front of it, show a short load, then serve until Ctrl-C.

    With --edge, show instead what an edge near the application saves when the database is far away.
    """
    show = demonstrate_edge if edge else demonstrate
    configure_logs(level="warning")
    problems: list[str] = []
    try:
        trio.run(show, port, math.inf if duration is None else duration, Screen())
    except* (PostgresNotFound, LookupError) as errors:
        for error in leaves(errors):
            problems.append(f"{error}")
            problems.append(
                "The demo needs PostgreSQL's programs: install trio-pool[embedded], or name the directory "
                "that holds them in PG_BIN."
            )
    except* (PostgresStartError, LoadError) as errors:
        problems += [str(error) for error in leaves(errors)]
    except* OSError as errors:
        for error in leaves(errors):
            assert isinstance(error, OSError)
            taken = error.errno == errno.EADDRINUSE
            problems.append(
                f"{HOST}:{port} is in use by another program; `--port 0` takes a free port"
                if taken
                else f"{error}"
            )
    for problem in problems:
        click.echo(f"trio-pool: {problem}", err=True)
    sys.exit(1 if problems else 0)
