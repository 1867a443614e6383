"""`trio-pool check`: one line per origin, with distinct causes, and the exit status."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from click.testing import CliRunner

from tests.support.pooler import Pooler, to_toml
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.cli.check import command
from trio_pool.cli.installations import available_installations
from trio_pool.cli.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from click.testing import Result

    from tests.support.certificates import Certificates

MILLISECONDS = r"\d+\.\d ms"


def check(directory: Path, databases: Mapping[str, Any], **rest: Any) -> Result:
    """Run the command with a configuration of these databases."""
    path = directory / "trio-pool.toml"
    path.write_text(to_toml({"databases": databases, "timeouts": {"server_connect": "5s"}, **rest}))
    return CliRunner().invoke(command, ["--config", str(path)])


def origin(
    pg: LocalPostgres,
    *,
    user: str = USER,
    dbname: str = DATABASE,
    host: str = "",
    query: str = "?sslmode=prefer",
) -> str:
    login = f"{user}@" if user else ""
    return f"postgresql://{login}{host or pg.host}:{pg.port}/{dbname}{query}"


def one_line(done: Result) -> str:
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.output
    return lines[0]


def version(pg: LocalPostgres) -> str:
    return pg.run_sql("show server_version").split()[0]


@contextlib.contextmanager
def stranger(greeting: bytes) -> Iterator[int]:
    """The port of a server that is not PostgreSQL: it says `greeting` to everybody, or (empty) nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    accepted.append(sock)
                    sock.sendall(greeting)

        server = threading.Thread(target=serve)
        server.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()
            for sock in accepted:
                sock.close()


def test_says_version_time_and_encryption(postgres: LocalPostgres, tmp_path: Path) -> None:
    """An origin that can be used is one line: ok, its version, the time it took, its TLS; exit status 0."""
    done = check(tmp_path, {"app": {"origin": origin(postgres), "password": PASSWORD}})
    tls = r"TLS 1\.3" if postgres.tls is not None else "no TLS"
    expected = rf"app: ok, PostgreSQL {re.escape(version(postgres))}, {MILLISECONDS}, {tls}"
    assert re.fullmatch(expected, one_line(done))
    assert done.exit_code == 0


def test_verifies_the_certificate(
    postgres: LocalPostgres, tmp_path: Path, certificates: Certificates
) -> None:
    """`verify-full` accepts the right authority and no other, and fails without TLS; the cause is "TLS"."""
    databases = {
        name: {
            "origin": origin(
                postgres, query=f"?sslmode=verify-full&sslrootcert={quote(str(authority), safe='')}"
            ),
            "password": PASSWORD,
        }
        for name, authority in (("right", certificates.ca), ("wrong", certificates.stranger_ca))
    }
    done = check(tmp_path, databases)
    right, wrong = done.stdout.splitlines()
    if postgres.tls is None:
        assert right == "right: TLS: the server does not support TLS"
        assert wrong == "wrong: TLS: the server does not support TLS"
    else:
        assert re.fullmatch(rf"right: ok, PostgreSQL [\d.]+, {MILLISECONDS}, TLS 1\.3", right)
        assert wrong == (
            "wrong: TLS: the server's certificate is not acceptable: unable to get local issuer certificate"
        )
    assert done.exit_code == 1


def test_tells_a_wrong_password(postgres: LocalPostgres, tmp_path: Path) -> None:
    """A wrong or missing password is a matter of credentials, with PostgreSQL's own words."""
    done = check(
        tmp_path,
        {
            "wrong": {"origin": origin(postgres), "password": "wrong"},
            "none": {"origin": origin(postgres)},
            "nobody": {"origin": origin(postgres, user="nobody"), "password": PASSWORD},
        },
    )
    assert done.stdout.splitlines() == [
        f'wrong: credentials: password authentication failed for user "{USER}" (28P01)',
        "none: credentials: the server asks for a password (SCRAM), but none is configured for user "
        f'"{USER}" (28P01)',
        'nobody: credentials: password authentication failed for user "nobody" (28P01)',
    ]
    assert done.exit_code == 1


def test_tells_a_missing_database(postgres: LocalPostgres, tmp_path: Path) -> None:
    """A database that the origin does not have is told apart from all else."""
    done = check(tmp_path, {"app": {"origin": origin(postgres, dbname="nowhere"), "password": PASSWORD}})
    assert one_line(done) == 'app: no such database: database "nowhere" does not exist (3D000)'
    assert done.exit_code == 1


def test_tells_a_host_that_does_not_resolve(tmp_path: Path) -> None:
    """A host name that nobody knows is a matter of DNS."""
    done = check(tmp_path, {"app": {"origin": "postgresql://app@nowhere.invalid/app"}})
    assert one_line(done).startswith("app: DNS: cannot resolve the host name 'nowhere.invalid': ")
    assert done.exit_code == 1


def test_tells_a_closed_port(tmp_path: Path) -> None:
    """A port that nobody listens on is "refused"; a socket directory without a socket is "unreachable"."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        directory = quote(str(tmp_path), safe="")
        done = check(
            tmp_path,
            {
                "tcp": {"origin": f"postgresql://app@127.0.0.1:{port}/app"},
                "unix": {"origin": f"postgresql://app@/app?host={directory}"},
            },
        )
    assert done.stdout.splitlines() == [
        f"tcp: refused: cannot connect to 127.0.0.1:{port}: Connection refused",
        f"unix: unreachable: cannot connect to {tmp_path}/.s.PGSQL.5432: No such file or directory",
    ]
    assert done.exit_code == 1


@pytest.mark.parametrize("sslmode", ["disable", "prefer", "verify-full"])
def test_tells_a_server_that_never_answers(tmp_path: Path, sslmode: str) -> None:
    """A server that accepts and stays silent is given up after `server_connect`."""
    with stranger(b"") as port:
        done = check(
            tmp_path,
            {"app": {"origin": f"postgresql://app@127.0.0.1:{port}/app?sslmode={sslmode}"}},
            timeouts={"server_connect": "200ms"},
        )
    assert one_line(done) == f"app: timed out: 127.0.0.1:{port} did not answer within 200ms"
    assert done.exit_code == 1


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
@pytest.mark.parametrize("sslmode", ["disable", "prefer", "require"])
def test_tells_what_is_not_postgresql(tmp_path: Path, sslmode: str, greeting: bytes) -> None:
    """Another kind of server is recognised by what it says, with TLS and without."""
    with stranger(greeting) as port:
        database = {"origin": f"postgresql://app@127.0.0.1:{port}/app?sslmode={sslmode}"}
        done = check(tmp_path, {"app": database})
    assert one_line(done).startswith("app: not PostgreSQL: ")
    assert done.exit_code == 1


def test_tries_every_host(postgres: LocalPostgres, tmp_path: Path) -> None:
    """Each host of an origin has a line, in the configuration's order, and one that fails is a failure."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        hosts = f"127.0.0.1:{port},{postgres.host}:{postgres.port}"
        url = f"postgresql://{USER}@{hosts}/{DATABASE}?sslmode=disable"
        done = check(tmp_path, {"app": {"origin": url, "password": PASSWORD}})
    first, second = done.stdout.splitlines()
    assert first == (
        f"app at 127.0.0.1:{port}: refused: cannot connect to 127.0.0.1:{port}: Connection refused"
    )
    assert second.startswith(f"app at {postgres.host}:{postgres.port}: ok, PostgreSQL ")
    assert done.exit_code == 1


def test_logs_in_as_every_user(postgres: LocalPostgres, tmp_path: Path) -> None:
    """An origin without a user is tried as each configured user, with that user's password."""
    users = {USER: {"password": PASSWORD}, "eve": {"password": "wrong"}}
    done = check(tmp_path, {"app": {"origin": origin(postgres, user="")}}, users=users)
    first, second = done.stdout.splitlines()
    assert first.startswith(f"app as {USER}: ok, PostgreSQL ")
    assert second == 'app as eve: credentials: password authentication failed for user "eve" (28P01)'
    assert done.exit_code == 1


def test_connects_where_nothing_says_how_to_log_in(postgres: LocalPostgres, tmp_path: Path) -> None:
    """Without a user, or a name for "*", it connects only, says why, and that is no failure."""
    nameless = f"postgresql://{USER}@{postgres.host}:{postgres.port}"
    done = check(tmp_path, {"app": {"origin": origin(postgres, user="")}, "*": {"origin": nameless}})
    tls = r"TLS 1\.3" if postgres.tls is not None else "no TLS"
    connected = rf"connected, {MILLISECONDS}, {tls}; not logged in"
    app, rest = done.stdout.splitlines()
    assert re.fullmatch(f"app: {connected}: neither the origin nor the configuration names a user", app)
    assert re.fullmatch(rf"\*: {connected}: the client names the database", rest)
    assert done.exit_code == 0


def test_a_full_server_is_a_failed_login(tmp_path: Path) -> None:
    """What is neither credentials nor the database's name is told with PostgreSQL's words and SQLSTATE."""
    bin_dir = available_installations()[0].bin_dir
    settings: dict[str, str | int | bool] = {"max_connections": 3, "superuser_reserved_connections": 2}
    with LocalPostgres(bin_dir=bin_dir, settings=settings) as pg:
        pg.run_sql("create role app login connection limit 0")
        done = check(tmp_path, {"app": {"origin": origin(pg, dbname="postgres")}})
    assert one_line(done) == 'app: login failed: too many connections for role "app" (53300)'
    assert done.exit_code == 1


def test_a_wrong_configuration_is_all_it_says(tmp_path: Path) -> None:
    """Problems of the file are printed and nothing is tried; exit status 1."""
    done = check(tmp_path, {"app": {"orign": "postgresql://app@127.0.0.1/app"}})
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "databases.app.orign" in done.stderr


def test_users_whose_password_only_their_clients_have(postgres: LocalPostgres, tmp_path: Path) -> None:
    """A SCRAM secret cannot be checked and is no failure; the user that looks others up is checked."""
    users = {
        USER: {
            "password": postgres.run_sql("select rolpassword from pg_authid where rolname = 'app'").strip()
        }
    }
    auth = {"query": "select 1", "query_user": USER, "query_password": PASSWORD, "query_database": "postgres"}
    done = check(tmp_path, {"app": {"origin": origin(postgres, user="")}}, users=users, auth=auth)
    known, lookup = done.stdout.splitlines()
    assert re.fullmatch(
        rf"app as app: connected, {MILLISECONDS}, .*; not logged in: only its client .*", known
    )
    assert re.fullmatch(rf"app as app for auth\.query: ok, PostgreSQL .*, {MILLISECONDS}, .*", lookup)
    assert done.exit_code == 0
    done = check(
        tmp_path,
        {"app": {"origin": origin(postgres, user="")}},
        users=users,
        auth=auth | {"query_password": "wrong"},
    )
    assert "app as app for auth.query: credentials" in done.stdout
    assert done.exit_code == 1


def test_a_link_is_checked_to_the_database_behind_it(
    postgres: LocalPostgres, tmp_path: Path, certificates: Certificates
) -> None:
    """`trio-pool://`: another trio-pool by mutual TLS, one that is none, and one whose certificate is a
    stranger's.
    """
    tls = {"mode": "require", "client_ca": str(certificates.ca)}
    with Pooler(postgres, certificates=certificates, extra={"listen": {"tls": tls}}) as running:
        link = f"trio-pool://{USER}@localhost:{running.port}/{DATABASE}"
        keys = f"sslcert={certificates.client_certificate}&sslkey={certificates.client_key}"
        databases = {
            "right": f"{link}?sslrootcert={certificates.ca}&{keys}",
            "wrong": f"{link}?sslrootcert={certificates.stranger_ca}",
            "other": f"trio-pool://{USER}@{postgres.host}:{postgres.port}/{DATABASE}?sslmode=disable",
        }
        done = check(
            tmp_path, {name: {"origin": url, "password": PASSWORD} for name, url in databases.items()}
        )
    right, wrong, other = done.stdout.splitlines()
    assert re.fullmatch(
        rf"right: ok, trio-pool, PostgreSQL {re.escape(version(postgres))}, {MILLISECONDS}, TLS 1\.3", right
    )
    assert wrong.startswith("wrong: TLS: the server's certificate is not acceptable")
    assert (
        other
        == f"other: unsuitable: {postgres.host}:{postgres.port} is no trio-pool, or one of another version"
    )
    assert done.exit_code == 1
