"""The table of settings: complete, and true of what the translator does."""

from __future__ import annotations

from typing import Any

import pytest

from tests.migration.documented import SECTIONS as DOCUMENTED
from tests.migration.imports import Imported, import_
from trio_pool.migration.problems import CannotImport
from trio_pool.migration.settings import SECTIONS, Setting

# Values that are not what would do without them; "1" where nothing is said.
VALUES = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "/run/pgbouncer",
    "auth_type": "scram-sha-256",
    "auth_file": "users",
    "auth_hba_file": "hba",
    "auth_query": "SELECT u, p FROM s.lookup($1)",
    "pool_mode": "transaction",
    "client_tls_sslmode": "require",
    "server_tls_sslmode": "require",
    "server_tls_ca_file": "/a/ca",
    "tcp_keepalive": "0",
    "load_balance_hosts": "disable",
    "target_session_attrs": "primary",
    "admin_users": "alice",
}
# What a key needs beside it to have an effect.
BESIDE = {
    "client_tls_sslmode": "client_tls_cert_file = c\nclient_tls_key_file = k",
    "client_tls_cert_file": "client_tls_sslmode = require\nclient_tls_key_file = k",
    "client_tls_key_file": "client_tls_sslmode = require\nclient_tls_cert_file = c",
    "client_tls_ca_file": "client_tls_sslmode = verify-ca\nclient_tls_cert_file = c\nclient_tls_key_file = k",
    "server_tls_ca_file": "server_tls_sslmode = verify-ca",
    "server_tls_key_file": "server_tls_cert_file = c",
    "auth_hba_file": "auth_type = hba",
    "auth_query": "auth_user = u",
    "auth_dbname": "auth_user = u",
    "max_user_client_connections": "auth_file = users",
}
BESIDE_IN_STRING = {
    "password": "user=u",
    "auth_dbname": "auth_user=u",
    "load_balance_hosts": "host=a,b",
}


def one_key(section: str, name: str, value: str | None) -> Imported:
    """An import with or without one key, all else the same."""
    files = {"users": '"u" "p"', "hba": "local all all md5"}
    given = "" if value is None else f"{name} = {value}\n"
    if section == "pgbouncer":
        own = f"{BESIDE.get(name, '')}\n{given}"
        return import_(f"[databases]\napp = host=h\nother = host=h user=u\n[pgbouncer]\n{own}", **files)
    pair = "" if value is None else f"{name}='{value}'"
    beside = BESIDE_IN_STRING.get(name, "")
    if section == "databases":
        host = "" if name == "host" or "host=" in beside else "host=h"
        return import_(f"[databases]\napp = {host} {beside} {pair}\n[pgbouncer]\n")
    if section == "users":
        databases = "app = host=h user=alice" if name == "pool_mode" else "app = host=h"
        return import_(f"[databases]\n{databases}\n[users]\nalice = {pair}\n[pgbouncer]\n")
    return import_(f"[databases]\napp = host=h\n[peers]\n1 = host=h {pair}\n[pgbouncer]\n")


def filled(data: dict[str, Any]) -> dict[str, Any]:
    """Without tables that hold only comments."""
    inner = {key: filled(value) if isinstance(value, dict) else value for key, value in data.items()}
    return {key: value for key, value in inner.items() if value != {}}


def without(section: str, name: str) -> dict[str, Any] | None:
    """The same configuration without the key; None where PgBouncer needs the key."""
    try:
        return filled(one_key(section, name, None).data)
    except CannotImport:
        return None


ALL = [(section, one) for section, settings in SECTIONS.items() for one in settings]


@pytest.mark.parametrize(("section", "setting"), ALL, ids=[f"{section}-{one.name}" for section, one in ALL])
def test_a_key_is_translated_or_listed_with_the_reason(section: str, setting: Setting) -> None:
    """What has an equivalent changes the configuration, what has none only its comments."""
    after = one_key(section, setting.name, VALUES.get(setting.name, "1"))
    assert (without(section, setting.name) != filled(after.data)) is bool(setting.here)
    if not setting.here:
        assert "no equivalent" in after.comments
        assert setting.remark.replace("`", "") in after.comments
        assert any(setting.name in name or "[peers]" in name for name in after.translation.untranslated)


@pytest.mark.parametrize("section", DOCUMENTED)
def test_every_documented_key_is_in_the_table(section: str) -> None:
    """No key of PgBouncer's documentation is called unknown."""
    known = {one.name for one in SECTIONS[section]}
    assert set(DOCUMENTED[section]) - known == set()


def test_an_unknown_key_is_named_as_such() -> None:
    """With its line and the nearest known one."""
    found = import_("[databases]\napp = host=h hots=1\n[pgbouncer]\npool_mod = session\n")
    assert found.translation.attention == (
        "pgbouncer.ini:4: pool_mod: PgBouncer has no such key in [pgbouncer]; the nearest known one is "
        "pool_mode",
        "pgbouncer.ini:2: app: hots: PgBouncer has no such key in [databases]; the nearest known one is host",
    )
    assert "pool_mod: PgBouncer has no such key" in found.comments


def test_an_unknown_section_is_named_as_such() -> None:
    """Rather than passed over."""
    found = import_("[databases]\napp = host=h\n[pgbounce]\na = b\n")
    assert found.translation.attention == ("pgbouncer.ini:4: [pgbounce]: PgBouncer has no such section",)
