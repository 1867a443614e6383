"""[pgbouncer] without authentication: addresses, TLS of clients, time limits, sessions, the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.config.address import TcpAddress, UnixAddress, parse_address
from trio_pool.config.durations import format_duration
from trio_pool.config.problems import Refused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.migration.context import Import, Section
    from trio_pool.migration.document import Table

ONCE = "1ms"
"""`server_lifetime` of a connection that is to be used once: at its return it is older than that."""

_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")

# PgBouncer's key, ours, PgBouncer's default where it is not ours.
_TIMEOUTS = (
    ("client_login_timeout", "client_login", 60.0),
    ("client_idle_timeout", "client_idle", None),
    ("query_wait_timeout", "lease_wait", 120.0),
    ("query_wait_notify", "wait_notice", 5.0),
    ("query_timeout", "query", None),
    ("transaction_timeout", "transaction", None),
    ("idle_transaction_timeout", "idle_in_transaction", 0.0),
    ("server_connect_timeout", "server_connect", None),
    ("server_idle_timeout", "server_idle", None),
    ("server_lifetime", "server_lifetime", None),
)


def translate_listen(work: Import) -> None:
    general, table = work.general, work.document.table("listen")
    addresses = list(dict.fromkeys(_addresses(work, table)))
    if addresses:
        table.put("addresses", addresses, "listen_addr, listen_port, unix_socket_dir")
    else:
        work.warn(
            table, "PgBouncer has no address that trio-pool could listen on; this is trio-pool's default"
        )
        table.put("addresses", ["127.0.0.1:6432"])
    most = general.integer("max_client_conn")
    if most is None:
        table.put("max_clients", 100, "max_client_conn, PgBouncer's default")
    else:
        table.put("max_clients", most, "max_client_conn")
    _translate_keepalive(work, table)


def _addresses(work: Import, table: Table) -> Iterator[str]:
    general = work.general
    port = general.integer("listen_port")
    port = 6432 if port is None else port
    for host in general.words("listen_addr"):
        if host == "*":
            table.say("listen_addr = *: take out [::] on a machine without IPv6")
        elif host == "localhost":
            table.say('listen_addr = localhost: that is its IPv4 address here; "[::1]:PORT" is the other')
        for one in ("0.0.0.0", "::") if host == "*" else (host,):
            address = str(TcpAddress(one, port))
            if _is_address(work, table, address, "listen_addr"):
                yield address
    directory = work.socket_dir
    if directory.startswith("@"):
        work.warn(
            table,
            f"unix_socket_dir = {directory}: sockets in the abstract namespace are not supported",
            general.entry("unix_socket_dir"),
        )
    elif directory:
        address = str(UnixAddress(f"{directory.rstrip('/')}/.s.PGSQL.{port}"))
        if _is_address(work, table, address, "unix_socket_dir"):
            yield address


def _is_address(work: Import, table: Table, address: str, key: str) -> bool:
    try:
        parse_address(address)
    except Refused as refused:
        work.warn(table, f"{key}: {refused}", work.general.entry(key))
        return False
    return True


def _translate_keepalive(work: Import, table: Table) -> None:
    general = work.general
    idle, interval, count = (general.count(f"tcp_keep{part}") for part in ("idle", "intvl", "cnt"))
    if general.flag("tcp_keepalive") is False:
        table.put("tcp_keepalive_idle", "0", "tcp_keepalive")
    elif idle:
        table.put("tcp_keepalive_idle", format_duration(idle), "tcp_keepidle")
    if interval:
        table.put("tcp_keepalive_interval", format_duration(interval), "tcp_keepintvl")
    if count:
        table.put("tcp_keepalive_count", count, "tcp_keepcnt")
    if (milliseconds := general.count("tcp_user_timeout")) is not None:
        table.put("tcp_user_timeout", format_duration(milliseconds / 1000), "tcp_user_timeout")


def translate_tls(work: Import) -> None:
    general, table = work.general, work.document.table("listen", "tls")
    mode = general.word("client_tls_sslmode", *_SSL_MODES) or "disable"
    names = ("client_tls_cert_file", "client_tls_key_file", "client_tls_ca_file")
    if mode == "disable":
        for name in names:
            if general.text(name):
                table.say(
                    f"{name} = {general.text(name)}: PgBouncer does not use it, client_tls_sslmode is disable"
                )
        return
    certificate, key, authorities = (general.text(name) for name in names)
    if not certificate or not key:
        general.refuse(
            "client_tls_sslmode",
            f"{mode} needs a certificate and its key",
            "set client_tls_cert_file and client_tls_key_file",
        )
        return
    table.put("mode", "allow" if mode in {"allow", "prefer"} else "require", "client_tls_sslmode")
    table.put("certificate", work.files.find(certificate), "client_tls_cert_file")
    table.put("key", work.files.find(key), "client_tls_key_file")
    if not mode.startswith("verify"):
        if authorities:
            table.say(
                f"client_tls_ca_file = {authorities}: with {mode}, certificates of clients are not verified"
            )
        return
    if not authorities:
        general.refuse(
            "client_tls_sslmode", f"{mode} has nothing to verify clients with", "set client_tls_ca_file"
        )
        return
    table.put("client_ca", work.files.find(authorities), "client_tls_ca_file")
    if general.text("auth_type").lower() != "cert":
        work.warn(
            table,
            f"client_tls_sslmode = {mode}: PgBouncer refuses a client without a certificate, trio-pool only "
            f"one "
            'whose certificate is not valid, unless its method is "cert"',
            general.entry("client_tls_sslmode"),
        )


def translate_timeouts(work: Import) -> None:
    table = work.document.table("timeouts")
    for theirs, ours, default in _TIMEOUTS:
        put_seconds(table, ours, work.general, theirs)
        if theirs not in work.general.entries and default is not None:
            table.put(ours, format_duration(default), f"{theirs}, PgBouncer's default")


def put_seconds(table: Table, key: str, section: Section, name: str, *, zero_is_unset: bool = False) -> None:
    """A key that is a number of seconds there and a duration here, if it is given."""
    seconds = section.seconds(name)
    if seconds is None or (seconds == 0 and zero_is_unset):
        return
    if name == "server_lifetime" and seconds == 0:
        table.put(key, ONCE, "server_lifetime = 0: a connection is used once")
    else:
        table.put(key, format_duration(seconds), name)


def translate_session(work: Import) -> None:
    general, table = work.general, work.document.table("session")
    kept = general.count("max_prepared_statements")
    if kept:
        table.put("server_prepared_statements", kept, "max_prepared_statements")
    elif kept == 0:
        table.say("max_prepared_statements = 0: prepared statements of the protocol always work here")
    for name in ("server_reset_query", "server_check_query"):
        entry = general.entries.get(name)
        if entry is not None and name == "server_reset_query" and not entry.value:
            table.say(
                "server_reset_query is empty: PgBouncer leaves what a session has set; here it is cleaned up"
            )


def translate_admin(work: Import) -> None:
    general, table = work.general, work.document.table("admin")
    users = list(dict.fromkeys(general.words("admin_users")))
    if users:
        table.put("users", users, "admin_users")
    if general.text("auth_type").lower() == "any":
        work.warn(
            table,
            "auth_type = any: PgBouncer lets every user into its console as an administrator; name them here",
            general.entry("auth_type"),
        )
