"""`trio-pool serve`: the daemon."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import click
import trio

from trio_pool.cli.reading import read_or_exit
from trio_pool.config.problems import ConfigurationError
from trio_pool.config.reader import read
from trio_pool.daemon.logs import configure_logs
from trio_pool.daemon.signals import Ending, serve_until_signalled

EXIT_STATUS = {Ending.IN_ORDER: 0, Ending.AT_ONCE: 1, Ending.GAVE_UP: 10}
"""Not 2, with which click says that the command line is wrong, nor a number that has a name in systemd."""


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
    """Run the daemon until SIGTERM or SIGINT, which drains; a second one stops at once. SIGHUP reads the
    configuration again.

    \b
    Exit status:
      0   every client had left between its transactions
      10  clients that had not when `drain` was over were given up; the log names them
      1   stopped at once by a second signal, or cannot serve
      2   wrong command line
    """
    config = read_or_exit(path)
    configure_logs(level=log_level)
    try:
        ending = trio.run(serve_until_signalled, config, path, partial(read, path))
    except* OSError as errors:
        for error in leaves(errors):
            click.echo(f"trio-pool: cannot serve: {error}", err=True)
        sys.exit(1)
    except* ConfigurationError as errors:
        for error in leaves(errors):
            click.echo(f"trio-pool: cannot serve: {error}", err=True)
        sys.exit(1)
    sys.exit(EXIT_STATUS[ending])
