"""`sslmode` between the pool and its origin, with libpq's meaning of each value."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from tests.support.pooler import Pooler
from trio_pool.cli.postgres import LocalPostgres, ServerCertificate, available_installations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates

ENCRYPTED = "select ssl::text || ' ' || coalesce(client_dn, '') from pg_stat_ssl where pid = pg_backend_pid()"

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def origin(certificates: Certificates) -> Iterator[LocalPostgres]:
    """A PostgreSQL that offers TLS and verifies client certificates; the embedded one is built without."""
    with_tls = [installation for installation in available_installations() if installation.has_tls]
    if not with_tls:
        pytest.skip("no installed PostgreSQL is built with OpenSSL")
    certificate = ServerCertificate(certificates.server_certificate, certificates.server_key, certificates.ca)
    with LocalPostgres(with_tls[0].bin_dir, tls=certificate) as pg:
        yield pg


def allow(origin: LocalPostgres, *rules: str) -> None:
    """Replace the TCP rules of pg_hba.conf."""
    hba = origin.data_dir / "pg_hba.conf"
    hba.write_text("\n".join(["local all all trust", *rules, ""]))
    origin.run_sql("select pg_reload_conf()")


def connect(origin: LocalPostgres, query: str, host: str = "127.0.0.1") -> str:
    """What the origin says of the pool's connection, through the pool."""
    url = f"postgresql://postgres@{host}:{origin.port}/postgres?{query}"
    extra = {"databases": {"app": {"origin": url, "password_env": None, "timeouts": {"lease_wait": "1s"}}}}
    with (
        Pooler(origin, tls=False, auth="trust", extra=extra) as pool,
        psycopg.connect(host=pool.host, port=pool.port, user="x", dbname="app") as client,
    ):
        row = client.execute(ENCRYPTED).fetchone()
        assert row is not None
        return str(row[0])


@pytest.mark.parametrize(
    ("mode", "rule", "encrypted"),
    [
        ("disable", "host", "false"),
        ("allow", "host", "false"),
        ("allow", "hostssl", "true"),
        ("prefer", "host", "true"),
        ("prefer", "hostnossl", "false"),
        ("require", "host", "true"),
    ],
)
def test_preference_and_fallback(origin: LocalPostgres, mode: str, rule: str, encrypted: str) -> None:
    """Each mode encrypts, or does not, as libpq would; `allow` and `prefer` take what the server accepts."""
    allow(origin, f"{rule} all all all trust")
    assert connect(origin, f"sslmode={mode}").split()[0] == encrypted


@pytest.mark.parametrize(("mode", "rule"), [("disable", "hostssl"), ("require", "hostnossl")])
def test_no_fallback(origin: LocalPostgres, mode: str, rule: str) -> None:
    """`disable` and `require` have no second choice; the client is told the server's own words."""
    allow(origin, f"{rule} all all all trust")
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        connect(origin, f"sslmode={mode}")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
def test_a_verified_server(origin: LocalPostgres, certificates: Certificates, mode: str) -> None:
    """The right authority and the right name are accepted."""
    allow(origin, "hostssl all all all trust")
    assert connect(origin, f"sslmode={mode}&sslrootcert={certificates.ca}").split()[0] == "true"


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_a_stranger(origin: LocalPostgres, certificates: Certificates, mode: str) -> None:
    """A certificate of somebody else's authority is refused, by `require` too if it is given one."""
    allow(origin, "hostssl all all all trust")
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        connect(origin, f"sslmode={mode}&sslrootcert={certificates.stranger_ca}")


def test_another_name(origin: LocalPostgres, certificates: Certificates) -> None:
    """`verify-full` looks at the name, `verify-ca` does not."""
    allow(origin, "hostssl all all all trust")
    query = f"sslrootcert={certificates.ca}"
    elsewhere = "::ffff:127.0.0.1"  # the same server under a name that its certificate lacks
    assert connect(origin, f"sslmode=verify-ca&{query}", host=f"[{elsewhere}]").split()[0] == "true"
    with pytest.raises(psycopg.OperationalError, match="certificate"):
        connect(origin, f"sslmode=verify-full&{query}", host=f"[{elsewhere}]")


def test_a_client_certificate(origin: LocalPostgres, certificates: Certificates) -> None:
    """The pool presents its certificate, and logs in with nothing else."""
    allow(origin, "hostssl all all all cert map=pool")
    (origin.data_dir / "pg_ident.conf").write_text("pool app postgres\n")
    origin.run_sql("select pg_reload_conf()")
    query = f"sslmode=verify-full&sslrootcert={certificates.ca}"
    query += f"&sslcert={certificates.client_certificate}&sslkey={certificates.client_key}"
    assert "CN=app" in connect(origin, query)
