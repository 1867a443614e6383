"""The command line of the harness: `trio-pool bench`."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from trio_pool.cli.postgres import PostgresNotFound, PostgresStartError

from . import compare, harness, page, pgbench, pictures, processes, stage, tables, works
from .problems import LeftOut, TargetError
from .results import Results, WorkResult
from .screen import Screen

if TYPE_CHECKING:
    from collections.abc import Iterator

FILE = click.Path(path_type=Path, dir_okay=False)
EXISTING = click.Path(path_type=Path, dir_okay=False, exists=True)
DIRECTORY = click.Path(path_type=Path, file_okay=False)
POSITIVE = click.IntRange(1)

ROUNDS, SECONDS = 5, 5
QUICK_ROUNDS, QUICK_SECONDS = 3, 1
PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "extended", "prepared")

# Narrower tables than this would break their cells.
NARROWEST = 100


@click.command("bench")
@click.option("--quick", is_flag=True, help="A few works, few and short rounds: two minutes, no conclusions.")
@click.option("--only", metavar="WORK,...", help="These works; a name may end with *.")
@click.option("--list", "listed", is_flag=True, help="Name all works and end.")
@click.option("--rounds", type=POSITIVE, help=f"Default: {ROUNDS}, quick {QUICK_ROUNDS}.")
@click.option("--seconds", type=POSITIVE, help=f"Of each run. Default: {SECONDS}, quick {QUICK_SECONDS}.")
@click.option("--clients", type=POSITIVE, help="Instead of each work's own number.")
@click.option("--pool-size", type=POSITIVE, help="Instead of each work's own, for all poolers.")
@click.option("--scale", type=POSITIVE, default=10, show_default=True, help="pgbench's -s.")
@click.option("--script", type=EXISTING, help="Measure this pgbench script.")
@click.option(
    "--protocol", type=click.Choice(PROTOCOLS), default="simple", show_default=True, help="Of the script."
)
@click.option(
    "--dsn",
    envvar="TRIO_POOL_BENCH_DSN",
    metavar="DSN",
    help="Measure with this PostgreSQL, as postgresql://user:password@host:port/database, where nothing else "
    "should go on meanwhile. Default: a throw-away one.",
)
@click.option("--bin-dir", type=DIRECTORY, help="PostgreSQL's programs. Default: embedded, or found.")
@click.option("--pgbouncer", metavar="PROGRAM", help="Default: the one on PATH, if there is one.")
@click.option("--without", multiple=True, type=click.Choice(stage.TARGETS), help="Leave this target out.")
@click.option("--json", "json_file", type=FILE, help="Write everything here.")
@click.option("--pictures", "directory", type=DIRECTORY, help="Draw every work into this directory.")
@click.option("--page", "page_file", type=FILE, help="Write a page of the results, in Markdown.")
@click.option("--compare", "old_file", type=EXISTING, help="Show old ratios beside the new ones.")
@click.option("--from", "from_file", type=EXISTING, help="Measure nothing: show, draw, compare this JSON.")
def command(**given: Any) -> None:
    """Run the same works through PostgreSQL, trio-pool and PgBouncer, interleaved, and compare them.

    \b
    Exit status:
      0   everything was measured
      1   a target or a work failed, which its table says; or nothing could be measured
      2   wrong command line
    """
    if given["listed"]:
        for one in works.every():
            click.echo(f"{one.name:28}{one.does}")
        return
    console = Console(highlight=False)
    if console.width < NARROWEST:
        console = Console(highlight=False, width=NARROWEST)
    old = _read(given["old_file"])
    results = _read(given["from_file"])
    if results is not None:
        for work in results.works:
            tables.show(console, work)
    else:
        results = _measured(console, given)
    _write(results, given)
    if old is not None:
        table, missing = compare.table(old, results)
        console.print(table)
        for line in missing:
            console.print(line, markup=False)
    sys.exit(1 if results.failed else 0)


def _measured(console: Console, given: dict[str, Any]) -> Results:
    """Measure, showing each work and writing it down as soon as it is done."""
    quick = given["quick"]
    options = stage.Options(
        rounds=given["rounds"] or (QUICK_ROUNDS if quick else ROUNDS),
        seconds=given["seconds"] or (QUICK_SECONDS if quick else SECONDS),
        clients=given["clients"],
        pool_size=given["pool_size"],
        scale=given["scale"],
        quick=quick,
        without=given["without"],
        script=given["script"],
        protocol=given["protocol"],
    )

    def done(results: Results, result: WorkResult) -> None:
        tables.show(console, result)
        _write_json(results, given["json_file"])

    processes.raise_file_limit()
    bin_dir = str(given["bin_dir"]) if given["bin_dir"] else None
    screen = Screen()
    try:
        chosen = harness.chosen_works(options, (given["only"] or "").split(",") if given["only"] else ())
        pgbouncer = harness.named_pgbouncer(given["pgbouncer"])
        screen.say("Starting PostgreSQL, filling pgbench's tables ...")
        with _terminating(), harness.staged(options, given["dsn"], bin_dir, pgbouncer) as found:
            return harness.measure(found, chosen, screen, done)
    except LookupError as error:
        raise click.UsageError(str(error.args[0])) from None
    except ValueError as error:
        raise click.UsageError(f"--dsn: {error}") from None
    except (PostgresNotFound, PostgresStartError, FileNotFoundError, TargetError) as error:
        click.echo(f"trio-pool: {error}", err=True)
        sys.exit(1)


def _write(results: Results, given: dict[str, Any]) -> None:
    """Files that were asked for; without what draws, all but the pictures."""
    try:
        if given["directory"] is not None:
            for path in pictures.draw(results, given["directory"]):
                click.echo(f"wrote {path}", err=True)
        if given["page_file"] is not None:
            for path in page.write(results, given["page_file"]):
                click.echo(f"wrote {path}", err=True)
    except LeftOut as reason:
        click.echo(f"trio-pool: {reason}", err=True)
        sys.exit(1)
    if given["from_file"] is not None:
        _write_json(results, given["json_file"])


def _write_json(results: Results, file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(results.as_json(), indent=1) + "\n")


def _read(file: Path | None) -> Results | None:
    if file is None:
        return None
    try:
        return Results.from_json(json.loads(file.read_text()))
    except (ValueError, KeyError, TypeError) as error:
        raise click.UsageError(f"{file}: {error}") from None


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends the measurement as Ctrl-C does, so that nothing that it started is left behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
