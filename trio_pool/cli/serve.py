"""`trio-pool serve`: the daemon."""

from __future__ import annotations

import os
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
import trio

from trio_pool.cli.endings import EXIT_STATUS
from trio_pool.cli.reading import read_or_exit
from trio_pool.config.problems import ConfigurationError
from trio_pool.config.reader import read
from trio_pool.daemon.logs import configure_logs
from trio_pool.daemon.signals import serve_several_until_signalled, serve_until_signalled
from trio_pool.daemon.workers.failure import CannotServe
from trio_pool.net import inherited

if TYPE_CHECKING:
    from trio_pool.config.model import Config
    from trio_pool.daemon.signals import Ending


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
    configuration again; SIGUSR2 starts a new daemon that takes the addresses over, and drains this one.

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
        ending = trio.run(_serve, config, path, log_level)
    except* (OSError, CannotServe) as errors:
        for error in leaves(errors):
            click.echo(f"trio-pool: cannot serve: {error}", err=True)
        sys.exit(1)
    except* ConfigurationError as errors:
        for error in leaves(errors):
            click.echo(f"trio-pool: cannot serve: {error}", err=True)
        sys.exit(1)
    sys.exit(EXIT_STATUS[ending])


async def _serve(config: Config, path: Path, log_level: str) -> Ending:
    inherited.take_from_systemd()
    count = config.listen.count_workers(_cores())
    if count == 1:
        return await serve_until_signalled(config, path, partial(read, path))
    from trio_pool.daemon.workers.fleet import Fleet  # only where it is wanted

    return await serve_several_until_signalled(Fleet(config, count, path, partial(read, path), log_level))


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
