"""`/healthz` and `/readyz`, in every state of the pooler."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import trio

import trio_pool
from tests.daemon.web.asking import HTTP, get
from tests.net.harness import origin_url, served
from tests.net.peer import Peer
from tests.support.serving import serving
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres
    from trio_pool.daemon.service import Service

pytestmark = [pytest.mark.e2e, pytest.mark.trio]


async def readiness(service: Service) -> tuple[int, list[str]]:
    """Status of `/readyz`, and what stands in the way."""
    status, body = await ready_body(service)
    assert body["ready"] is (status == 200)
    return status, body["not_ready_because"]


async def ready_body(service: Service) -> tuple[int, Any]:
    answer = await get(service, "/readyz")
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    return answer.status, json.loads(answer.body)


async def assert_alive(service: Service) -> None:
    answer = await get(service, "/healthz")
    assert (answer.status, answer.body) == (200, b"ok\n")


async def test_a_pooler_that_serves_is_ready(postgres: LocalPostgres) -> None:
    """Before the first client, and after it; with the origins, and no password in them."""
    async with serving(postgres, http=HTTP) as running:
        assert await readiness(running.service) == (200, [])
        async with await running.log_in() as peer:
            await peer.rows("select 1")
            status, body = await ready_body(running.service)
        await assert_alive(running.service)
    assert status == 200
    assert body == {
        "ready": True,
        "not_ready_because": [],
        "databases": [
            {
                "database": DATABASE,
                "origin": origin_url(postgres),
                "state": "active",
                "reachable": True,
                "failure": None,
            }
        ],
    }


async def test_a_pause_of_everything_is_not_ready(postgres: LocalPostgres) -> None:
    """One database that is paused or disabled is named, all of them are a reason to go elsewhere."""
    async with serving(postgres, databases={DATABASE: {}, "second": {}}, http=HTTP) as running:
        service = running.service
        await service.operations.pause(DATABASE)
        status, body = await ready_body(service)
        assert status == 200
        assert [one["state"] for one in body["databases"]] == ["paused", "active"]
        service.operations.disable("second")
        assert await readiness(service) == (503, ["every database is disabled or paused"])
        await assert_alive(service)
        service.operations.enable("second")
        await service.operations.resume(DATABASE)
        assert await readiness(service) == (200, [])
        await service.operations.pause(None)
        assert await readiness(service) == (503, ["every database is paused"])
        await service.operations.resume(None)
        assert await readiness(service) == (200, [])


async def test_a_suspended_pooler_is_not_ready(postgres: LocalPostgres) -> None:
    """While nobody is read from, the web is still served."""
    async with serving(postgres, http=HTTP) as running:
        await running.service.operations.suspend()
        assert await readiness(running.service) == (503, ["suspended"])
        await assert_alive(running.service)
        await running.service.operations.resume(None)
        assert await readiness(running.service) == (200, [])


async def test_while_it_drains_it_is_alive_but_not_ready(postgres: LocalPostgres) -> None:
    """From `stop` until the last client has left."""
    async with serving(postgres, http=HTTP) as running, await running.log_in() as peer:
        await peer.rows("begin")
        await peer.rows("select 1")
        running.service.stop()
        await running.log.wait_for("stopping")
        assert await readiness(running.service) == (503, ["stopping"])
        await assert_alive(running.service)
        await peer.send(b"X\0\0\0\4")
        await running.log.wait_for("stopped")


async def test_one_origin_that_is_down_is_named_and_all_are_not_ready(postgres: LocalPostgres) -> None:
    """As long as some database can be served, clients are welcome."""
    listener = trio.socket.socket()
    with listener:  # bound, so that nobody else gets the port, but not listening
        await listener.bind(("127.0.0.1", 0))
        nowhere = f"postgresql://{USER}@127.0.0.1:{listener.getsockname()[1]}/{DATABASE}"
        databases = {DATABASE: {}, "lost": {"origin": nowhere}}
        timeouts = {"lease_wait": "100ms", "client_login": "300ms"}
        async with serving(postgres, databases=databases, http=HTTP, timeouts=timeouts) as running:
            async with await Peer.connect(running.address) as peer:
                with pytest.raises(AssertionError, match="cannot connect"):
                    await peer.start({"user": USER, "database": "lost"})
            await running.log.wait_for("server connect failed")
            status, body = await ready_body(running.service)
            assert status == 200
            reachable = {one["database"]: one["reachable"] for one in body["databases"]}
            assert reachable == {DATABASE: True, "lost": False}
            (failure,) = [one["failure"] for one in body["databases"] if one["database"] == "lost"]
            assert "refused" in failure
        async with serving(nowhere, http=HTTP, timeouts=timeouts) as running:
            assert await readiness(running.service) == (200, [])  # nobody has tried yet
            async with await Peer.connect(running.address) as peer:
                with pytest.raises(AssertionError):
                    await peer.start({"user": USER, "database": DATABASE})
            await running.log.wait_for("server connect failed")
            assert await readiness(running.service) == (503, ["no origin is reachable"])
            await assert_alive(running.service)


async def test_a_user_whom_postgresql_does_not_know_makes_nothing_unready(postgres: LocalPostgres) -> None:
    """Where clients log in as themselves, what one of them is told is no news of the origin."""
    config = trio_pool.Config.from_dict(
        {
            "listen": {"addresses": ["127.0.0.1:0"]},
            "auth": {"method": "trust"},
            "users": {USER: {"password": PASSWORD}},
            "databases": {
                "own": {"origin": f"postgresql://{postgres.host}:{postgres.port}/{DATABASE}?sslmode=disable"}
            },
            "http": HTTP,
        }
    )
    async with served(config, 30.0) as running:
        async with await Peer.connect(running.address) as peer:
            with pytest.raises(AssertionError):
                await peer.start({"user": "stranger", "database": "own"})
        await running.log.wait_for("server connect failed")
        assert await readiness(running.service) == (200, [])
