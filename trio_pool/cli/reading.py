"""Reading the configuration for a command: all problems at once, exit status 1."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from trio_pool.config.problems import ConfigurationError
from trio_pool.config.reader import read

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.config.model import Config


def read_or_exit(path: Path) -> Config:
    """The configuration, or the end of the program with every problem printed."""
    try:
        return read(path)
    except OSError as error:
        click.echo(f"trio-pool: cannot read {path}: {error.strerror}", err=True)
    except ConfigurationError as error:
        click.echo(str(error), err=True)
    sys.exit(1)
