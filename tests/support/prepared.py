"""Transactions that were prepared, and left so by who did not live to read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.target import DATABASE

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

FORGET = r"""
SELECT format('ROLLBACK PREPARED %L', gid) FROM pg_prepared_xacts WHERE database = current_database() \gexec
"""


def forget_prepared(pg: LocalPostgres) -> None:
    """Roll them back. They would hold their locks for ever, and no stream of changes would begin."""
    pg.run_sql(FORGET, DATABASE)
