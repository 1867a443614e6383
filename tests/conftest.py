"""Fixtures and settings for every test.

`certificates`, `installation`, `postgres`: one set of certificates per run, the PostgreSQLs found on the
machine (`versions` says which of them a test meets), and one running server of each per pytest worker.
HYPOTHESIS_PROFILE is "fast" (unless it is set) or "deep".
"""

from __future__ import annotations

import contextlib
import functools
import gc
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support import distribution, versions
from tests.support.certificates import Certificates
from tests.support.target import DATABASE, PASSWORD, USER
from trio_pool.cli.postgres import Installation, LocalPostgres, available_installations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xdist.remote import Producer
    from xdist.scheduler import Scheduling

# A deadline per example would measure the machine, not the code.
settings.register_profile("fast", max_examples=50, deadline=None)
settings.register_profile(
    "deep", max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))

# Hundreds of tests ask, and each of the PostgreSQLs is asked for its version.
found_here = functools.cache(available_installations)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per PostgreSQL that it is to meet; without any, the tests that need one fail instead of being
    skipped.
    """
    if "installation" in metafunc.fixturenames:
        file = metafunc.definition.nodeid.partition("::")[0]
        found: list[Installation | None] = [*versions.met_by(file, found_here())] or [None]
        metafunc.parametrize(
            "installation",
            found,
            ids=[one.label if one else "no-postgresql" for one in found],
            indirect=True,
            scope="session",
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long comes first."""
    items.sort(key=lambda item: distribution.rank(item.nodeid))


def pytest_collection_finish() -> None:
    """What was collected stays; looking through it at each full garbage collection would take long."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """With `-n` alone, tests that share what is set up for them share a process."""
    if config.option.dist != "load":
        return None
    labels = [one.label for one in found_here()]
    return distribution.Distribution(config, log, labels)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Certificates of this run."""
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def installation(request: pytest.FixtureRequest) -> Installation:
    """Each PostgreSQL on this machine in turn: the embedded one, Debian's, what PG_BIN names."""
    assert isinstance(request.param, Installation), "no PostgreSQL found; see trio_pool.cli.installations"
    return request.param


@pytest.fixture(scope="session")
def servers(certificates: Certificates) -> Iterator[Callable[[Installation], LocalPostgres]]:
    """What starts the PostgreSQL of an installation, unless it runs. They stop at the end, not when the tests
    change from one to the other and back.
    """
    options: dict[str, str | int | bool] = {
        "max_connections": 200,
        "max_prepared_transactions": 10,
        "wal_level": "logical",
    }
    quoted = PASSWORD.replace("'", "''")
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(installation: Installation) -> LocalPostgres:
            tls = certificates.server if installation.has_tls else None
            pg = LocalPostgres(bin_dir=installation.bin_dir, settings=options, tls=tls, auth="scram-sha-256")
            stack.enter_context(pg)
            pg.run_sql(
                f"create role {USER} login password '{quoted}'; create database {DATABASE} owner {USER}"
            )
            return pg

        yield start


@pytest.fixture(scope="session")
def postgres(installation: Installation, servers: Callable[[Installation], LocalPostgres]) -> LocalPostgres:
    """A running PostgreSQL with SCRAM, TLS if it was built with it, and the role and database "app"."""
    return servers(installation)


@pytest.fixture(scope="session")
def any_postgres(servers: Callable[[Installation], LocalPostgres]) -> LocalPostgres:
    """One of them, where the version is of no consequence."""
    found = found_here()
    assert found, "no PostgreSQL found; see trio_pool.cli.installations"
    return servers(found[0])
