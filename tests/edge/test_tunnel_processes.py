"""The reverse dial between two `trio-pool serve`, in network namespaces of their own: nothing listens at the
origin's.
"""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.edge.test_link_chaos import LONG
from tests.edge.tunnelled import NAME, SECRET, Papers
from tests.support.firewalled import NEAR, Firewalled, firewalled, origin_database, why_not
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.target import DATABASE, USER
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

PORT = 7432
WITHIN = 20.0
"""Seconds after which it is too long whatever the machine does."""
SLEEPING = "query = 'select pg_sleep(60)' and state = 'active'"
KEEPALIVE = "keepalives_idle=1&keepalives_interval=1&keepalives_count=2&tcp_user_timeout=3000"


@attrs.define(eq=False)
class Apart:
    """Edge and origin, with a cable between them. Clients come to the edge by its Unix socket."""

    networks: Firewalled
    edge: Pooler
    origin: Pooler
    path: Path

    def client(self) -> RawClient:
        return RawClient.log_in(str(self.path))

    def until_served(self) -> None:
        """Return when a new client gets an answer."""
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, AssertionError), self.client() as client:
                assert client.run("select 1") == []
                return
            time.sleep(0.02)
        raise AssertionError(f"nobody is served\n{self.edge.log_text()}\n{self.origin.log_text()}")


@pytest.fixture
def apart(any_postgres: LocalPostgres, tmp_path: Path) -> Iterator[Apart]:
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    papers = Papers(tmp_path)
    path = tmp_path / ".s.PGSQL.6432"
    near = papers.issue("near.pem", NEAR)
    at_edge: dict[str, Any] = {
        "listen": {"addresses": ["127.0.0.1:0", f"unix:{path}"]},
        "databases": {
            DATABASE: {
                "origin": f"trio-pool://{USER}@{NAME}/{DATABASE}?via=tunnel&{KEEPALIVE}",
                "password_env": None,
                "password": SECRET,
            }
        },
        "tunnel": {"listen": papers.listen(address=f"{NEAR}:{PORT}", certificate=near, ping="500ms")},
        "http": None,
    }
    at_origin: dict[str, Any] = {
        "listen": {"addresses": []},
        "users": {USER: {"password": SECRET}},
        "databases": {DATABASE: origin_database(any_postgres)},
        "tunnel": {"dial": {"edges": papers.dial(f"{NEAR}:{PORT}")}},
        "http": None,
    }
    with (
        firewalled(tmp_path) as networks,
        Pooler(any_postgres, tls=False, auth="trust", extra=at_edge) as edge,
        Pooler(any_postgres, tls=False, extra=at_origin, executable=networks.python) as origin,
    ):
        yield Apart(networks, edge, origin, path)


def test_nothing_listens_at_the_origin(apart: Apart) -> None:
    """Clients of the edge are served, and cancelled, by an origin without a listening socket; and again when
    either process was killed and started again.
    """
    apart.until_served()
    assert apart.networks.listening() == []
    cancel_one(apart)
    for pooler in (apart.origin, apart.edge):
        pooler.signal(signal.SIGKILL)
        pooler.wait_for_end()
        pooler.start()
        apart.until_served()
    cancel_one(apart)
    assert apart.networks.listening() == []


def cancel_one(apart: Apart) -> None:
    """What runs at the database ends when its client asks for it."""
    with RawClient.connect(str(apart.path)) as client:
        client.send(messages.startup({"user": USER, "database": DATABASE}))
        (key,) = [body for tag, body in client.exchange() if tag == Backend.BACKEND_KEY_DATA]
        client.send(messages.query("select pg_sleep(60)"))
        client.sock.settimeout(0.05)
        deadline = time.monotonic() + WITHIN
        while time.monotonic() < deadline:  # a request may come before its query
            with RawClient.connect(str(apart.path)) as canceller:
                canceller.send(messages.cancel_request(*messages.read_backend_key_data(key)))
                assert canceller.receive() is None
            with contextlib.suppress(TimeoutError):
                (error,) = client.errors()
                assert error.sqlstate == "57014"
                return
        raise AssertionError("it goes on")


def test_a_cable_is_cut_and_mended(apart: Apart) -> None:
    """What ran gets an error within the link's time, and clients are served again when the cable is back."""
    apart.until_served()
    with apart.client() as client:
        assert client.value("select 1") == "1"
        apart.networks.cut()
        (error,) = client.run("select 1")
        assert error.sqlstate == "08006"
    apart.networks.mend()
    apart.until_served()


@pytest.mark.skipif(not LONG, reason="takes as long as TCP's keep-alive: set TRIO_POOL_CHAOS to run it")
def test_what_ran_for_a_lost_edge_is_cancelled(apart: Apart, any_postgres: LocalPostgres) -> None:
    """The origin notices by itself that its edge is cut off, within the 15 s of a link."""

    def asleep() -> int:
        return int(any_postgres.run_sql(f"select count(*) from pg_stat_activity where {SLEEPING}"))

    apart.until_served()
    with apart.client() as client:
        client.send(messages.query("select pg_sleep(60)"))
        while not asleep():
            time.sleep(0.02)
        apart.networks.cut()
        deadline = time.monotonic() + 2 * WITHIN
        while asleep():
            assert time.monotonic() < deadline
            time.sleep(0.1)
