"""Configurations that are accepted, and what they come to. What is refused is in test_problems."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

import attrs
import pytest

from trio_pool.config import (
    Admin,
    Auth,
    AuthMethod,
    Cache,
    ClientTimeouts,
    Config,
    Database,
    Http,
    Invalidation,
    Listen,
    ListenTLS,
    Origin,
    PoolMode,
    Rule,
    Secret,
    Session,
    SslMode,
    TcpAddress,
    Timeouts,
    TlsMode,
    UnixAddress,
    Unpoolable,
    User,
    parse,
    read,
)

COMPLETE = Path(__file__).with_name("complete.toml")
MINIMAL = '[databases.app]\norigin = "postgresql://db"\n'


def test_the_complete_example_is_read() -> None:
    """Every documented key is accepted, with the meaning that it is documented to have."""
    timeouts = Timeouts(
        client_login=15.0,
        client_idle=math.inf,
        lease_wait=15.0,
        wait_notice=math.inf,
        query=math.inf,
        transaction=math.inf,
        idle_in_transaction=60.0,
        server_connect=15.0,
        server_idle=600.0,
        server_lifetime=3600.0,
        cancel=5.0,
        drain=30.0,
        hand_over=300.0,
    )
    expected = Config(
        listen=Listen(
            addresses=(TcpAddress("127.0.0.1", 6432),),
            workers=1,
            max_clients=10_000,
            tls=ListenTLS(
                mode=TlsMode.DISABLE,
                certificate=Path("/etc/x/server.crt"),
                key=Path("/etc/x/server.key"),
                client_ca=Path("/etc/x/clients.crt"),
            ),
        ),
        auth=Auth(method=AuthMethod.SCRAM_SHA_256, query="...", rules=()),
        users={
            "alice": User(
                "alice",
                Secret("SCRAM-SHA-256$4096:..."),
                max_leases=10,
                timeouts=ClientTimeouts(query=30.0),
            )
        },
        databases={
            "app": Database(
                "app",
                Origin(
                    hosts=(("db.internal", 5432),),
                    user="pool_user",
                    password=Secret("hunter2"),
                    dbname="app",
                    sslmode=SslMode.VERIFY_FULL,
                ),
                pool_mode=PoolMode.TRANSACTION,
                pool_size=20,
                min_pool_size=0,
                max_waiting=0,
                queue_ahead=8,
                max_leases_per_user=0,
                max_servers=0,
                timeouts=timeouts,
                cache=Cache(
                    enabled=False,
                    max_age=60.0,
                    stale_while_revalidate=15.0,
                    max_result_size=50 * 1024**2,
                    max_size=256 * 1024**2,
                    invalidation=Invalidation.WRITES,
                ),
            )
        },
        timeouts=timeouts,
        session=Session(unpoolable=Unpoolable.PIN, deferred_begin=True),
        admin=Admin(users=("admin",)),
        http=Http(address=TcpAddress("127.0.0.1", 6480)),
    )
    text = COMPLETE.read_text("utf-8")
    assert parse(text, environ={"APP_PASSWORD": "hunter2"}, base=Path("/etc/x")) == expected


def test_the_complete_example_shows_the_defaults() -> None:
    """An example that differs from its default would mislead; only what belongs to a site does."""
    example = parse(COMPLETE.read_text("utf-8"), environ={"APP_PASSWORD": "x"})
    plain = parse(MINIMAL)
    assert attrs.evolve(example.listen, tls=ListenTLS()) == plain.listen
    assert attrs.evolve(example.auth, query=None) == plain.auth
    assert example.timeouts == plain.timeouts
    assert example.session == plain.session
    assert (
        attrs.evolve(example.databases["app"], origin=plain.databases["app"].origin) == plain.databases["app"]
    )


def test_values_that_are_not_the_defaults_arrive() -> None:
    """Each key is read into its own field."""
    config = parse(
        """
        [listen]
        addresses = ["[::1]:0", "unix:/run/x/.s.PGSQL.6432"]
        workers = "auto"
        max_clients = 7
        [auth]
        method = "md5"
        allow_cleartext_without_tls = true
        [databases.app]
        origin = "postgres://h1:1,h2:2/x?application_name=pool"
        pool_mode = "session"
        pool_size = 5
        min_pool_size = 5
        max_waiting = 100
        queue_ahead = 0
        [databases.app.cache]
        enabled = true
        max_age = "1h"
        stale_while_revalidate = 0
        max_result_size = "1MB"
        max_size = "2MB"
        invalidation = "ttl"
        [session]
        unpoolable = "reject"
        deferred_begin = false
        max_prepared_statements = 10
        server_prepared_statements = 11
        [admin]
        users = ["x", "y"]
        """
    )
    assert config == Config(
        listen=Listen((TcpAddress("::1", 0), UnixAddress("/run/x/.s.PGSQL.6432")), "auto", 7),
        auth=Auth(AuthMethod.MD5, allow_cleartext_without_tls=True),
        databases={
            "app": Database(
                "app",
                Origin((("h1", 1), ("h2", 2)), dbname="x", parameters={"application_name": "pool"}),
                PoolMode.SESSION,
                5,
                5,
                100,
                0,
                cache=Cache(True, 3600.0, 0.0, 1024**2, 2 * 1024**2, Invalidation.TTL),
            )
        },
        session=Session(Unpoolable.REJECT, False, 10, 11),
        admin=Admin(("x", "y")),
    )
    assert config.listen.count_workers(cores=6) == 6


def test_timeouts_of_a_database_come_before_the_general_ones() -> None:
    """A database keeps the general limits that it does not override."""
    config = parse(
        f'{MINIMAL}timeouts = {{ query = "1s" }}\n[timeouts]\nquery = "2s"\ntransaction = "3s"\ndrain = 0\n'
    )
    assert config.timeouts == Timeouts(query=2.0, transaction=3.0, drain=math.inf)
    assert config.databases["app"].timeouts == Timeouts(query=1.0, transaction=3.0, drain=math.inf)


def test_shares_are_read() -> None:
    """How much of a pool, and of an origin, one user may have."""
    config = parse(
        """
        [users.alice]
        max_leases = 3
        [users.bob]
        max_leases = 0
        [users.carol]
        [databases.app]
        origin = "postgresql://u@db"
        max_leases_per_user = 5
        max_servers = 50
        """
    )
    assert {name: user.max_leases for name, user in config.users.items()} == {
        "alice": 3,
        "bob": 0,
        "carol": None,
    }
    app = config.databases["app"]
    assert (app.max_leases_per_user, app.max_servers) == (5, 50)


def test_an_origin_without_a_name_is_called_as_the_clients_call_it() -> None:
    """The name that clients connect to is the origin's name too, unless the URL has another."""
    config = parse(
        """
        [databases.app]
        origin = "postgresql://db"
        [databases.reports]
        origin = "postgresql://db/app"
        """
    )
    assert config.databases["app"].origin.dbname == "app"
    assert config.databases["reports"].origin.dbname == "app"


def test_a_password_key_comes_before_the_password_in_the_url(tmp_path: Path) -> None:
    """The environment, a file or the table itself replaces what the URL says."""
    (tmp_path / "secret").write_text("from the file\r\n", "utf-8")
    url = "postgresql://u:inside@db"
    config = parse(
        f"""
        [databases.env]
        origin = "{url}"
        password_env = "PW"
        [databases.file]
        origin = "{url}"
        password_file = "secret"
        [databases.table]
        origin = "{url}"
        password = "from the table"
        [databases.url]
        origin = "{url}"
        """,
        environ={"PW": "from the environment"},
        base=tmp_path,
    )
    passwords = {name: database.origin.password for name, database in config.databases.items()}
    assert passwords == {
        "env": Secret("from the environment"),
        "file": Secret("from the file"),
        "table": Secret("from the table"),
        "url": Secret("inside"),
    }


def test_a_users_password_comes_from_any_of_three_keys(tmp_path: Path) -> None:
    """Users may also have no password, for methods that need none."""
    (tmp_path / "secret").write_text("f", "utf-8")
    users = """
    [users]
    a = { password = "md5d41d8cd98f00b204e9800998ecf8427e" }
    b = { password_env = "PW" }
    c = { password_file = "secret" }
    d = {}
    """
    assert parse(users + MINIMAL, environ={"PW": "e"}, base=tmp_path).users == {
        "a": User("a", Secret("md5d41d8cd98f00b204e9800998ecf8427e")),
        "b": User("b", Secret("e")),
        "c": User("c", Secret("f")),
        "d": User("d"),
    }


def test_files_are_relative_to_the_configuration(tmp_path: Path) -> None:
    """A configuration can be read from any working directory, together with the files it names."""
    for name in ("server.crt", "server.key", "clients.crt", "ca.crt"):
        (tmp_path / name).touch()
    path = tmp_path / "trio-pool.toml"
    path.write_text(
        """
        [listen.tls]
        mode = "require"
        certificate = "server.crt"
        key = "server.key"
        client_ca = "clients.crt"
        [auth]
        method = "cert"
        [databases.app]
        origin = "postgresql://db?sslmode=verify-ca&sslrootcert=ca.crt"
        """,
        "utf-8",
    )
    config = read(path)
    assert config.listen.tls == ListenTLS(
        TlsMode.REQUIRE, tmp_path / "server.crt", tmp_path / "server.key", tmp_path / "clients.crt"
    )
    assert config.databases["app"].origin.sslrootcert == tmp_path / "ca.crt"


@pytest.mark.parametrize(
    "allowed",
    [
        '[listen]\naddresses = ["unix:/run/x/.s.PGSQL.6432"]\n[auth]\nmethod = "password"\n',
        '[auth]\nmethod = "password"\nallow_cleartext_without_tls = true\n',
        '[auth]\nmethod = "password"\n[[auth.rules]]\nmethod = "trust"\n',
        '[listen]\naddresses = ["127.0.0.1:0", "127.0.0.1:0"]\n',
    ],
)
def test_unusual_but_sound_configurations_are_accepted(allowed: str) -> None:
    """The checks refuse what cannot work, not what is merely rare."""
    assert isinstance(parse(allowed + MINIMAL), Config)


def test_from_dict_reads_what_the_file_would_say() -> None:
    """An embedding program gets the same configuration from the same structure."""
    text = COMPLETE.read_text("utf-8")
    environ = {"APP_PASSWORD": "hunter2"}
    base = Path("/etc/x")
    assert Config.from_dict(tomllib.loads(text), environ=environ, base=base) == parse(
        text, environ=environ, base=base
    )


def test_two_readings_of_one_file_are_equal() -> None:
    """A reload of an unchanged file finds nothing changed."""
    text = COMPLETE.read_text("utf-8")
    first, second = (parse(text, environ={"APP_PASSWORD": "x"}) for _ in range(2))
    assert first == second
    assert hash(first) == hash(second)


def test_everything_about_users_and_look_ups(tmp_path: Path) -> None:
    """The keys of `auth.query`, the limits, and a password of the look-up from a file."""
    (tmp_path / "lookup").write_text("secret\n")
    text = """
    [auth]
    query = "q"
    query_user = "u"
    query_password_file = "lookup"
    query_database = "d"
    query_cache = "0"
    rules = [{ method = "reject", database = "a", user = ["b", "c"], address = "unix" }]
    [users.alice]
    max_clients = 3
    pool_size = 4
    [databases.app]
    origin = "postgresql://db"
    max_clients = 5
    [session]
    strict = true
    """
    config = parse(text, base=tmp_path)
    assert config.auth == Auth(
        query="q",
        query_user="u",
        query_password=Secret("secret"),
        query_database="d",
        query_cache=0.0,
        rules=(Rule(AuthMethod.REJECT, database=("a",), user=("b", "c"), address=("unix",)),),
    )
    assert config.users == {"alice": User("alice", max_clients=3, pool_size=4)}
    assert (config.databases["app"].max_clients, config.session.strict) == (5, True)
