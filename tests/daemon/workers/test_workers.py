"""Several processes on the same addresses: what holds for one holds for all of them together."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import trio

from tests.daemon.workers.load import processes_below, until_gone
from tests.support.pooler import ADMIN, Pooler, to_toml
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.net.clients import SLOT_SHIFT
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e


def workers_of(pg: LocalPostgres, *, size: int = 2, **more: Any) -> Pooler:
    """A pooler with two workers."""
    extra = {"listen": {"workers": 2, **more.pop("listen", {})}, **more}
    return Pooler(pg, pool_size=size, tls=False, auth="trust", extra=extra)


MOST = 6


def unix_socket_of(pooler: Pooler) -> str:
    addresses: list[str] = pooler.ready["addresses"]
    return next(a.removeprefix("unix:") for a in addresses if a.startswith("unix:"))


@pytest.fixture(scope="module")
def pooler(any_postgres: LocalPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pooler]:
    """Two workers, TCP and a Unix socket, a cache."""
    path = tmp_path_factory.mktemp("workers") / "socket"
    cached = {DATABASE: {"cache": {"enabled": True}}}
    listen = {"addresses": ["127.0.0.1:0", f"unix:{path}"], "max_clients": MOST}
    timeouts = {"lease_wait": "10s"}
    with workers_of(any_postgres, listen=listen, http=None, timeouts=timeouts, databases=cached) as running:
        yield running


class Client(RawClient):
    """One that knows which worker has let it in."""

    process_id: int = 0
    secret: bytes = b""

    @property
    def worker(self) -> int:
        return (self.process_id >> SLOT_SHIFT) - 1

    @classmethod
    def of(cls, address: tuple[str, int] | str, user: str = USER, database: str = DATABASE) -> Client:
        client = cls.connect(address)
        try:
            client.send(messages.startup({"user": user, "database": database}))
            for tag, body in client.exchange():
                assert tag != Backend.ERROR_RESPONSE, messages.read_error(body)
                if tag == Backend.BACKEND_KEY_DATA:
                    client.process_id, client.secret = messages.read_backend_key_data(body)
        except BaseException:
            client.sock.close()
            raise
        return client


def client_of(pooler: Pooler, worker: int) -> Client:
    """One that this worker has let in."""
    while True:
        client = Client.of((pooler.host, pooler.port))
        if client.worker == worker:
            return client
        client.sock.close()


def one_of_each(pooler: Pooler) -> tuple[Client, Client]:
    """A client of each worker."""
    return client_of(pooler, 0), client_of(pooler, 1)


def test_the_pool_has_its_size(pooler: Pooler) -> None:
    """Two clients of one worker have both servers; one of the other worker waits until one is given back."""
    first, second = one_of_each(pooler)
    more = client_of(pooler, 0)
    for client in (first, more):
        assert client.value("select 1") == "1"
        client.send(messages.query("begin"))
        assert client.errors() == []
    second.send(messages.query("select 2"))
    first.send(messages.query("commit"))
    assert first.errors() == []
    assert second.errors() == []
    for client in (first, second, more):
        client.sock.close()


def cancel_until(answered: threading.Event, pooler: Pooler, client: Client) -> None:
    """By any worker, and again: a request that comes before its statement has no effect."""
    while not answered.wait(0.05):
        with RawClient.connect((pooler.host, pooler.port)) as other:
            other.send(messages.cancel_request(client.process_id, client.secret))
            assert other.receive() is None


def test_a_cancel_request_finds_its_client(pooler: Pooler) -> None:
    """Whichever worker it comes to."""
    for client in one_of_each(pooler):
        for _ in range(3):
            client.send(messages.query("select pg_sleep(60)"))
            answered = threading.Event()

            asking = threading.Thread(target=cancel_until, args=(answered, pooler, client))
            asking.start()
            errors = client.errors()
            answered.set()
            asking.join()
            assert [error.sqlstate for error in errors] == ["57014"]
        client.sock.close()


def test_a_reload_is_one_of_all(pooler: Pooler, tmp_path: Path) -> None:
    """The file as it is then holds everywhere; one that a worker cannot use changes nothing anywhere."""
    certificate = tmp_path / "no certificate.pem"
    certificate.write_text("nonsense")
    good = pooler.configuration()
    first, second = one_of_each(pooler)
    broken = pooler.configuration()
    broken["listen"]["tls"] = {"mode": "allow", "certificate": str(certificate)}
    broken["timeouts"]["query"] = "1s"
    pooler.config_path.write_text(to_toml(broken))
    before = pooler.mark()
    pooler.signal(signal.SIGHUP)
    refused = pooler.wait_for_event("reload failed, nothing has changed", since=before)
    assert ["certificates cannot be loaded" in problem for problem in refused["problems"]] == [True]
    assert first.value("select pg_sleep(1.1)") == ""
    limited = pooler.configuration()
    limited["timeouts"]["query"] = "500ms"
    pooler.config_path.write_text(to_toml(limited))
    with Client.of((pooler.host, pooler.port), ADMIN, "pgbouncer") as console:
        console.send(messages.query("RELOAD"))
        assert console.errors() == []
    for client in (first, second):
        assert client.value_or_error("select pg_sleep(60)") == "57014"
        client.sock.close()
    pooler.config_path.write_text(to_toml(good))
    before = pooler.mark()
    pooler.signal(signal.SIGHUP)
    assert pooler.wait_for_event("reloaded", since=before)["changes"] == ["timeouts.query: 500ms -> 0"]


def hits(pooler: Pooler) -> int:
    """Reads that were answered from memory, by any worker."""
    with Client.of((pooler.host, pooler.port), ADMIN, "pgbouncer") as console:
        console.send(messages.query("SHOW CACHE"))
        (row,) = [body for tag, body in console.exchange() if tag == Backend.DATA_ROW]
        cells, at = [], 2
        while at < len(row):
            length = int.from_bytes(row[at : at + 4], "big")
            cells.append(row[at + 4 : at + 4 + length])
            at += 4 + length
        return int(cells[7])


def test_a_write_ends_what_others_have_kept(pooler: Pooler) -> None:
    """Before its client knows of it, in all workers; so does what a dead worker may have written."""
    first, second = one_of_each(pooler)
    for sql in (
        "drop table if exists shared",
        "create table shared (n int)",
        "insert into shared values (0)",
    ):
        first.send(messages.query(sql))
        assert first.errors() == []
    read = "select n from shared"
    for client in (first, second):
        before, deadline = hits(pooler), time.monotonic() + 15
        while hits(pooler) < before + 1:
            assert client.value(read) == "0"
            assert time.monotonic() < deadline
    for number in range(1, 30):
        writer, reader = (first, second) if number % 2 else (second, first)
        writer.send(messages.query(f"update shared set n = {number}"))
        assert writer.errors() == []
        assert [reader.value(read), writer.value(read), reader.value(read)] == [str(number)] * 3
    first.send(messages.query("update shared set n = -1"))
    kill(pooler, 0)
    with RawClient.log_in((pooler.host, pooler.port)) as other:
        assert second.value(read) == other.value(read)
    for client in (first, second):
        client.sock.close()


def kill(pooler: Pooler, worker: int) -> None:
    """Returns when another one has its place."""
    before = pooler.mark()
    victim = [entry for entry in pooler.log_events("worker accepts") if entry["worker"] == worker][-1]
    os.kill(victim["process"], signal.SIGKILL)
    pooler.wait_for_event("worker accepts", 30.0, before)


def test_limits_of_clients_are_those_of_all(pooler: Pooler) -> None:
    """`max_clients` counts the clients of all workers, and those of a dead one no more. On a Unix socket."""
    path = unix_socket_of(pooler)
    clients: list[Client] = []
    deadline = time.monotonic() + 15
    while len(clients) < MOST:  # those of other tests have to be noticed to be gone
        try:
            clients.append(Client.of(path))
        except AssertionError:
            assert time.monotonic() < deadline
    with pytest.raises(AssertionError, match="too many clients already"):
        Client.of(path)
    kill(pooler, clients[0].worker)
    clients.append(Client.of(path))
    for client in clients:
        client.sock.close()


def test_what_cannot_be_served_is_said(any_postgres: LocalPostgres, tmp_path: Path) -> None:
    """At the start, by the parent, which ends."""
    certificate = tmp_path / "no certificate.pem"
    certificate.write_text("nonsense")
    broken = {"tls": {"mode": "allow", "certificate": str(certificate)}}
    pooler = workers_of(any_postgres, listen=broken)
    with pytest.raises(AssertionError, match="trio-pool: cannot serve: "), pooler:
        pass


def test_nobody_is_left_when_the_parent_is_killed(pooler: Pooler) -> None:
    """Last in this file, for it ends the pooler of the others."""
    processes = [pooler.pid, *processes_below(pooler.pid)]
    assert len(processes) == 3
    pooler.signal(signal.SIGKILL)
    for process in processes:
        trio.run(until_gone, process)
    assert pooler.wait_for_end() == -signal.SIGKILL
