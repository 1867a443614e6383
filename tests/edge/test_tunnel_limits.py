"""Tunnels under pressure and under change: strangers, too many of them, files that are no good, a
configuration that is read again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_pool
from tests.edge.test_tunnel import Tunnelled, tunnelled, until_served
from tests.edge.tunnelled import NAME, Papers, edge_config, origin_config
from tests.net.peer import where
from trio_pool.config import Config, ConfigurationError
from trio_pool.daemon.census import Census
from trio_pool.daemon.console.show import View
from trio_pool.daemon.console.shows import SHOWS
from trio_pool.daemon.reload import prepare
from trio_pool.daemon.web.source import Here
from trio_pool.net import tunnel_listen

if TYPE_CHECKING:
    from pathlib import Path

    from tests.edge.tunnelled import Started
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


@pytest.fixture
def postgres(any_postgres: LocalPostgres) -> LocalPostgres:
    return any_postgres


@pytest.fixture
def papers(tmp_path: Path) -> Papers:
    return Papers(tmp_path)


async def reload(started: Started, config: dict[str, Any]) -> list[str]:
    service = started.running.service
    return (await prepare(service, Config.from_dict(config))).apply()


def listening(there: Tunnelled) -> tuple[str, int]:
    assert there.edge.running.service.tunnels is not None
    return where(there.edge.running.service.tunnels.address)


async def test_strangers_disturb_nobody(
    postgres: LocalPostgres, papers: Papers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More connections than the edge greets at a time, which say nothing or nonsense: clients are served, the
    origin's tunnels are renewed, the oldest strangers are sent away and the log does not repeat itself.
    """
    monkeypatch.setattr(tunnel_listen, "MOST_GREETED", 5)
    async with tunnelled(postgres, papers, edge={"scheme": "postgresql"}, ready=2) as there:
        await there.ready(2)
        silent = [await trio.open_tcp_stream(*listening(there)) for _ in range(20)]
        for talker in silent[-3:]:
            await talker.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with trio.fail_after(10):
            for gone in silent[:12]:
                with contextlib.suppress(trio.BrokenResourceError):
                    assert await gone.receive_some() == b""
        async with await there.log_in() as client:
            assert await client.rows("select 1") == ["1"]
        await there.ready(2)
        tunnels = there.edge.running.service.tunnels
        assert tunnels is not None
        assert tunnels.refusals >= 12
        said = [entry["error"] for entry in there.both.log.find("tunnel refused")]
        assert len(said) == len(set(said))
        assert "the other side speaks HTTP" in said
        for stranger in silent:
            await stranger.aclose()


async def test_too_many_ready_are_refused(postgres: LocalPostgres, papers: Papers) -> None:
    """An origin that keeps more ready than the edge wants gets `max_ready`, both sides say so, and those that
    it has serve.
    """
    async with tunnelled(
        postgres, papers, edge={"scheme": "postgresql"}, listen={"max_ready": 3}, ready=5
    ) as there:
        failed = await there.both.log.wait_for("tunnel failed")
        assert failed["error"] == f"the edge refuses: 3 of {NAME} are ready already"
        await there.both.log.wait_for("tunnel refused")
        assert there.numbers.ready <= 5
        async with await there.log_in() as client:
            assert await client.rows("select 1") == ["1"]


async def test_who_is_used_least_is_taken(postgres: LocalPostgres, papers: Papers) -> None:
    """Two processes of one origin get the same share of an edge's links."""
    large = {"database": {"pool_size": 8}}
    async with tunnelled(postgres, papers, edge=dict(large), origin=dict(large)) as there:
        config = origin_config(postgres, papers.dial(there.wire.address), **large)
        second = await there.both.start(config)
        await there.ready(4)
        peers = [await there.log_in() for _ in range(8)]
        await there.ready(8)
        there.edge.running.origin.retire_servers("the test")
        for peer in peers:
            await peer.rows("begin")
        async with trio.open_nursery() as nursery:
            for peer in peers:
                nursery.start_soon(peer.rows, "select pg_sleep(0.05)")
        used = [
            dialler.used
            for started in (there.origin, second)
            for dialler in started.running.service.dialling.diallers
        ]
        assert sum(used) >= 8
        assert abs(used[0] - used[1]) <= 2
        for peer in peers:
            await peer.rows("rollback")
            peer.close()


async def test_edges_come_and_go_with_a_reload(postgres: LocalPostgres, papers: Papers) -> None:
    """An edge is added to an origin, then the first is taken away: its ready tunnels are closed, a client
    that uses one goes on; nobody is restarted.
    """
    async with tunnelled(postgres, papers) as there:
        await until_served(there.edge)
        other = await there.both.start(edge_config(papers.listen()))
        assert other.running.service.tunnels is not None
        second = other.running.service.tunnels.address
        lines = await reload(there.origin, origin_config(postgres, papers.dial(there.wire.address, second)))
        assert lines == [
            f"tunnel.dial.edges-0.edges: [{there.wire.address}] -> [{there.wire.address}, {second}]"
        ]
        await until_served(other)
        async with await there.log_in() as client:
            await client.rows("begin")
            assert await client.rows("select 1") == ["1"]
            await reload(there.origin, origin_config(postgres, papers.dial(second, ready=6)))
            await there.edge.running.until(lambda: there.numbers.ready == 0)
            assert await client.rows("select 2") == ["2"]
            await client.rows("rollback")
        tunnels = other.running.service.tunnels
        await other.running.until(lambda: tunnels.numbers[NAME].ready == 6)


async def test_origins_come_and_go_with_a_reload(postgres: LocalPostgres, papers: Papers) -> None:
    """Who may connect to an edge is changed while it runs; where it listens takes a restart: that is said."""
    berlin = papers.issue("berlin.pem", "berlin")
    async with tunnelled(postgres, papers, certificate=berlin) as there:
        await there.both.log.wait_for("tunnel failed")
        config = edge_config(papers.listen(origins=[NAME, "berlin"], address="127.0.0.1:1"))
        lines = await reload(there.edge, config)
        assert lines == [
            "tunnel.listen.address: still 127.0.0.1:0, takes a restart to become 127.0.0.1:1",
            f"tunnel.listen.origins: [{NAME}] -> [{NAME}, berlin]",
        ]
        assert there.edge.running.service.tunnels is not None
        await there.edge.running.until(
            lambda: there.edge.running.service.tunnels.numbers["berlin"].ready == 4  # type: ignore[union-attr]
        )
        mark = there.both.log.mark()
        await reload(there.edge, edge_config(papers.listen()))
        lost = await there.both.log.wait_for("tunnel lost", since=mark, names=["berlin"])
        assert lost["error"] == "it may not come any more"


async def test_files_that_are_no_good_are_named(postgres: LocalPostgres, papers: Papers) -> None:
    """At the start, and when the configuration is read again, which then changes nothing."""
    broken = papers.directory / "broken.pem"
    broken.write_text("nonsense")
    with pytest.raises(OSError, match=r"tunnel\.listen\.certificate cannot be loaded"):
        trio_pool.Service(Config.from_dict(edge_config(papers.listen(certificate=str(broken)))))
    async with tunnelled(postgres, papers) as there:
        with pytest.raises(ConfigurationError) as raised:
            await reload(
                there.origin, origin_config(postgres, papers.dial(there.wire.address, ca=str(broken)))
            )
        (problem,) = raised.value.problems
        assert problem.path == ("tunnel", "dial", "edges-0", "certificate")
        await until_served(there.edge)


async def test_tunnels_are_seen_on_both_sides(postgres: LocalPostgres, papers: Papers) -> None:
    """The census, of which console, metrics and status page are made, has those that are ready and in use,
    and why there are none.
    """
    async with tunnelled(postgres, papers, ready=2) as there:
        await until_served(there.edge)
        await there.ready(2)
        links = there.edge.running.origin.pool.servers
        assert links
        for started, side, peer in ((there.edge, "edge", NAME), (there.origin, "origin", there.wire.address)):
            (seen,) = Census(started.running.service).tunnels()
            assert (seen.side, seen.peer, seen.ready, seen.failure) == (side, peer, 2, None)
            assert seen.used <= seen.taken
            assert seen.good_until is not None
            reading = await Here(started.running.service).reading()
            assert reading.tunnels == [seen]
            (row,) = SHOWS["TUNNELS"].rows(View(started.running.service, Census(started.running.service)))
            assert row[:3] == (side, peer, 2)
        assert there.numbers.used == links
        await there.edge.crash()
        (lost,) = Census(there.origin.running.service).tunnels()
        assert lost.lost == 2
        await there.both.log.wait_for("tunnel failed")
        (failing,) = Census(there.origin.running.service).tunnels()
        assert failing.failure is not None
