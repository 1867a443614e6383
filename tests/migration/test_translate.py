"""What PgBouncer's settings mean, and that the same is meant here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.migration.imports import database, general, import_
from trio_pool.migration.databases import PLACEHOLDER
from trio_pool.migration.problems import CannotImport


def key(table: str, name: str, lines: str, **files: str) -> Any:
    data = general(lines, **files).data
    for step in table.split("."):
        data = data.get(step, {})
    return data.get(name)


@pytest.mark.parametrize(
    ("table", "name", "lines", "value"),
    [
        ("listen", "max_clients", "", 100),
        ("listen", "max_clients", "max_client_conn = 0x10", 16),
        ("listen", "max_clients", "max_client_conn = 5000", 5000),
        ("timeouts", "lease_wait", "", "2min"),
        ("timeouts", "lease_wait", "query_wait_timeout = 15", "15s"),
        ("timeouts", "lease_wait", "query_wait_timeout = 0", "0"),
        ("timeouts", "client_login", "", "1min"),
        ("timeouts", "wait_notice", "", "5s"),
        ("timeouts", "wait_notice", "query_wait_notify = 0", "0"),
        ("timeouts", "idle_in_transaction", "", "0"),
        ("timeouts", "idle_in_transaction", "idle_transaction_timeout = 0.5", "500ms"),
        ("timeouts", "transaction", "transaction_timeout = 90", "90s"),
        ("timeouts", "query", "query_timeout = 3600", "1h"),
        ("timeouts", "client_idle", "client_idle_timeout = 86400", "1d"),
        ("timeouts", "server_idle", "server_idle_timeout = 0", "0"),
        ("timeouts", "server_connect", "server_connect_timeout = 1e1", "10s"),
        ("timeouts", "server_lifetime", "server_lifetime = 0", "1ms"),
        ("timeouts", "server_lifetime", "", None),
        ("session", "server_prepared_statements", "max_prepared_statements = 100", 100),
        ("session", "server_prepared_statements", "max_prepared_statements = 0", None),
        ("admin", "users", "admin_users = a, b,a", ["a", "b"]),
        ("auth", "method", "", "md5"),
        ("auth", "method", "auth_type = SCRAM-SHA-256", "scram-sha-256"),
        ("auth", "method", "auth_type = plain", "password"),
        ("auth", "allow_cleartext_without_tls", "auth_type = plain", True),
        ("auth", "method", "auth_type = pam", "reject"),
        ("auth", "method", "auth_type = trust", "reject"),
        ("listen", "tcp_keepalive_idle", "tcp_keepalive = 0\ntcp_keepidle = 5", "0"),
        ("listen", "tcp_keepalive_idle", "tcp_keepidle = 5", "5s"),
        ("listen", "tcp_user_timeout", "tcp_user_timeout = 2500", "2500ms"),
    ],
)
def test_a_general_setting(table: str, name: str, lines: str, value: object) -> None:
    """With its unit, and PgBouncer's default where ours is another."""
    assert key(table, name, lines) == value


@pytest.mark.parametrize(
    ("lines", "addresses"),
    [
        ("", ["unix:/tmp/.s.PGSQL.6432"]),
        ("listen_addr = *\nunix_socket_dir =", ["0.0.0.0:6432", "[::]:6432"]),
        ("listen_addr = 10.0.0.1 , ::1\nlisten_port = 7000\nunix_socket_dir = /run/", [
            "10.0.0.1:7000", "[::1]:7000", "unix:/run/.s.PGSQL.7000",
        ]),
        ("listen_addr = db\nunix_socket_dir = @abstract", ["db:6432"]),
        ("unix_socket_dir =", ["127.0.0.1:6432"]),
    ],
)  # fmt: skip
def test_addresses(lines: str, addresses: list[str]) -> None:
    """Those of TCP and that of the Unix socket, which is in /tmp unless it is said."""
    assert key("listen", "addresses", lines) == addresses


@pytest.mark.parametrize(
    ("pairs", "lines", "origin"),
    [
        ("", "", "postgresql://%2Ftmp:5432/app"),
        ("", "unix_socket_dir = /run", "postgresql://%2Frun:5432/app"),
        ("host=h", "", "postgresql://h:5432/app"),
        ("host=h port=1 dbname=other", "", "postgresql://h:1/other"),
        ("host=h user='it''s'", "", "postgresql://it%27s@h:5432/app"),
        ("host=::1", "", "postgresql://[::1]:5432/app"),
        ("host=a,b", "", "postgresql://a:5432,b:5432/app?load_balance_hosts=random"),
        ("host=a,b load_balance_hosts=disable", "", "postgresql://a:5432,b:5432/app"),
        ("host=h", "server_tls_sslmode = require\nserver_tls_ca_file = /ca",
        "postgresql://h:5432/app?sslmode=require"),
        ("host=h", "server_tls_sslmode = verify-full\nserver_tls_ca_file = /ca",
         "postgresql://h:5432/app?sslmode=verify-full&sslrootcert=%2Fca"),
        ("host=h timezone='Europe/Kyiv' datestyle='ISO, DMY'", "",
         "postgresql://h:5432/app?options=-c%20datestyle%3DISO%2C%5C%20DMY%20-c%20timezone%3DEurope%2FKyiv"),
        ("host=h application_name=x", "", "postgresql://h:5432/app?application_name=x"),
        ("host=h", "tcp_keepalive = 0", "postgresql://h:5432/app?keepalives=0"),
        ("host=h", "tcp_keepidle = 60", "postgresql://h:5432/app?keepalives_idle=60"),
    ],
)  # fmt: skip
def test_an_origin(pairs: str, lines: str, origin: str) -> None:
    """Host, port, database, user, TLS and what the server is asked for."""
    assert database(pairs, lines)["origin"] == origin


def test_the_fallback_keeps_the_name_that_is_asked_for() -> None:
    """As `*` does."""
    config = import_("[databases]\n* = host=h\n[pgbouncer]\n").config
    found = config.database("anything")
    assert found is not None
    assert str(found.origin) == "postgresql://h:5432/anything"


@pytest.mark.parametrize(
    ("pairs", "lines", "sizes"),
    [
        ("host=h", "", (None, None, None, None)),
        ("host=h", "default_pool_size = 5\nmin_pool_size = 9", (5, 5, None, None)),
        ("host=h pool_size=7 min_pool_size=2", "default_pool_size = 5", (7, 2, None, None)),
        ("host=h", "max_db_connections = 50\nmax_db_client_connections = 80", (None, None, 50, 80)),
        ("host=h max_db_connections=3 min_pool_size=5", "", (None, 3, 3, None)),
        # With a user there is one pool, which whatever bounds the database or the user bounds.
        ("host=h user=u max_db_connections=3", "", (3, None, None, None)),
        ("host=h user=u", "max_user_connections = 4", (4, None, None, None)),
        ("host=h user=u pool_size=0", "", (1, None, None, None)),
        ("host=h pool_size=-1", "default_pool_size = 6", (6, None, None, None)),
        ("host=h", "max_user_connections = 4\ndefault_pool_size = 6", (4, None, None, None)),
    ],
)
def test_sizes(pairs: str, lines: str, sizes: tuple[int | None, ...]) -> None:
    """pool_size, min_pool_size, max_servers and max_clients of a database."""
    table = database(pairs, lines)
    names = ("pool_size", "min_pool_size", "max_servers", "max_clients")
    assert tuple(table.get(name) for name in names) == sizes


@pytest.mark.parametrize(
    ("pairs", "own", "general_mode", "mode"),
    [
        ("host=h", "", "", "session"),
        ("host=h", "", "pool_mode = Transaction", "transaction"),
        ("host=h pool_mode=session", "", "pool_mode = transaction", "session"),
        ("host=h pool_mode=statement", "", "", "transaction"),
        ("host=h user=u pool_mode=session", "u = pool_mode=transaction", "", "transaction"),
        ("host=h", "u = pool_mode=transaction", "", "session"),
    ],
)
def test_pool_mode(pairs: str, own: str, general_mode: str, mode: str) -> None:
    """The user's that the entry names, the database's, the general one, session."""
    ini = f"[databases]\napp = {pairs}\n[users]\n{own}\n[pgbouncer]\n{general_mode}\n"
    assert import_(ini).data["databases"]["app"]["pool_mode"] == mode


@pytest.mark.parametrize(
    ("databases", "own", "lines", "size"),
    [
        ("app = host=h", "pool_size=5", "", 5),
        ("app = host=h", "pool_size=5 max_user_connections=3", "", 3),
        ("app = host=h", "max_user_connections=30", "", None),
        ("app = host=h", "max_user_connections=30", "max_user_connections = 2", 20),
        ("app = host=h\nb = host=h pool_size=4", "max_user_connections=6", "", 4),
        ("app = host=h user=x", "pool_size=5", "", None),
        ("app = host=h", "pool_size=0", "", 1),
    ],
)
def test_pools_of_a_user(databases: str, own: str, lines: str, size: int | None) -> None:
    """A user's own size and bound, in databases where it has a pool of its own."""
    data = import_(f"[databases]\n{databases}\n[users]\nu = {own}\n[pgbouncer]\n{lines}\n").data
    assert data["users"]["u"].get("pool_size") == size


def test_a_users_time_limits() -> None:
    """0 is not given, but for query_wait_timeout, where -1 is."""
    own = "query_timeout=5 transaction_timeout=0 client_idle_timeout=60 query_wait_timeout=0"
    data = import_(f"[databases]\napp = host=h\n[users]\nu = {own}\nv = query_wait_timeout=-1\n").data[
        "users"
    ]
    assert data["u"]["timeouts"] == {"client_idle": "1min", "query": "5s", "lease_wait": "0"}
    assert "timeouts" not in data["v"]


USERS = """\
"a" "clear"
"b" "md5aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
"c" "SCRAM-SHA-256$4096:AA==$BB==:CC=="
"d" ""
"""


def test_passwords_of_users() -> None:
    """All three forms as they are; an empty one is none."""
    data = general("auth_file = users\nmax_user_client_connections = 3", users=USERS).data["users"]
    assert {name: user.get("password") for name, user in data.items()} == {
        "a": "clear",
        "b": "md5" + "a" * 32,
        "c": "SCRAM-SHA-256$4096:AA==$BB==:CC==",
        "d": None,
    }
    assert {user["max_clients"] for user in data.values()} == {3}


@pytest.mark.parametrize(
    ("pairs", "password"),
    [
        ("host=h user=a password=own", "own"),
        ("host=h user=a", "clear"),
        ("host=h user=b", "md5" + "a" * 32),
        ("host=h user=c", None),
        ("host=h user=d", None),
        ("host=h user=stranger", None),
        ("host=h password=unused", None),
    ],
)
def test_the_password_of_an_origin(pairs: str, password: str | None) -> None:
    """That of the entry, or of its user in auth_file if one can log in with it."""
    assert database(pairs, "auth_file = users", users=USERS).get("password") == password


def test_a_secret_that_nobody_can_log_in_with_is_told() -> None:
    """PgBouncer cannot either."""
    found = import_("[databases]\napp = host=h user=c\n[pgbouncer]\nauth_file = users\n", users=USERS)
    assert [text.partition(",")[0] for text in found.translation.attention] == [
        "users:3: the password of c is a SCRAM secret"
    ]


def test_trust_is_for_known_users() -> None:
    """PgBouncer's `trust` asks for no password, but the user must be in auth_file."""
    auth = general("auth_type = trust\nauth_file = users", users=USERS).config.auth
    assert auth.method_for("app", "a", "10.0.0.1", False) == "trust"
    assert auth.method_for("app", "stranger", "10.0.0.1", False) == "reject"


def test_any_is_for_databases_with_a_user() -> None:
    """PgBouncer's `any` cannot serve others."""
    ini = "[databases]\nshared = host=h user=u\nown = host=h\n{}[pgbouncer]\nauth_type = any\n"
    for fallback, unknown in (("", "reject"), ("* = host=h user=u\n", "trust")):
        auth = import_(ini.format(fallback)).config.auth
        methods = [
            auth.method_for(name, "x", None, False) for name in ("shared", "own", "unknown", "pgbouncer")
        ]
        assert methods == ["trust", "reject", unknown, "trust"]


def test_looking_users_up() -> None:
    """With PgBouncer's query, as the user that it names and with that user's password, in its database."""
    ini = (
        "[databases]\napp = host=h\nlookup = host=h dbname=postgres\n* = host=h\n[pgbouncer]\n"
        "auth_user = a\nauth_dbname = lookup\nauth_file = users\n"
    )
    auth = import_(ini, users=USERS).data["auth"]
    assert auth["query"].startswith("SELECT rolname, CASE WHEN rolvaliduntil < now()")
    assert (auth["query_user"], auth["query_password"], auth["query_database"]) == ("a", "clear", "postgres")


def test_nobody_is_looked_up_without_auth_user() -> None:
    """PgBouncer's default query alone does nothing."""
    assert set(general("auth_query = SELECT 1, 2").data["auth"]) == {"method"}


def test_the_fallback_needs_a_database_to_look_users_up_in() -> None:
    """Somebody has to be told, since PgBouncer needs none."""
    found = import_("[databases]\n* = host=h\n[pgbouncer]\nauth_user = u\n")
    assert found.data["auth"]["query_database"] == "postgres"
    assert "auth_query: PgBouncer runs it in the database" in found.translation.attention[0]


def test_a_configuration_without_databases_gets_one_to_be_replaced() -> None:
    """Ours needs one; PgBouncer's has a console then."""
    found = import_("[pgbouncer]\n")
    assert list(found.config.databases) == [PLACEHOLDER]
    assert len(found.translation.attention) == 1


@pytest.mark.parametrize(
    "entry", ["a = host=@abstract", "a = host=x/y", "trio_pool = host=h", "a = host=h port=70000"]
)
def test_a_database_that_cannot_be_is_left_out_and_told(entry: str) -> None:
    """The others are there all the same."""
    found = import_(f"[databases]\n{entry}\napp = host=h\n[pgbouncer]\n")
    assert list(found.config.databases) == ["app"]
    assert len(found.translation.attention) == 1


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("max_client_conn = many", "pgbouncer.ini:4: max_client_conn: is not a number; write an integer"),
        ("max_client_conn = 08", "pgbouncer.ini:4: max_client_conn: is not a number; write an integer"),
        ("query_timeout = -1", "pgbouncer.ini:4: query_timeout: is not a number of seconds;"),
        ("query_timeout = 5s", "pgbouncer.ini:4: query_timeout: is not a number of seconds;"),
        ("pool_mode = transactions", 'pgbouncer.ini:4: pool_mode: "transactions" is unknown; use one of'),
        ("auth_type = cert", "pgbouncer.ini:4: auth_type: cert needs certificates of clients;"),
        ("client_tls_sslmode = require", "pgbouncer.ini:4: client_tls_sslmode: require needs a certificate"),
        ("auth_file = missing", 'pgbouncer.ini:4: auth_file: the file "missing" cannot be read'),
    ],
)  # fmt: skip
def test_what_pgbouncer_refuses_is_refused(lines: str, message: str) -> None:
    """With file, line, key and remedy."""
    with pytest.raises(CannotImport) as caught:
        general(lines)
    assert str(caught.value).startswith(message)


def test_all_problems_come_at_once() -> None:
    """One run is enough to learn them."""
    with pytest.raises(CannotImport) as caught:
        import_("[databases]\na = host\nb = pool_size=x\n[pgbouncer]\nmax_client_conn = x\n")
    assert len(caught.value.problems) == 3


def test_no_secret_in_what_is_told() -> None:
    """Comments and warnings quote no password, even where it has no use."""
    ini = (
        "[databases]\napp = host=h password=hidden1\n[pgbouncer]\nauth_file = users\n"
        "auth_ldap_options = ldapbindpasswd=hidden2\n"
    )
    found = import_(ini, users='"u" "hidden3"\n')
    assert "hidden" not in " ".join((*found.translation.attention, *found.translation.untranslated))
    assert [line for line in found.toml.splitlines() if "hidden" in line] == ['password = "hidden3"']


def test_tls_of_clients() -> None:
    """Files and mode; the authority only where PgBouncer verifies."""
    files = "client_tls_cert_file = c\nclient_tls_key_file = k\nclient_tls_ca_file = a\n"
    table = {
        mode: general(f"{files}client_tls_sslmode = {mode}").data["listen"].get("tls", {})
        for mode in ("disable", "prefer", "require", "verify-full")
    }
    assert table["disable"] == {}
    assert table["prefer"] == {"mode": "allow", "certificate": "c", "key": "k"}
    assert table["require"] == {"mode": "require", "certificate": "c", "key": "k"}
    assert table["verify-full"] == {"mode": "require", "certificate": "c", "key": "k", "client_ca": "a"}


def test_files_that_are_not_here_are_told() -> None:
    """The import may run on another machine than the pooler."""
    lines = "client_tls_sslmode = require\nclient_tls_cert_file = /no/c\nclient_tls_key_file = /no/k"
    assert [text.partition(";")[0] for text in general(lines).translation.attention] == [
        'to be put right before it serves: listen.tls.certificate: there is no file "/no/c"',
        'to be put right before it serves: listen.tls.key: there is no file "/no/k"',
    ]
