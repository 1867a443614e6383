"""`/metrics` says what has happened, exactly, while it happens, and stays small."""

from __future__ import annotations

import gzip
import os
import sys
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import attrs
import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics

import trio_pool
from tests.daemon.web.asking import HTTP, Scrape, get
from tests.net.harness import origin_url, served
from tests.net.peer import Peer
from tests.support.serving import serving, superuser
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.daemon.lag import EVERY
from trio_pool.daemon.web.ledger import MOST_PAIRS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.net.harness import Running
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

APP = {"database": DATABASE, "user": USER}


async def pgbench(pg: LocalPostgres, running: Running, script: Path, clients: int, transactions: int) -> None:
    """So many transactions of each client, and nothing else."""
    host, port = running.address
    options = f"-n -c {clients} -t {transactions} -h {host} -p {port} -U {USER} -f".split()
    await trio.run_process(
        [pg.bin("pgbench"), *options, str(script), DATABASE],
        capture_stdout=True,
        capture_stderr=True,
        env={**os.environ, "PGPASSWORD": PASSWORD},
    )


async def test_counters_agree_with_what_pgbench_has_done(postgres: LocalPostgres, tmp_path: Path) -> None:
    """While pgbench runs, every scrape parses, its histograms are consistent, and nothing goes down; at the
    end every count is exactly what was sent. (Servers have the settings of pgbench from the beginning: what
    is asked of a server to bring it to others is counted, too.)
    """
    script = tmp_path / "script.sql"
    script.write_text("begin;\nselect 1;\nselect 2;\ncommit;\nselect 3;\n")
    scrapes: list[Scrape] = []

    async def scrape_on() -> None:
        while True:
            scrapes.append(await Scrape.of(running.service))

    database = {"pool_size": 3, "queue_ahead": 0}
    origin = f"{origin_url(postgres)}&application_name=pgbench"
    async with serving(origin, databases={DATABASE: database}, http=HTTP) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(scrape_on)
            await pgbench(postgres, running, script, clients=8, transactions=50)
            nursery.cancel_scope.cancel()
        await running.at_rest()
        last = await Scrape.of(running.service)

    assert len(scrapes) > 2
    for scrape in (*scrapes, last):
        scrape.check()
    for before, after in pairwise([*scrapes, last]):
        assert after.fallen_since(before) == []
    counted = {
        name: last.value(f"trio_pool_{name}", **APP)
        for name in (
            "transactions_total",
            "queries_total",
            "leases_total",
            "query_seconds_count",
            "transaction_seconds_count",
            "lease_wait_seconds_count",
            "client_login_seconds_count",
            "client_disconnects_total",
        )
    }
    assert counted == {
        "transactions_total": 8 * 50 * 2,
        "queries_total": 8 * 50 * 4,
        "leases_total": 8 * 50 * 2,
        "query_seconds_count": 8 * 50 * 4,
        "transaction_seconds_count": 8 * 50 * 2,
        "lease_wait_seconds_count": 8 * 50 * 2,
        "client_login_seconds_count": 8 + 1,  # pgbench tries whether it can connect
        "client_disconnects_total": 8 + 1,
    }
    assert last.value("trio_pool_server_connect_seconds_count", **APP) == 3
    assert last.value("trio_pool_client_disconnects_total", reason="client terminated") == 9
    assert last.value("trio_pool_servers", state="idle", **APP) == 3
    assert last.value("trio_pool_servers", **APP) == 3
    assert last.value("trio_pool_clients") == 0


async def test_what_waits_is_seen_while_it_waits(postgres: LocalPostgres) -> None:
    """Gauges follow a client that holds the only server, one that waits for it, and the one that got it."""
    async with (
        serving(postgres, http=HTTP) as running,
        await running.log_in() as holder,
        await running.log_in() as waiter,
    ):
        await holder.rows("begin")
        await holder.rows("select 1")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiter.rows, "select 2")
            await running.until(lambda: len(running.origin.pool.waiting) == 1)
            scrape = await Scrape.of(running.service)
            assert scrape.value("trio_pool_clients", **APP) == 2
            assert scrape.value("trio_pool_clients_active", **APP) == 1
            assert scrape.value("trio_pool_clients_waiting", **APP) == 1
            assert scrape.value("trio_pool_servers", state="leased", **APP) == 1
            first = scrape.value("trio_pool_longest_wait_seconds", **APP)
            assert (await Scrape.of(running.service)).value("trio_pool_longest_wait_seconds", **APP) > first
            await holder.rows("commit")
        scrape = await Scrape.of(running.service)
        assert scrape.value("trio_pool_clients_waiting", **APP) == 0
        assert scrape.value("trio_pool_lease_waits_total", **APP) == 1


async def test_what_goes_wrong_is_counted_by_its_reason(postgres: LocalPostgres) -> None:
    """A time limit, a cancel request, a pin, a refusal, a lost server, a lost client, and one who is turned
    away.
    """
    timeouts = {"query": "100ms", "lease_wait": "100ms"}
    async with serving(postgres, http=HTTP, timeouts=timeouts) as running, await running.log_in() as peer:
        await peer.run("select pg_sleep(10)")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.run, "begin; select pg_sleep(10)")
            await running.until(lambda: bool(running.origin.pool.leased))
            await peer.request_cancel()
        await peer.rows("rollback")
        await peer.rows("create temporary table mine (id int)")
        await running.until(lambda: bool(running.origin.pool.pinned))
        async with await running.log_in() as other:
            await other.run("select 1")
        await running.until(lambda: len(running.service.clients) == 1)
        scrape = await Scrape.of(running.service)
        assert scrape.value("trio_pool_servers_pinned", **APP) == 1
        await peer.run("drop table mine")
        (pid,) = await peer.rows("select pg_backend_pid()")
        async with superuser(postgres) as root:
            await root.rows(f"select pg_terminate_backend({pid})")
        await running.log.wait_for("server disconnected")
        stranger = await Peer.connect(running.address)
        async with stranger:
            with pytest.raises(AssertionError, match="3D000"):
                await stranger.start({"user": USER, "database": "nowhere"})
        await running.log.wait_for("client disconnected", reason="client refused")
        scrape = await Scrape.of(running.service)

    assert scrape.values("trio_pool_timeouts_total") == {
        (("database", DATABASE), ("limit", "lease_wait"), ("user", USER)): 1.0,
        (("database", DATABASE), ("limit", "query"), ("user", USER)): 1.0,
    }
    assert scrape.value("trio_pool_cancels_total", **APP) == 1
    assert scrape.value("trio_pool_lease_refusals_total", **APP) == 1
    assert scrape.value("trio_pool_pins_total", reason="temporary object", **APP) == 1
    assert scrape.value("trio_pool_client_disconnects_total", reason="client vanished", **APP) == 1
    assert scrape.value("trio_pool_server_disconnects_total", **APP) == 1
    assert scrape.value("trio_pool_turned_away_total", reason="client refused") == 1


async def test_the_format_is_what_the_scraper_asks_for(postgres: LocalPostgres) -> None:
    """Prometheus' text by default, OpenMetrics with its one end mark if wanted, compressed if accepted."""
    async with serving(postgres, http=HTTP) as running, await running.log_in() as peer:
        await peer.rows("select 1")
        plain = await get(running.service, "/metrics")
        open_ = await get(running.service, "/metrics", accept="application/openmetrics-text; version=1.0.0")
        packed = await get(running.service, "/metrics", accept_encoding="gzip")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "content-encoding" not in plain.headers
    assert open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    families = list(parse_openmetrics(open_.body.decode()))  # type: ignore[no-untyped-call]
    assert "trio_pool_query_seconds" in {family.name for family in families}
    assert packed.headers["content-encoding"] == "gzip"
    assert b"# TYPE trio_pool_query_seconds histogram" in gzip.decompress(packed.body)
    assert len(packed.body) < len(plain.body) / 3


@pytest.mark.slow
async def test_ten_thousand_users_do_not_make_the_scrape_large(
    postgres: LocalPostgres, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a pool per user, so many pairs of database and user are told apart and no more; the others are
    summed up, and nothing is lost: not from the sums, and not the busiest of them among the others.
    """
    if postgres.version < 18:
        pytest.skip("what PostgreSQL it is makes no difference here, and it takes half a minute")
    url = f"postgresql://{postgres.host}:{postgres.port}/{DATABASE}?sslmode=disable"
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "databases": {
                DATABASE: {"origin": origin_url(postgres), "password": PASSWORD},
                "own": {"origin": url},
                "*": {"origin": url},
            },
            "http": HTTP,
        }
    )
    async with served(config, 110.0) as running:
        service = running.service
        async with await running.log_in() as peer:
            await peer.rows("select 1")
        small = await Scrape.of(service)
        for count in range(10_000):
            origin = service.pool_for("own" if count % 2 else f"random{count}", f"user{count}")
            assert origin is not None
            origin.traffic.queries += count
            if count % 100 == 0:
                await trio.lowlevel.checkpoint()
        began = time.perf_counter()
        large = await Scrape.of(service)
        took = time.perf_counter() - began
        again = await Scrape.of(service)
    with capsys.disabled():
        print(f"\n{large.series} series of 10001 pools in {took:.2f} s; {small.series} of one")
    for scrape in (large, again):
        scrape.check()
        assert len(scrape.pairs) == MOST_PAIRS + 2
        assert {("own", "other"), ("other", "other"), (DATABASE, USER), ("own", "user9999")} <= scrape.pairs
        assert scrape.value("trio_pool_queries_total") == 1 + sum(range(10_000))
        assert scrape.value("trio_pool_pools") == 10_001
    assert large.series == again.series < small.series * (MOST_PAIRS + 2)


async def test_counters_outlive_their_pools(postgres: LocalPostgres) -> None:
    """A reload takes a database away, one brings it back, and one gives it another user, whose name the
    counts from then on have: none goes down.
    """
    async with serving(postgres, databases={DATABASE: {}, "second": {}}, http=HTTP) as running:
        service = running.service
        both = service.config
        scrapes: list[Scrape] = []

        async def ask(*, scrape: bool = True) -> None:
            async with await running.log_in(database="second") as peer:
                await peer.rows("select 1")
            if scrape:
                scrapes.append(await Scrape.of(service))

        async def remove() -> None:
            known = [origin for origin in service.pools.values() if origin.pool.key.database == "second"]
            first = {DATABASE: both.databases[DATABASE]}
            await service.operations.reload(attrs.evolve(both, databases=first))
            await running.until(lambda: all(origin.ended for origin in known))

        await ask()
        await ask(scrape=False)
        await remove()
        scrapes.append(await Scrape.of(service))
        assert scrapes[-1].values("trio_pool_pools", database="second") == {}
        await service.operations.reload(both)
        await ask()
        second = both.databases["second"]
        renamed = attrs.evolve(second, origin=attrs.evolve(second.origin, user=postgres.superuser))
        changed = {**both.databases, "second": renamed}
        await service.operations.reload(attrs.evolve(both, databases=changed))
        scrapes.append(await Scrape.of(service))

    queries = [scrape.value("trio_pool_queries_total", database="second") for scrape in scrapes]
    assert queries == [1, 2, 3, 3]
    for before, after in pairwise(scrapes):
        assert after.fallen_since(before) == []
    assert scrapes[-1].value("trio_pool_queries_total", database="second", user=USER) == 3
    assert scrapes[-1].values("trio_pool_pools", database="second").keys() == {
        (("database", "second"), ("user", postgres.superuser))
    }


async def test_a_busy_event_loop_is_seen(postgres: LocalPostgres) -> None:
    """What holds the loop up for a while shows in the histogram of its lag, and as the longest delay."""
    async with serving(postgres, http=HTTP) as running:
        before = await Scrape.of(running.service)
        service, seen = running.service, running.service.lag.delays.count
        until = trio.current_time() + EVERY
        while trio.current_time() < until:
            time.sleep(2 * EVERY)  # noqa: ASYNC251 - it is what is to be seen
        await running.until(lambda: service.lag.delays.count > seen)
        after = await Scrape.of(service)
    assert before.value("trio_pool_event_loop_lag_max_seconds") < EVERY
    assert after.value("trio_pool_event_loop_lag_max_seconds") >= EVERY
    assert after.value("trio_pool_event_loop_lag_seconds_sum") >= EVERY


async def test_the_process_is_described(postgres: LocalPostgres) -> None:
    """Version, limits and what the operating system knows of the process."""
    listen = {"addresses": ["127.0.0.1:0"], "max_clients": 77}
    async with serving(postgres, http=HTTP, listen=listen) as running, await running.log_in():
        scrape = await Scrape.of(running.service)
    assert scrape.value("trio_pool_build_info", version=trio_pool.__version__) == 1
    assert scrape.value("trio_pool_max_clients") == 77
    assert scrape.value("trio_pool_connections") == 1
    assert scrape.value("trio_pool_stopping") == 0
    assert abs(scrape.value("trio_pool_start_time_seconds") - time.time()) < 60
    if sys.platform == "linux":
        assert scrape.value("process_resident_memory_bytes") > 1e6
        assert scrape.value("process_cpu_seconds_total") > 0
