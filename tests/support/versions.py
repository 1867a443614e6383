"""Which PostgreSQL a test meets, where there are several on the machine.

What compares the pooler with a direct connection, or reads catalogs, meets each of them. What is about the
pooler itself, or a driver, meets one, and which one changes from file to file, so that all of it meets both;
to have every test meet each takes half as long again. TRIO_POOL_TEST_POSTGRES says otherwise: "all", or
"first".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.cli.installations import Installation

VARIABLE = "TRIO_POOL_TEST_POSTGRES"
ABOUT_THE_POOLER = (
    "tests/bench/",
    "tests/cache/",
    "tests/cli/",
    "tests/daemon/",
    "tests/edge/",
    "tests/net/",
)
ABOUT_POSTGRESQL = (
    "tests/cache/test_checker",
    "tests/cache/test_replication",
    "tests/cache/test_rules",
    "tests/net/test_offenders",
    "tests/net/test_replication",
    "tests/net/test_time",
    "tests/net/test_transaction",
    "tests/net/test_vanished",
)
"""Among them."""
ABOUT_A_DRIVER = (
    "tests/e2e/test_asyncpg",
    "tests/e2e/test_node_postgres",
    "tests/e2e/test_pg8000",
    "tests/e2e/test_pgbench",
    "tests/e2e/test_postgres_js",
    "tests/e2e/test_psql",
    "tests/e2e/test_psycopg",
    "tests/e2e/test_sqlalchemy",
)


def met_by(file: str, found: Sequence[Installation]) -> Sequence[Installation]:
    """By the tests of a file."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted == "first":
        return found[:1]
    either = file.startswith(ABOUT_THE_POOLER) and not file.startswith(ABOUT_POSTGRESQL)
    if wanted == "all" or not (either or file.startswith(ABOUT_A_DRIVER)) or not found:
        return found
    return [found[crc32(file.encode()) % len(found)]]
