"""Targets for the drivers: every PostgreSQL directly, and through a pooler that has two connections to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.node import NodeUnavailable, installed_modules
from tests.support.pooler import POOL_SIZE, Pooler
from tests.support.target import Target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres


@pytest.fixture(scope="session")
def pooler(postgres: LocalPostgres, certificates: Certificates) -> Iterator[Pooler]:
    """A pooler in front of `postgres`, started once per worker and PostgreSQL: pool of 2, TLS, SCRAM."""
    with Pooler(postgres, pool_size=POOL_SIZE, certificates=certificates) as running:
        yield running


@pytest.fixture(params=["direct", "pooled"])
def target(
    request: pytest.FixtureRequest, postgres: LocalPostgres, certificates: Certificates
) -> Iterator[Target]:
    """Each PostgreSQL twice: past the pooler, to show what is to be expected, and through it.

    A failed test through the pooler shows what the pooler logged during it. One that ends in a test fails
    that test, and is started again for the next one.
    """
    if request.param == "direct":
        tls = certificates if postgres.tls is not None else None
        yield Target("direct", postgres.host, postgres.port, postgres, tls)
        return
    pooler: Pooler = request.getfixturevalue("pooler")
    pooler.revive()
    before = pooler.mark()
    yield pooler.target()
    print(pooler.log_text(since=before))
    assert pooler.running, "the pooler ended"


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest) -> Path:
    """The packages of node-postgres, in pytest's cache directory; tests that need them skip without npm."""
    assert request.config.cache is not None, "pytest's cacheprovider is off"
    try:
        return installed_modules(request.config.cache.mkdir("node"))
    except NodeUnavailable as unavailable:
        pytest.skip(str(unavailable))
