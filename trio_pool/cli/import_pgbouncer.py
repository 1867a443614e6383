"""`trio-pool import-pgbouncer`: PgBouncer's configuration as ours."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from trio_pool.migration import CannotImport, Directory, spell, translate
from trio_pool.migration.problems import Place
from trio_pool.migration.secrets import Secrets, move_secrets


@click.command("import-pgbouncer")
@click.argument("pgbouncer_ini", type=click.Path(path_type=Path))
@click.option(
    "--userlist", metavar="FILE", help="Users and passwords, in place of the file that auth_file names."
)
@click.option(
    "--secrets",
    type=click.Choice([where.value for where in Secrets]),
    default=Secrets.KEEP.value,
    show_default=True,
    help="Print passwords as they are, or names of environment variables or files in their place.",
)
def command(pgbouncer_ini: Path, userlist: str | None, secrets: str) -> None:
    """Print the configuration that is equivalent to PgBouncer's.

    What has no equivalent becomes a comment with the reason, and is named on standard error. Exit status 1 if
    the files cannot be read or PgBouncer would refuse them.
    """
    files = Directory(pgbouncer_ini.absolute().parent)
    where = str(pgbouncer_ini)
    try:
        translation = translate(files.read(where, Place(where), ""), where, files, userlist)
    except CannotImport as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    names = move_secrets(translation.document, Secrets(secrets))
    click.echo(spell(translation.document), nl=False)
    for text in translation.attention:
        click.echo(f"trio-pool: {text}", err=True)
    if translation.untranslated:
        click.echo(
            f"trio-pool: no equivalent, see the comments: {', '.join(translation.untranslated)}", err=True
        )
    if names:
        click.echo(f"trio-pool: put the passwords into: {', '.join(names)}", err=True)
