"""The command `trio-pool`.

The only floor that exits, prints or draws. It holds no behaviour of its own: a command reads its arguments,
calls the daemon's floor and shows the outcome.

Every command is a module of this package with the command's name (`-` becomes `_`), holding one
`click.Command` called `command`. It is imported when it is used or listed by `--help`, so that
`trio-pool --version` stays quick. A new command is a new module and its name in `COMMANDS`.
"""

from __future__ import annotations

import importlib

import click

import trio_pool

COMMANDS: tuple[str, ...] = ("bench", "check", "demo", "import-pgbouncer", "serve", "top")


class Commands(click.Group):
    """The commands of `COMMANDS`, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"{__name__}.{cmd_name.replace('-', '_')}")
        command = module.command
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(trio_pool.__version__, prog_name="trio-pool")
def main() -> None:
    """A PostgreSQL connection pooler."""
