"""The suites that are run through the pool: what of each, and why not all.

Each meets one PostgreSQL and what two share runs once, unless TRIO_POOL_SUITES is "all".
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from tests.suites.suite import Suite

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.suites.suite import Address

WHOLE = os.environ.get("TRIO_POOL_SUITES") == "all"

# The whole of it. What needs a server of its own is skipped by the suite when it finds PGHOST, but for what
# is left out here. The slowest test takes 2.3 s directly.
ASYNCPG = Suite(
    name="asyncpg",
    distribution="asyncpg",
    keep=("tests",),
    needs=("distro",),
    ini="addopts = --import-mode=importlib\nfilterwarnings = default\n",
    tests=("tests",),
    least=300,
    left_out=(
        "tests/test__sourcecode.py",  # runs linters over asyncpg's own source
        "tests/test_connect.py::TestConnectionAttributes",  # starts a primary and a standby, never uses ours
        # 3 of 10 runs on PostgreSQL directly end with "unexpected connection_lost() call" (asyncpg 0.32.0).
        "tests/test_pool.py::TestPool::test_pool_config_persistence",
    ),
)


PG8000 = Suite(
    name="pg8000",
    distribution="pg8000",
    keep=("test",),
    needs=("pytest-mock", "pytz"),
    plugins=("pytest_mock",),
    tests=("test",),
    least=750,
    left_out=(
        "test/test_readme.py",  # port 5432, whatever PGPORT says
        "test/native/test_benchmarks.py",  # measure, and promise nothing
        "test/dbapi/test_benchmarks.py",
        "test/legacy/test_benchmarks.py",
        # 60,000 take pg8000 14 s, PostgreSQL nothing; tests/e2e/test_many_parameters.py has even more.
        "test/native/test_query.py::test_max_parameters",
    ),
    # Not in `public`, which is made anew after a failure.
    preparation=(("postgres", ("CREATE EXTENSION hstore SCHEMA pg_catalog",)),),
)

_SQLALCHEMY_SETTINGS = """\
addopts = -p no:warnings -p no:logging --strict-markers
python_files = test_*.py
markers =
    backend:
    gc_intensive:
    memory_intensive:
    mypy:
    sparse_backend:
    sparse_driver_backend:
    timing_intensive:
"""

_DRIVER_AND_SERVER = re.compile(r"_postgresql\+[a-z0-9_]+_\d+_\d+(?=::)")


def _without_driver_and_server(test: str) -> str:
    """SQLAlchemy puts them behind each class: `FetchTest_postgresql+psycopg_18_1`."""
    return _DRIVER_AND_SERVER.sub("", test)


def _database_url(driver: str, target: Address) -> list[str]:
    return [f"--dburi=postgresql+{driver}://postgres:unchecked@{target}/test"]


def _no_variables(_: Address) -> Mapping[str, str]:
    return {}


def _sqlalchemy(driver: str, *, tests: tuple[str, ...], least: int, left_out: tuple[str, ...] = ()) -> Suite:
    """What depends on the database: the suite for dialects, PostgreSQL's own tests, and those of the engine.

    Left out is the ORM, which only makes more of the same statements, 7,400 tests that ask whether Python's
    ranges behave as PostgreSQL's do, and what compiles without executing.
    """
    return Suite(
        name=f"sqlalchemy_{driver}",
        distribution="sqlalchemy",
        # The plugin is read from its file, so that it is the first to import anything of SQLAlchemy.
        keep=("test", "setup.cfg", "lib/sqlalchemy/testing/plugin"),
        ini=_SQLALCHEMY_SETTINGS,
        tests=tests,
        keywords="not RangeRoundTripTest and not Compilation",
        left_out=left_out,
        least=least,
        tidy=False,  # SQLAlchemy tidies up by itself, and its classes share their tables
        preparation=(
            (
                "postgres",
                (
                    "CREATE DATABASE test TEMPLATE template0 ENCODING 'UTF8'",
                    "ALTER DATABASE test SET default_text_search_config = 'pg_catalog.english'",
                ),
            ),
            (
                "test",
                (
                    "CREATE SCHEMA test_schema",
                    "CREATE SCHEMA test_schema_2",
                    "CREATE EXTENSION hstore",
                    "CREATE EXTENSION citext",
                ),
            ),
        ),
        arguments=lambda target: [
            "--backend-only",
            "--nomemory",
            "--notimingintensive",
            "--nomypy",
            *_database_url(driver, target),
        ],
        variables=_no_variables,
        rename=_without_driver_and_server,
    )


_ABOUT_DIALECTS = "test/dialect/test_suite.py"
_ABOUT_POSTGRESQL = ("test/dialect/postgresql", "test/engine")

_SQLALCHEMY_PSYCOPG = _sqlalchemy("psycopg", tests=(_ABOUT_DIALECTS, *_ABOUT_POSTGRESQL), least=2500)

# asyncpg has tests of the types of its own, and reflection asks the same of every driver. So does the suite
# for dialects, which takes longer than all the rest.
_SQLALCHEMY_ASYNCPG = _sqlalchemy(
    "asyncpg",
    tests=(_ABOUT_DIALECTS, *_ABOUT_POSTGRESQL) if WHOLE else _ABOUT_POSTGRESQL,
    least=2000 if WHOLE else 400,
    left_out=(
        "test/dialect/postgresql/test_types.py",
        "test/dialect/postgresql/test_reflection.py",
    ),
)

SUITES = {suite.name: suite for suite in (ASYNCPG, PG8000, _SQLALCHEMY_PSYCOPG, _SQLALCHEMY_ASYNCPG)}
