"""Every command that does something, through psql and through drivers. What each does is tested with the
operations; here, that it is called, and what is answered.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

from tests.daemon.console.ways import WAYS, Refused, Way, psql, run_psql
from tests.support.raw import RawClient
from trio_pool.wire import messages
from trio_pool.wire.tags import Backend

if TYPE_CHECKING:
    from tests.support.pooler import Pooler


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return WAYS[request.param]


def state_of(own: Pooler) -> dict[str, str]:
    return {row["key"]: row["value"] for row in psql(own, "SHOW STATE")}


def column(own: Pooler, name: str) -> str:
    return str({row["name"]: row for row in psql(own, "SHOW DATABASES")}["app"][name])


def refused(way: Way, own: Pooler, command: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        way(own, command)


def test_pause_and_resume(own: Pooler, way: Way) -> None:
    """Of one database and of all, seen in the tables; what makes no sense is refused in PgBouncer's words."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.value("select 1") == "1"
        refused(way, own, "RESUME", "pooler is not paused/suspended")
        refused(way, own, "RESUME app", "database app is not paused")
        refused(way, own, "PAUSE nowhere", "no such database: nowhere")
        refused(way, own, "PAUSE pgbouncer", "cannot pause admin db: pgbouncer")
        assert way(own, "PAUSE app") == []
        assert (column(own, "paused"), column(own, "current_connections")) == ("1", "0")
        assert way(own, "RESUME app") == []
        assert way(own, "PAUSE") == []
        assert state_of(own) == {"active": "no", "paused": "yes", "suspended": "no"}
        refused(way, own, "PAUSE", "already suspended/paused")
        assert way(own, "RESUME;") == []
        assert state_of(own) == {"active": "yes", "paused": "no", "suspended": "no"}
        assert client.value("select 2") == "2"


def test_suspend(own: Pooler, way: Way) -> None:
    """Clients are not read, until RESUME."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert way(own, "SUSPEND") == []
        assert state_of(own) == {"active": "no", "paused": "no", "suspended": "yes"}
        client.send(messages.query("select 1"))
        assert way(own, "RESUME") == []
        assert client.errors() == []


def test_disable_and_enable(own: Pooler, way: Way) -> None:
    """New clients are let in or not."""
    refused(way, own, "DISABLE", "a database is required")
    assert way(own, "DISABLE app") == []
    assert column(own, "disabled") == "1"
    assert run_psql(own.pg, own.host, own.port, "select 1", user="app", database="app").returncode == 2
    assert way(own, "ENABLE app") == []
    assert run_psql(own.pg, own.host, own.port, "select 1", user="app", database="app").returncode == 0


def test_reconnect_and_wait_close(own: Pooler, way: Way) -> None:
    """Idle servers are replaced, and one that is in use when it is given back, which can be waited for."""
    with RawClient.log_in((own.host, own.port)) as client:
        before = client.value("select pg_backend_pid()")
        assert way(own, "RECONNECT app") == []
        assert way(own, "WAIT_CLOSE app") == []
        assert client.run("begin") == []
        between = client.value("select pg_backend_pid()")
        assert between != before
        assert way(own, "RECONNECT") == []
        assert {row["close_needed"] for row in psql(own, "SHOW SERVERS")} == {"1"}
        assert client.run("commit") == []
        assert way(own, "WAIT_CLOSE") == []
        assert client.value("select pg_backend_pid()") != between


def test_kill(own: Pooler, way: Way) -> None:
    """A database's clients are gone, and new ones wait until RESUME."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.run("begin; select 1") == []
        assert way(own, "KILL app") == []
        assert client.farewell() == ("FATAL", "57P01")
        assert column(own, "paused") == "1"
        assert way(own, "RESUME app") == []


def test_kill_client(own: Pooler, way: Way) -> None:
    """One client, by the id that SHOW CLIENTS has for it."""
    refused(way, own, "KILL_CLIENT", "invalid client pointer supplied")
    refused(way, own, "KILL_CLIENT 1", "client not found")
    with RawClient.log_in((own.host, own.port)) as client, RawClient.log_in((own.host, own.port)) as other:
        port = str(client.sock.getsockname()[1])
        (found,) = (row["id"] for row in psql(own, "SHOW CLIENTS") if row["port"] == port)
        assert way(own, f"KILL_CLIENT {found}") == []
        assert client.farewell() == ("FATAL", "57P01")
        assert other.value("select 1") == "1"


def test_reload(own: Pooler, way: Way) -> None:
    """Reads the file again; psql prints what has changed, or what is wrong."""
    text = own.config_path.read_text()
    another = text.replace('"pool_size" = 2', '"pool_size" = 4')
    assert another != text
    own.config_path.write_text(another)
    assert way(own, "RELOAD") == []
    assert column(own, "pool_size") == "4"
    own.config_path.write_text(text)
    done = run_psql(own.pg, own.host, own.port, "RELOAD", user="admin")
    assert done.stderr == "NOTICE:  databases.app.pool_size: 4 -> 2\n"
    own.config_path.write_text("[databases")
    refused(way, own, "RELOAD", "RELOAD failed, see logs for additional details")
    done = run_psql(own.pg, own.host, own.port, "RELOAD", user="admin")
    assert "not TOML" in done.stderr


def test_set(own: Pooler, way: Way) -> None:
    """By the file's names and by PgBouncer's; as checked as the file; until the next reload."""
    assert way(own, "SET databases.app.pool_size = 5") == []
    assert way(own, "SET query_timeout = 7") == []
    assert way(own, "SET admin_users = 'admin, app'") == []
    config = {row["key"]: row["value"] for row in psql(own, "SHOW CONFIG")}
    assert (config["databases.app.pool_size"], column(own, "pool_size")) == ("5", "5")
    assert (config["query_timeout"], config["timeouts.query"]) == ("7", "7s")
    assert config["databases.app.timeouts.query"] == "7s"
    assert config["admin.users"] == '["admin", "app"]'
    for wrong in (
        "SET databases.app.pool_size = 0",
        "SET databases.app.min_pool_size = 6",
        "SET listen.workers = 2",
        "SET databases.app.origin = 'postgresql://elsewhere/app'",
        "SET users.app.password = 'x'",
        "SET nothing_like_it = 1",
    ):
        refused(way, own, wrong, "SET failed")
    assert way(own, "RELOAD") == []
    assert column(own, "pool_size") == "2"


def test_set_names_the_nearest_key(own: Pooler) -> None:
    """As the errors of commands do; and says why it cannot be."""
    with pytest.raises(Refused, match=r"HINT:  The nearest key is max_client_conn\."):
        psql(own, "SET max_client_con = 7")
    with pytest.raises(Refused, match=r"DETAIL:  listen.workers takes a restart\."):
        psql(own, "SET listen.workers = 7")


def test_purge_cache(own: Pooler, way: Way) -> None:
    """Of everything, a database, a table, a tag; it says how many answers that were."""
    assert way(own, "PURGE CACHE") == []
    assert way(own, "PURGE CACHE app") == []
    assert way(own, "PURGE CACHE app TABLE pg_class") == []
    assert way(own, "PURGE CACHE app TAG prices") == []
    refused(way, own, "PURGE CACHE nowhere", "no such database: nowhere")
    refused(way, own, "PURGE CACHE app ELSE", "expected PURGE CACHE")
    done = run_psql(own.pg, own.host, own.port, "PURGE CACHE", user="admin")
    assert done.stderr == "NOTICE:  0 entries purged\n"


@pytest.mark.parametrize(("mode", "status"), [("", 1), (" WAIT_FOR_SERVERS", 0), (" wait_for_clients", 0)])
def test_shutdown(own: Pooler, way: Way, mode: str, status: int) -> None:
    """Answered, then the process ends, with the exit status that says how."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.value("select 1") == "1"
        assert way(own, f"SHUTDOWN{mode}") == []
    assert own.wait_for_end() == status


def test_a_command_that_waits_can_be_cancelled(own: Pooler) -> None:
    """Ctrl-C in psql ends a PAUSE that a transaction holds up; it is as if it had not been given."""
    with RawClient.log_in((own.host, own.port)) as client, RawClient.connect((own.host, own.port)) as console:
        assert client.run("begin; select 1") == []
        console.send(messages.startup({"user": "admin", "database": "pgbouncer"}))
        key = dict(console.exchange())[Backend.BACKEND_KEY_DATA]
        console.send(messages.query("PAUSE app"))
        while column(own, "paused") != "1":
            pass
        with RawClient.connect((own.host, own.port)) as request:
            request.send(messages.cancel_request(*messages.read_backend_key_data(key)))
            assert request.receive() is None
        assert [error.sqlstate for error in console.errors()] == ["57014"]
        assert column(own, "paused") == "0"
        assert console.value("SHOW VERSION").startswith("PgBouncer 1.24.1")


def test_who_leaves_does_not_go_on_waiting(own: Pooler) -> None:
    """A console that is gone undoes its PAUSE, so that nobody has to guess who has forgotten it."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.run("begin; select 1") == []
        with RawClient.log_in((own.host, own.port), user="admin", database="pgbouncer") as console:
            console.send(messages.query("PAUSE app"))
            while column(own, "paused") != "1":
                pass
        while column(own, "paused") != "0":
            pass
        assert client.run("commit") == []


def test_the_console_watches_the_others_leave(own: Pooler) -> None:
    """It is served while the pooler drains, and told 57P01 in the end."""
    with (
        RawClient.log_in((own.host, own.port)) as client,
        RawClient.log_in((own.host, own.port), user="admin", database="pgbouncer") as console,
    ):
        assert client.run("begin; select 1") == []
        own.signal(signal.SIGTERM)
        own.wait_for_event("stopping")
        console.send(messages.query("SHOW LEASES"))
        assert sum(tag == Backend.DATA_ROW for tag, _ in console.exchange()) == 1
        assert client.run("commit") == []
        assert console.farewell() == ("FATAL", "57P01")


def test_two_consoles(own: Pooler) -> None:
    """One waits, the other works and lets it go on."""
    with RawClient.log_in((own.host, own.port)) as client:
        assert client.run("begin; select 1") == []
        waiting = threading.Thread(target=psql, args=(own, "PAUSE app"))
        waiting.start()
        while column(own, "paused") != "1":
            pass
        assert client.run("commit") == []
        waiting.join()
        assert psql(own, "RESUME app") == []
