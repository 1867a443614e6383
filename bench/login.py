"""Where a client connects to, and as whom. Knows no program."""

from __future__ import annotations

import os
from urllib.parse import parse_qs, unquote, urlsplit

import attrs

HOST = "127.0.0.1"


@attrs.frozen
class Login:
    """`password` is None where the other side asks for none; `sslmode` is libpq's."""

    host: str
    port: int
    user: str = "postgres"
    database: str = "postgres"
    password: str | None = attrs.field(default=None, repr=False)
    sslmode: str = "disable"

    @classmethod
    def parse(cls, dsn: str) -> Login:
        """Read `postgresql://user:password@host:port/database?sslmode=...`; raises `ValueError`."""
        parts = urlsplit(dsn)
        if parts.scheme not in ("postgresql", "postgres") or not parts.hostname:
            raise ValueError("not of the form postgresql://user:password@host:port/database")
        query = parse_qs(parts.query)
        if unknown := set(query) - {"sslmode"}:
            raise ValueError(f"only sslmode is understood after the question mark, not {', '.join(unknown)}")
        user = unquote(parts.username or "postgres")
        return cls(
            host=parts.hostname,
            port=parts.port or 5432,
            user=user,
            database=unquote(parts.path.lstrip("/")) or user,
            password=unquote(parts.password) if parts.password is not None else None,
            sslmode=query.get("sslmode", ["prefer"])[-1],
        )

    def options(self) -> list[str]:
        """What psql and pgbench are told on the command line, the database aside."""
        return ["-h", self.host, "-p", str(self.port), "-U", self.user]

    def environment(self) -> dict[str, str]:
        """Ours, without what would lead libpq elsewhere, with what no command line should show."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        secret = {} if self.password is None else {"PGPASSWORD": self.password}
        return kept | secret | {"LC_ALL": "C", "PGSSLMODE": self.sslmode}
