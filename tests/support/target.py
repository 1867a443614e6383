"""Where a driver connects to: PostgreSQL itself or a pooler, told apart by nothing but host and port."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import attrs
import pg8000.native

if TYPE_CHECKING:
    import ssl

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres

USER = "app"
PASSWORD = "an app's \u00a7ecret"
DATABASE = "app"

SEEN_RUNNING_SECONDS = 20.0


@attrs.frozen
class Target:
    """Everything a driver needs to log in, and the PostgreSQL behind it all, to look at it from the side.

    `certificates` is None where TLS is not spoken.
    """

    label: str
    host: str
    port: int
    origin: LocalPostgres
    certificates: Certificates | None
    user: str = USER
    password: str = PASSWORD
    database: str = DATABASE

    def plain(self) -> Target:
        """The same without TLS."""
        return attrs.evolve(self, certificates=None)

    def ssl_context(self) -> ssl.SSLContext | None:
        return self.certificates.client_context() if self.certificates else None

    def libpq(self) -> dict[str, str]:
        """libpq's parameter keywords."""
        parameters = {
            "host": self.host,
            "port": str(self.port),
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
        }
        if self.certificates is None:
            return parameters | {"sslmode": "disable"}
        return parameters | {"sslmode": "verify-full", "sslrootcert": str(self.certificates.ca)}

    def url(self, scheme: str = "postgresql") -> str:
        """A connection URI with libpq's parameters for TLS."""
        parameters = self.libpq()
        tls = [(name, value) for name, value in parameters.items() if name.startswith("ssl")]
        credentials = f"{quote(self.user, safe='')}:{quote(self.password, safe='')}"
        return f"{scheme}://{credentials}@{self.host}:{self.port}/{self.database}?{urlencode(tls)}"

    def ask_origin(self, sql: str, **parameters: object) -> list[list[object]]:
        """Rows of a query by PostgreSQL's superuser, on a connection of its own past the pooler."""
        with self._superuser() as connection:
            rows: list[list[object]] = connection.run(sql, **parameters)
        return rows

    def wait_until_running(self, marker: str) -> None:
        """Return when a statement whose text holds `marker` runs in PostgreSQL.

        PostgreSQL tells nobody that a statement begins, so this asks it, every few milliseconds.
        """
        deadline = time.monotonic() + SEEN_RUNNING_SECONDS
        sql = (
            "select count(*) from pg_stat_activity"
            " where state = 'active' and pid <> pg_backend_pid() and position(:marker in query) > 0"
        )
        with self._superuser() as connection:
            while connection.run(sql, marker=marker) == [[0]]:
                assert time.monotonic() < deadline, f"{marker} did not start to run"
                time.sleep(0.02)

    def _superuser(self) -> Any:
        """A connection of pg8000's. Without TLS, for which it would read all certificates of the system."""
        path = f"{self.origin.socket_dir}/.s.PGSQL.{self.origin.port}"
        return pg8000.native.Connection(self.origin.superuser, unix_sock=path, ssl_context=False)
