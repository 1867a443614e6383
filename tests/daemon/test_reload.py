"""Another configuration while it runs: what is applied, to whom, and that nobody notices who need not."""

from __future__ import annotations

import copy
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import trio

import trio_pool
from tests.net.harness import Running, canary, origin_url, served, watcher
from tests.net.peer import Peer
from tests.support.serving import server_pids
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.config.problems import ConfigurationError
from trio_pool.errors import ServerFault
from trio_pool.wire import messages

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = [pytest.mark.e2e, pytest.mark.trio]

PID = "select pg_backend_pid()"
ROTATED = "rotated"
Table = dict[str, Any]


@attrs.define(eq=False)
class Reloading:
    """A pooler, and the file that it was started with as nested dicts, to be changed and reloaded."""

    running: Running
    file: Table

    async def reload(self) -> list[str]:
        return await self.running.service.operations.reload(trio_pool.Config.from_dict(self.file))


@asynccontextmanager
async def reloading(pg: LocalPostgres, **tables: Any) -> AsyncIterator[Reloading]:
    """One database, "app", with a pool of 2."""
    file: Table = {
        "listen": {"addresses": ["127.0.0.1:0"]},
        "auth": {"method": "trust"},
        "users": {USER: {"password": PASSWORD}},
        "databases": {DATABASE: {"origin": origin_url(pg), "password": PASSWORD, "pool_size": 2}},
        "timeouts": {"lease_wait": "10s"},
        **copy.deepcopy(tables),
    }
    async with served(trio_pool.Config.from_dict(file), 40.0) as running:
        yield Reloading(running, file)


@asynccontextmanager
async def rotating_role(pg: LocalPostgres) -> AsyncIterator[Peer]:
    """A role "rotated" with a password, and a superuser who can change it."""
    async with watcher(pg) as admin:
        await admin.rows(f"create role {ROTATED} login password 'old'")
        await admin.rows(f"grant connect on database {DATABASE} to {ROTATED}")
        try:
            yield admin
        finally:
            await admin.rows(f"drop owned by {ROTATED}")
            await admin.rows(f"drop role {ROTATED}")


def rotated_origin(pg: LocalPostgres, password: str) -> Table:
    url = f"postgresql://{ROTATED}@{pg.host}:{pg.port}/{DATABASE}?sslmode=disable"
    return {DATABASE: {"origin": url, "password": password, "pool_size": 2}}


async def refusal(running: Running, **parameters: str) -> tuple[str, str]:
    """SQLSTATE and message for a client that is not let in."""
    async with await Peer.connect(running.address) as peer:
        await peer.send(messages.startup({"user": USER, "database": DATABASE, **parameters}))
        fault = await peer.farewell()
        return fault.sqlstate, fault.summary


# -- nothing, and what cannot be -------------------------------------------------------------------------


async def test_the_same_file_changes_nothing(postgres: LocalPostgres) -> None:
    """A reload without a change says so, and keeps every connection."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        before = await client.rows(PID)
        assert await pool.reload() == []
        assert await client.rows(PID) == before


async def test_all_or_nothing(postgres: LocalPostgres, certificates: Certificates) -> None:
    """One certificate that cannot be loaded, and nothing of the file is applied; the problem has its key."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        good = copy.deepcopy(pool.file)
        pool.file["databases"][DATABASE]["pool_size"] = 1
        pool.file["databases"]["other"] = good["databases"][DATABASE]
        pool.file["listen"]["tls"] = {
            "mode": "allow",
            "certificate": str(certificates.server_certificate),
            "key": str(certificates.ca),  # no key
        }
        with pytest.raises(ConfigurationError, match=r"listen\.tls\.certificate: its certificates cannot be"):
            await pool.reload()
        assert pool.running.log.find("reload failed, nothing has changed") != []
        pool.running.log.entries.clear()
        assert pool.running.service.config == trio_pool.Config.from_dict(good)
        assert pool.running.origin.pool.size == 2
        assert (await refusal(pool.running, database="other"))[0] == "3D000"
        assert await client.rows("select 1") == ["1"]


async def test_what_takes_a_restart_is_named_until_it_is_done(postgres: LocalPostgres) -> None:
    """Addresses stay as they are, and each reload says so; the rest of the file is applied."""
    async with reloading(postgres) as pool:
        pool.file["listen"]["addresses"] = ["127.0.0.1:1"]
        pool.file["listen"]["workers"] = 3
        pool.file["listen"]["max_clients"] = 7
        stays = [
            "listen.addresses: still [127.0.0.1:0], takes a restart to become [127.0.0.1:1]",
            "listen.workers: still 1, takes a restart to become 3",
        ]
        assert await pool.reload() == [*stays, "listen.max_clients: 10000 -> 7"]
        assert await pool.reload() == stays
        async with await pool.running.log_in() as client:
            assert await client.rows("select 1") == ["1"]


# -- databases -------------------------------------------------------------------------------------------


async def test_databases_come_and_go(postgres: LocalPostgres) -> None:
    """An added one takes clients. Of a removed one, clients leave between transactions, new ones get 3D000,
    and its servers are closed.
    """
    async with reloading(postgres) as pool, await pool.running.log_in() as bystander:
        running = pool.running
        pool.file["databases"]["new"] = dict(pool.file["databases"][DATABASE])
        assert await pool.reload() == ["databases.new: added"]
        busy, idle = await running.log_in(database="new"), await running.log_in(database="new")
        await busy.rows("begin; select 1")

        del pool.file["databases"]["new"]
        assert await pool.reload() == ["databases.new: removed"]
        gone = await idle.farewell()
        assert (gone.sqlstate, gone.summary[:14]) == ("57P01", 'database "new"')
        assert await refusal(running, database="new") == ("3D000", 'database "new" does not exist')
        assert await busy.rows("select 2") == ["2"]
        assert await busy.run("commit") == []
        assert (await busy.farewell()).sqlstate == "57P01"
        await running.until(lambda: len(running.service.pools) == 1)
        busy.close()
        idle.close()
        assert await bystander.rows("select 1") == ["1"]


async def test_a_database_that_comes_back_keeps_who_has_not_left(postgres: LocalPostgres) -> None:
    """Removed and added again within a transaction: its client stays, with its server."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        tables = dict(pool.file["databases"])
        pool.file["databases"] = {"other": tables[DATABASE]}
        await client.rows("begin")
        (pid,) = await client.rows(PID)
        await pool.reload()
        await trio.sleep(0.2)
        pool.file["databases"] = tables
        await pool.reload()
        assert await client.rows(PID) == [pid]
        await client.rows("commit")
        await trio.sleep(0.2)
        assert await client.rows("select 1") == ["1"]


async def test_a_new_origin_is_not_noticed(postgres: LocalPostgres) -> None:
    """Under load: the pool goes over to another origin; a transaction ends where it began."""
    async with reloading(postgres) as pool, await pool.running.log_in() as busy:
        running = pool.running
        await busy.rows("begin")
        (kept,) = await busy.rows(PID)
        async with canary(running, "one") as one:
            before = server_pids(running)
            database = pool.file["databases"][DATABASE]
            database["origin"] += "&application_name=elsewhere"
            (line,) = await pool.reload()
            assert line.startswith("databases.app.origin: postgresql://")
            await one.heard(5)
            assert await busy.rows(PID) == [kept]
            assert await busy.rows("commit") == []
            await running.service.operations.wait_close(None)
            await one.heard(5)
            assert not before & server_pids(running)
        names = await busy.rows(
            "select distinct application_name from pg_stat_activity where usename = 'app'"
        )
        assert "elsewhere" in names


async def test_a_pool_for_all_becomes_one_for_each_user(postgres: LocalPostgres) -> None:
    """An origin's URL loses its user, and gets it back: clients that are there stay, whoever they are, and so
    they do at further reloads; new ones are in the pool that is theirs.
    """
    everybody = {name: {"password": PASSWORD} for name in (USER, "guest")}
    async with reloading(postgres, users=everybody, auth={"method": "scram-sha-256"}) as pool:
        running, users = pool.running, "select session_user"
        pool.file["auth"]["method"] = "trust"
        await pool.reload()
        async with await running.log_in(user="guest") as guest, await running.log_in() as client:
            assert await guest.rows(users) == [USER]
            database = pool.file["databases"][DATABASE]
            shared = dict(database)
            own = {"origin": database["origin"].replace(f"{USER}@", ""), "pool_size": 2}
            for table in (own, shared, own):
                pool.file["databases"][DATABASE] = table
                for _ in range(2):
                    await pool.reload()
                    assert await guest.rows(users) == [USER]
                    assert await client.rows(users) == [USER]
            async with await Peer.connect(running.address) as stranger:
                await stranger.send(messages.startup({"user": "guest", "database": DATABASE}))
                assert (await stranger.farewell()).sqlstate[:2] in ("28", "08")
            assert {key.user for key in running.service.pools} == {USER, "guest"}


async def test_sizes_grow_and_shrink_under_load(postgres: LocalPostgres) -> None:
    """Nobody notices; what is too much goes when it is given back."""
    async with reloading(postgres) as pool, await pool.running.log_in() as busy:
        running = pool.running
        await busy.rows("begin; select 1")
        async with canary(running, "one") as one, canary(running, "two"), canary(running, "three"):
            for size in (1, 4, 2, 1, 3):
                pool.file["databases"][DATABASE]["pool_size"] = size
                await pool.reload()
                await one.heard(3) if size > 1 else await trio.sleep(0.05)
                assert running.origin.pool.size == size
                # a look at the catalog has a server for a moment, too, and gives it back
                await running.until(lambda: running.origin.pool.servers <= running.origin.pool.size)
                running.check()


async def test_max_servers_comes_changes_and_goes(postgres: LocalPostgres) -> None:
    """What bounds all pools of a database together can be set, lowered and taken away under load."""
    url = f"postgresql://{postgres.host}:{postgres.port}/{DATABASE}?sslmode=disable"
    databases = {DATABASE: {"origin": url, "pool_size": 3}}
    async with reloading(postgres, databases=databases, auth={"method": "scram-sha-256"}) as pool:
        running = pool.running
        async with trio.open_nursery() as nursery:

            async def work() -> None:
                async with await Peer.log_in_by_password(running.address) as peer:
                    while True:
                        assert await peer.rows("select 1") == ["1"]

            for _ in range(4):
                nursery.start_soon(work)
            for most in (2, 1, 3, 0):
                pool.file["databases"][DATABASE]["max_servers"] = most
                await pool.reload()
                for _ in range(20):
                    await trio.sleep(0.01)
                    running.check()
                assert running.origin.pool.servers <= (most or 3)
            nursery.cancel_scope.cancel()


async def test_a_changed_mode_holds_for_clients_that_are_there(postgres: LocalPostgres) -> None:
    """From transactions to sessions and back, and nothing of one session is another's."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        database = pool.file["databases"][DATABASE]
        assert await client.rows("select 1") == ["1"]
        database["pool_mode"] = "session"
        await pool.reload()
        (pid,) = await client.rows(PID)
        assert len(pool.running.origin.pool.leased) == 1
        await client.rows("set work_mem = '5MB'")
        database["pool_mode"] = "transaction"
        await pool.reload()
        assert await client.rows("show work_mem") == ["5MB"]
        await pool.running.service.operations.wait_close(None)
        assert int(pid) not in server_pids(pool.running)
        assert await client.rows("show work_mem") == ["5MB"]
        async with await pool.running.log_in() as other:
            assert await other.rows("show work_mem") == ["4MB"]


async def test_bounds_of_users_come_and_go_under_load(postgres: LocalPostgres) -> None:
    """`max_leases_per_user` where readers have shared servers, and back."""
    async with reloading(postgres) as pool, trio.open_nursery() as nursery:
        running = pool.running

        async def read() -> None:
            async with await running.log_in() as peer:
                while True:
                    assert await peer.rows("select 1") == ["1"]

        for _ in range(6):
            nursery.start_soon(read)
        for bound in (1, 2, 0, 1, 0):
            await trio.sleep(0.1)
            pool.file["databases"][DATABASE]["max_leases_per_user"] = bound
            await pool.reload()
            await running.until(lambda bound=bound: (running.origin.pool.shares is not None) == (bound > 0))  # type: ignore[misc]
            running.check()
        await trio.sleep(0.1)
        running.check()
        nursery.cancel_scope.cancel()


# -- credentials -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["origin", "file"])
async def test_a_password_of_an_origin_rotates(postgres: LocalPostgres, first: str) -> None:
    """Under load, with servers opened all the while, the database and the file changed in either order: no
    client gets an error.
    """
    async with rotating_role(postgres) as admin:
        databases = rotated_origin(postgres, "old")
        async with reloading(postgres, databases=databases) as pool:
            running = pool.running
            running.user = ROTATED

            async def change(what: str, password: str) -> None:
                if what == "origin":
                    await admin.rows(f"alter role {ROTATED} password '{password}'")
                else:
                    pool.file["databases"] = rotated_origin(postgres, password)
                    assert await pool.reload() == ["databases.app.password: changed"]

            async with canary(running, "one") as one, canary(running, "two"):
                for number in range(3):
                    password = f"new {number}"
                    await change(first, password)
                    running.service.operations.reconnect(None)  # no server of before is left
                    await trio.sleep(0.3)
                    await change("file" if first == "origin" else "origin", password)
                    running.service.operations.reconnect(None)
                    await one.heard(5)
            assert running.log.find("server connect failed") != [] or first == "file"


async def test_users_and_passwords(postgres: LocalPostgres) -> None:
    """Users come, go and get other passwords; who is connected stays."""
    async with reloading(postgres, auth={"method": "scram-sha-256"}) as pool:
        running = pool.running
        async with await Peer.log_in_by_password(running.address) as client:
            pool.file["users"][USER]["password"] = "another"
            assert await pool.reload() == ["users.app.password: changed"]
            assert await client.rows("select 1") == ["1"]
            with pytest.raises(ServerFault):
                await Peer.log_in_by_password(running.address)
            async with await Peer.log_in_by_password(running.address, "another") as new:
                assert await new.rows("select 1") == ["1"]
            pool.file["users"] = {"somebody": {"password": "else"}}
            assert await pool.reload() == ["users.somebody: added", "users.app: removed"]
            with pytest.raises(ServerFault):
                await Peer.log_in_by_password(running.address, "another")
            assert await client.rows("select 1") == ["1"]


async def test_rules_and_limits_hold_for_new_clients(postgres: LocalPostgres) -> None:
    """`auth.rules` and `max_clients` at once; nobody who is there is sent away."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        pool.file["auth"]["rules"] = [{"user": USER, "method": "reject"}]
        await pool.reload()
        assert (await refusal(pool.running))[0] == "28000"
        pool.file["auth"]["rules"] = []
        pool.file["listen"]["max_clients"] = 1
        await pool.reload()
        assert (await refusal(pool.running))[0] == "53300"
        assert await client.rows("select 1") == ["1"]


# -- time limits and sessions ----------------------------------------------------------------------------


async def test_time_limits_hold_for_clients_that_are_there(postgres: LocalPostgres) -> None:
    """Also for a statement that runs already, and for a client that waits."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        await client.send(messages.query("select pg_sleep(60)"))
        await pool.running.until(lambda: len(pool.running.origin.pool.leased) == 1)
        pool.file["timeouts"]["query"] = "100ms"
        assert await pool.reload() == ["timeouts.query: 0 -> 100ms"]
        assert [error.sqlstate for error in await client.errors()] == ["57014"]
        pool.file["users"][USER]["timeouts"] = {"query": "0"}
        pool.file["timeouts"]["server_lifetime"] = "1s"
        await pool.reload()
        assert await client.rows("select pg_sleep(0.3)") == [""]
        before = server_pids(pool.running)
        await pool.running.until(lambda: not before & server_pids(pool.running))


async def test_options_of_sessions_hold_for_clients_that_are_there(postgres: LocalPostgres) -> None:
    """`unpoolable` and `deferred_begin`."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        await client.rows("begin")
        assert pool.running.origin.pool.leased == {}
        await client.rows("commit")
        pool.file["session"] = {"unpoolable": "reject", "deferred_begin": False}
        assert await pool.reload() == [
            "session.unpoolable: pin -> reject",
            "session.deferred_begin: true -> false",
        ]
        await client.rows("begin")
        assert len(pool.running.origin.pool.leased) == 1
        await client.rows("commit")
        (error,) = await client.run("create temporary table t ()")
        assert error.sqlstate == "0A000"


# -- TLS -------------------------------------------------------------------------------------------------


async def test_tls_comes_and_changes(postgres: LocalPostgres, certificates: Certificates) -> None:
    """New connections use the certificate that is there at the reload, or must use one; others stay."""
    async with reloading(postgres) as pool, await pool.running.log_in() as client:
        pool.file["listen"]["tls"] = {
            "mode": "require",
            "certificate": str(certificates.server_certificate),
            "key": str(certificates.server_key),
        }
        await pool.reload()
        assert (await refusal(pool.running))[0] == "28000"
        async with await Peer.connect(pool.running.address) as new:
            await new.encrypt(certificates.client_context())
            await new.start({"user": USER, "database": DATABASE})
            assert await new.rows("select 1") == ["1"]
        assert await client.rows("select 1") == ["1"]
