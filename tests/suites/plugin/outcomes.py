"""A pytest plugin for somebody else's suite: notes each report at once, and cleans up after failures.

It runs in the pytest process of the foreign suite, which may die in the middle; hence one JSON line per
report, flushed, instead of a file at the end. It must never know what is compared with what.

A test that fails leaves its tables behind, and the next test that wants the same name would fail for it. So
after a failure the schema `public` is made anew, and before the next module other databases and roles are
dropped as well (not earlier: a class may hold a database for all of its tests). This goes to the database
directly, never through the pool.

Environment: `OUTCOMES_FILE`, and, if failures are to be tidied up after, `OUTCOMES_TIDY` (host:port of a
throw-away PostgreSQL that trusts `postgres`).

It lies in a directory of its own, which is all that the foreign pytest gets to import of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

import pg8000.native
import pytest

RESET_SCHEMA = (
    "DROP SCHEMA IF EXISTS public CASCADE",
    "CREATE SCHEMA public",
    "GRANT ALL ON SCHEMA public TO public",
)
OTHER_DATABASES = (
    "SELECT quote_ident(datname) FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"
)
OTHER_ROLES = (
    r"SELECT quote_ident(rolname) FROM pg_roles WHERE rolname <> 'postgres' AND rolname NOT LIKE 'pg\_%'"
)
LOCK_TIMEOUT = "5s"  # a server that was left in a transaction must not stop the run


class Outcomes:
    """One JSON line per report."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        lines = report.longreprtext.strip().splitlines()
        record = {
            "id": report.nodeid,
            "when": report.when,
            "outcome": report.outcome,
            "message": lines[-1] if lines else "",
        }
        print(json.dumps(record), file=self._file, flush=True)


class Tidy:
    """Clears away what failures leave in the database."""

    def __init__(self, origin: str) -> None:
        self._host, _, port = origin.rpartition(":")
        self._port = int(port)
        self._module = ""
        self._module_failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._module_failed = True
            self._clean(*RESET_SCHEMA)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        module = item.nodeid.partition("::")[0]
        if module != self._module and self._module_failed:
            self._reset_all()
            self._module_failed = False
        self._module = module

    def _reset_all(self) -> None:
        databases = [f"DROP DATABASE {name} WITH (FORCE)" for name in self._clean(OTHER_DATABASES)]
        roles = [f"DROP ROLE {name}" for name in self._clean(OTHER_ROLES)]
        self._clean(*databases, *roles)

    def _clean(self, *statements: str) -> list[str]:
        """Run each; the first column of the last one's rows. What cannot be cleaned shows in later tests."""
        rows: list[list[str]] = []
        with contextlib.suppress(pg8000.native.InterfaceError):
            connection = pg8000.native.Connection(
                "postgres", host=self._host, port=self._port, database="postgres", ssl_context=False
            )
            connection.run(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            for statement in statements:
                with contextlib.suppress(pg8000.native.DatabaseError):
                    rows = connection.run(statement) or []
            connection.close()
        return [row[0] for row in rows]


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Outcomes(Path(os.environ["OUTCOMES_FILE"])))
    if "OUTCOMES_TIDY" in os.environ:
        config.pluginmanager.register(Tidy(os.environ["OUTCOMES_TIDY"]))
