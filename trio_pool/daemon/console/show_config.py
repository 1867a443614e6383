"""SHOW CONFIG: the keys of PgBouncer that mean something here, by its names and in its units; then our own,
as in the configuration file.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import attrs

from trio_pool.config.address import UnixAddress
from trio_pool.config.model import Config, Database
from trio_pool.daemon.console.samples import PERIOD
from trio_pool.daemon.console.settings import Entry, Path_, entries
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.show_pools import listen_port, whole
from trio_pool.daemon.console.table import columns
from trio_pool.daemon.operations import FLUSH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio_pool.daemon.console.table import Row


@attrs.frozen
class Alias:
    """A key of PgBouncer: ours, how its value is spelled there, how one from there is spelled here."""

    path: Path_
    spell: Callable[[Any], str | None] = lambda value: None if value is None else str(value)
    respell: Callable[[str], str] = str


def _seconds(path: Path_) -> Alias:
    def respell(text: str) -> str:
        return f"{text}s" if text.replace(".", "", 1).isdecimal() and float(text) else text

    return Alias(path, lambda value: str(whole(value)), respell)


def _milliseconds(path: Path_) -> Alias:
    return Alias(
        path,
        lambda value: "0" if math.isinf(value) else str(round(value * 1000)),
        lambda text: f"{text}ms" if text.isdecimal() and int(text) else text,
    )


def _names(path: Path_) -> Alias:
    """Names with commas between them."""

    def respell(text: str) -> str:
        quoted = (f"'{name.strip()}'" for name in text.split(",") if name.strip())
        return text if text.startswith("[") else f"[{', '.join(quoted)}]"

    return Alias(path, ", ".join, respell)


def _file(path: Path_) -> Alias:
    return Alias(path, lambda value: "" if value is None else str(value))


ALIASES: Final[dict[str, Alias]] = {
    "admin_users": _names(("admin", "users")),
    "auth_dbname": Alias(("auth", "query_database")),
    "auth_query": Alias(("auth", "query")),
    "auth_type": Alias(("auth", "method")),
    "auth_user": Alias(("auth", "query_user")),
    "client_idle_timeout": _seconds(("timeouts", "client_idle")),
    "client_login_timeout": _seconds(("timeouts", "client_login")),
    "client_tls_ca_file": _file(("listen", "tls", "client_ca")),
    "client_tls_cert_file": _file(("listen", "tls", "certificate")),
    "client_tls_key_file": _file(("listen", "tls", "key")),
    "client_tls_sslmode": Alias(("listen", "tls", "mode")),
    "idle_transaction_timeout": _seconds(("timeouts", "idle_in_transaction")),
    "max_client_conn": Alias(("listen", "max_clients")),
    "max_prepared_statements": Alias(("session", "server_prepared_statements")),
    "query_timeout": _seconds(("timeouts", "query")),
    "query_wait_notify": _seconds(("timeouts", "wait_notice")),
    "query_wait_timeout": _seconds(("timeouts", "lease_wait")),
    "server_connect_timeout": _seconds(("timeouts", "server_connect")),
    "server_idle_timeout": _seconds(("timeouts", "server_idle")),
    "server_lifetime": _seconds(("timeouts", "server_lifetime")),
    "tcp_keepcnt": Alias(("listen", "tcp_keepalive_count")),
    "tcp_keepidle": _seconds(("listen", "tcp_keepalive_idle")),
    "tcp_keepintvl": _seconds(("listen", "tcp_keepalive_interval")),
    "tcp_user_timeout": _milliseconds(("listen", "tcp_user_timeout")),
    "transaction_timeout": _seconds(("timeouts", "transaction")),
}


def _fixed(view: View) -> dict[str, str | None]:
    """Keys of PgBouncer that have no counterpart to change: what holds here."""
    service = view.service
    sizes = attrs.fields_dict(Database)
    listen = view.config.listen
    hosts = [str(a.host) for a in listen.addresses if not isinstance(a, UnixAddress)]
    sockets = [a.path.rpartition("/")[0] for a in listen.addresses if isinstance(a, UnixAddress)]
    return {
        "conffile": None if service.config_path is None else str(service.config_path),
        "default_pool_size": str(sizes["pool_size"].default),
        "job_name": "trio-pool",
        "listen_addr": ",".join(hosts),
        "listen_port": str(listen_port(view)),
        "max_db_client_connections": "0",
        "max_db_connections": "0",
        "max_user_client_connections": "0",
        "max_user_connections": "0",
        "min_pool_size": str(sizes["min_pool_size"].default),
        "pool_mode": str(sizes["pool_mode"].default),
        "stats_period": str(round(PERIOD)),
        "suspend_timeout": str(round(FLUSH)),
        "unix_socket_dir": ",".join(dict.fromkeys(sockets)),
    }


def _config(view: View) -> Iterator[Row]:
    own = {entry.path: entry for entry in entries(view.config)}
    for name, value in _fixed(view).items():
        yield name, value, value, "no"
    for name, alias in ALIASES.items():
        entry = own[alias.path]
        default = None if entry.default is attrs.NOTHING else entry.default
        yield name, alias.spell(entry.value), alias.spell(default), "yes" if entry.changeable else "no"
    for entry in own.values():
        value, default = entry.spell(entry.value), entry.spell(entry.default)
        yield entry.name, value, default, "yes" if entry.changeable else "no"


CONFIG = Show(columns("key value default changeable"), _config, "the configuration")


def find(config: Config, key: str, value: str) -> tuple[Entry, str] | None:
    """The key of this name, ours or PgBouncer's, and the value in our spelling; None if there is none."""
    alias = ALIASES.get(key.lower())
    for entry in entries(config):
        if alias is not None and entry.path == alias.path:
            return entry, alias.respell(value)
        if entry.name == key or entry.name.lower() == key.lower():
            return entry, value
    return None
