"""`trio-pool check`: can every origin be reached and logged in to?"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import trio

from trio_pool.cli.reading import read_or_exit
from trio_pool.daemon.check import check


@click.command("check")
@click.option("--config", "path", required=True, type=click.Path(path_type=Path), help="TOML file.")
def command(path: Path) -> None:
    """Connect and log in to every origin of the configuration; exit status 1 if any fails."""
    config = read_or_exit(path)
    all_ok = trio.run(check, config, click.echo)
    sys.exit(0 if all_ok else 1)
