"""Hosts of origins: a primary and its streaming standby, both real, and one that is not reached."""

from __future__ import annotations

import socket
import subprocess
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import attrs

from tests.support.target import DATABASE, USER
from trio_pool.cli.postgres import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import Installation


@attrs.define(eq=False)
class Standby(LocalPostgres):
    """A copy of a running primary that follows it."""

    primary: LocalPostgres = attrs.field(kw_only=True)

    def _initdb(self) -> None:
        where = ["-h", str(self.primary.socket_dir), "-p", str(self.primary.port)]
        command = [str(self.bin("pg_basebackup")), *where, "-U", self.superuser, "-D", str(self.data_dir)]
        process = self._popen(
            [*command, "-R", "-X", "stream", "-c", "fast", "--no-sync"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        printed, _ = process.communicate()
        assert process.returncode == 0, printed.decode(errors="replace")

    def promote(self) -> None:
        """Make it a primary; returns when it is one."""
        assert self.run_sql("select pg_promote()").strip() == "t"


@attrs.frozen(eq=False)
class Cluster:
    """Two servers that trust everybody, with the role and the database of the tests."""

    primary: LocalPostgres
    standby: Standby

    def url(self, *hosts: LocalPostgres | int, query: str = "") -> str:
        """An origin of these hosts; a number is a port at which there may be something else."""
        ports = [host if isinstance(host, int) else host.port for host in hosts]
        listed = ",".join(f"127.0.0.1:{port}" for port in ports)
        return f"postgresql://{USER}@{listed}/{DATABASE}?sslmode=disable{query}"


@contextmanager
def cluster(installation: Installation) -> Iterator[Cluster]:
    """Both, while the block lasts."""
    with LocalPostgres(bin_dir=installation.bin_dir) as primary:
        primary.run_sql(f"create role {USER} login; create database {DATABASE} owner {USER}")
        with Standby(bin_dir=installation.bin_dir, primary=primary) as standby:
            yield Cluster(primary, standby)


def follow(pg: LocalPostgres, primary: LocalPostgres) -> None:
    """Let a stopped server start as a standby."""
    signal = pg.data_dir / "standby.signal"
    signal.touch()
    pg._own(signal)
    with (pg.data_dir / "postgresql.auto.conf").open("a") as configuration:
        where = f"host={primary.socket_dir} port={primary.port} user={primary.superuser}"
        configuration.write(f"primary_conninfo = '{where}'\n")


@contextmanager
def full_backlog() -> Iterator[int]:
    """The port of a TCP server that accepts nobody and whose queue is full, so that SYN is not answered."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
