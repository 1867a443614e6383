"""The memory that kept answers take: what was configured, whatever is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.daemon.console.ways import psql
from tests.support.pooler import Pooler
from tests.support.raw import RawClient

if TYPE_CHECKING:
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

MAX_SIZE = 64 << 20
SIZES = [int(size) for size in os.environ.get("TRIO_POOL_ANSWER_SIZES", "48000").split(",")]
"""Bytes of an answer. Small ones take a machine minutes."""


def resident(pooler: Pooler) -> int:
    """Bytes of memory of the process."""
    return int(Path(f"/proc/{pooler.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("size", SIZES)
def test_a_scan_of_ten_times_as_much_as_there_is_room_for(any_postgres: LocalPostgres, size: int) -> None:
    """Answers leave for others; the process grows by no more than what the cache may take, and a tenth."""
    cache = {"enabled": True, "max_size": f"{MAX_SIZE >> 20}MB"}
    extra = {"databases": {"app": {"cache": cache}}}
    with Pooler(any_postgres, tls=False, auth="trust", extra=extra) as pooler:
        address = (pooler.host, pooler.port)
        with RawClient.log_in(address) as client:
            for number in range(200):  # what it takes without a cache, and what reads statements
                client.value(f"SELECT repeat('x', {size}), clock_timestamp()")
                client.value(f"SELECT 'x', {number}")
            before = resident(pooler)
            for number in range(10 * MAX_SIZE // size):
                client.value(f"SELECT repeat('x', {size}), {number}")
            growth = resident(pooler) - before
        (kept,) = psql(pooler, "SHOW CACHE")
    assert kept["max_bytes"] == str(MAX_SIZE)
    assert 0.9 * MAX_SIZE < int(kept["bytes"] or 0) <= MAX_SIZE
    assert int(kept["evicted"] or 0) > 8.5 * MAX_SIZE / size
    assert growth < 1.1 * MAX_SIZE
