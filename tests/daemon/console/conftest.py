"""A pooler that trusts its clients, for what disturbs nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.pooler import Pooler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.cli.postgres import LocalPostgres


@pytest.fixture(scope="module")
def pooler(postgres: LocalPostgres) -> Iterator[Pooler]:
    with Pooler(postgres, auth="trust", tls=False) as running:
        yield running


@pytest.fixture
def own(postgres: LocalPostgres) -> Iterator[Pooler]:
    """One for a test alone."""
    with Pooler(postgres, auth="trust", tls=False) as running:
        yield running
