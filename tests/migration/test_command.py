"""`trio-pool import-pgbouncer`: what it prints where, and how it ends."""

from __future__ import annotations

import os
import tomllib
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from trio_pool.cli.import_pgbouncer import command
from trio_pool.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

INI = """\
[databases]
app = host=h user=pool
[pgbouncer]
listen_addr = 127.0.0.1
unix_socket_dir =
auth_file = users
server_round_robin = 1
"""
USERS = '"alice" "secret of alice"\n"pool" "secret of pool"\n'


def run(directory: Path, *options: str, ini: str = INI) -> Result:
    (directory / "pgbouncer.ini").write_text(ini)
    (directory / "users").write_text(USERS)
    return CliRunner().invoke(command, [str(directory / "pgbouncer.ini"), *options])


def test_the_configuration_is_printed_and_the_rest_told(tmp_path: Path) -> None:
    """TOML on standard output; what has no equivalent also on standard error. Files stand beside the INI."""
    result = run(tmp_path)
    assert result.exit_code == 0
    config = Config.from_dict(tomllib.loads(result.stdout))
    assert list(config.users) == ["alice", "pool"]
    assert result.stderr == "trio-pool: no equivalent, see the comments: server_round_robin\n"


def test_another_userlist(tmp_path: Path) -> None:
    """In place of the one that auth_file names, which need not be there."""
    (tmp_path / "others").write_text('"bob" "x"\n')
    ini = INI.replace("auth_file = users", "auth_file = /no/such/file")
    result = run(tmp_path, "--userlist", str(tmp_path / "others"), ini=ini)
    assert result.exit_code == 0, result.stderr
    assert list(tomllib.loads(result.stdout)["users"]) == ["bob"]


@pytest.mark.parametrize(
    ("ini", "message"),
    [
        ("nonsense", "pgbouncer.ini:1: is neither a section nor key = value;"),
        (
            INI.replace("= users", "= missing"),
            'pgbouncer.ini:6: auth_file: the file "missing" cannot be read: ',
        ),
        (INI.replace("= 1", "= one"), ""),
        (INI + "max_client_conn = one", "pgbouncer.ini:8: max_client_conn: is not a number;"),
    ],
)
def test_what_cannot_be_imported_ends_with_status_1(tmp_path: Path, ini: str, message: str) -> None:
    """And with file, line, key and remedy, and prints no half of a configuration."""
    result = run(tmp_path, ini=ini)
    if not message:  # a key without an equivalent is not looked at
        assert result.exit_code == 0
        return
    assert result.exit_code == 1
    assert result.stderr.startswith(f"{tmp_path}{os.sep}{message}")
    assert result.stdout == ""


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Says so instead of a traceback."""
    result = CliRunner().invoke(command, [str(tmp_path / "none.ini")])
    assert result.exit_code == 1
    assert "none.ini" in result.stderr
    assert "cannot be read: No such file or directory" in result.stderr


def test_secrets_in_the_environment(tmp_path: Path) -> None:
    """No password is printed; the names that stand for them are told, and lead to them."""
    result = run(tmp_path, "--secrets", "env")
    assert "secret of" not in result.output
    names = result.stderr.splitlines()[-1].removeprefix("trio-pool: put the passwords into: ").split(", ")
    assert names == [
        "TRIO_POOL_USERS_ALICE_PASSWORD",
        "TRIO_POOL_USERS_POOL_PASSWORD",
        "TRIO_POOL_DATABASES_APP_PASSWORD",
    ]
    config = Config.from_dict(tomllib.loads(result.stdout), environ=dict.fromkeys(names, "x"))
    assert [user.password is not None for user in config.users.values()] == [True, True]


def test_secrets_in_files(tmp_path: Path) -> None:
    """The same with files beside the configuration."""
    result = run(tmp_path, "--secrets", "file")
    assert "secret of" not in result.output
    assert tomllib.loads(result.stdout)["users"]["alice"] == {"password_file": "secrets/users_alice"}
