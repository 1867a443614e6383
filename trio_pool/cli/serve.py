"""`trio-pool serve`: the daemon."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import trio

from trio_pool.cli.reading import read_or_exit
from trio_pool.daemon.logs import configure_logs
from trio_pool.daemon.signals import serve_until_signalled


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions of a group of groups."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


@click.command("serve")
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="TOML file.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level that is logged.",
)
def command(path: Path, log_level: str) -> None:
    """Run the daemon until SIGTERM, which drains; a second one stops at once (exit status 1)."""
    config = read_or_exit(path)
    configure_logs(level=log_level)
    try:
        in_order = trio.run(serve_until_signalled, config)
    except* OSError as errors:
        for error in leaves(errors):
            click.echo(f"trio-pool: cannot serve: {error}", err=True)
        sys.exit(1)
    sys.exit(0 if in_order else 1)
