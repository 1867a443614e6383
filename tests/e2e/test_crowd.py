"""Many different clients at once on few server connections."""

from __future__ import annotations

import functools
import random
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_asyncpg import Asyncpg
from tests.e2e.test_node_postgres import NodePostgres
from tests.e2e.test_pg8000 import Pg8000
from tests.e2e.test_psql import PROGRAMS, driver_for
from tests.e2e.test_psycopg import Psycopg
from tests.e2e.test_psycopg2 import Psycopg2
from tests.e2e.test_psycopg_async import AsyncPsycopg
from tests.e2e.test_sqlalchemy import Sqlalchemy
from tests.e2e.test_sqlalchemy_async import AsyncSqlalchemy
from tests.support.actions import HEAVY_ACTIONS, Driver, offered_by
from tests.support.pooler import POOL_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.target import Target

pytestmark = pytest.mark.e2e

IN_PROCESS: tuple[type[Driver], ...] = (
    Psycopg,
    AsyncPsycopg,
    Asyncpg,
    Psycopg2,
    Pg8000,
    Sqlalchemy,
    AsyncSqlalchemy,
    Asyncpg,
)

# A client's name, how to make it, what it can do.
Client = tuple[str, "Callable[[], Driver]", list[str]]


def crowd(target: Target, node_modules: Path) -> list[Client]:
    """Ten clients: every driver once, asyncpg twice."""
    clients: list[Client] = [
        (driver.__name__, functools.partial(driver, target), offered_by(driver)) for driver in IN_PROCESS
    ]
    psql = driver_for(PROGRAMS[0])
    clients.append(("Psql", lambda: psql(target, PROGRAMS[0]), offered_by(psql)))
    clients.append(("NodePostgres", lambda: NodePostgres(target, node_modules), offered_by(NodePostgres)))
    return clients


def perform_all(client: Client, seed: int) -> list[str]:
    """Every light action of one client in an order of its own; returns what it did."""
    _, make, offered = client
    actions = [action for action in offered if action not in HEAVY_ACTIONS]
    random.Random(seed).shuffle(actions)
    for action in actions:
        make().perform(action)
    return actions


def server_connections(target: Target) -> int:
    """How many the tests' user has at PostgreSQL."""
    [[count]] = target.ask_origin("select count(*) from pg_stat_activity where usename = :u", u=target.user)
    assert isinstance(count, int)
    return count


@pytest.mark.timeout(180)
def test_crowd(target: Target, node_modules: Path) -> None:
    """Ten clients of eight drivers at once each find what they find alone, on two server connections."""
    clients = crowd(target, node_modules)
    most = 0
    with ThreadPoolExecutor(len(clients)) as threads:
        running = {threads.submit(perform_all, client, seed): client for seed, client in enumerate(clients)}
        pending = set(running)
        while pending:
            _, pending = wait(pending, timeout=0.1)
            most = max(most, server_connections(target))
    failed = {client[0]: failure for future, client in running.items() if (failure := future.exception())}
    if failed:
        raise ExceptionGroup(f"of {len(clients)} clients", [note(*item) for item in failed.items()])
    if target.label == "pooled":
        assert most == POOL_SIZE


def note(client: str, failure: BaseException) -> Exception:
    failure.add_note(f"client: {client}")
    assert isinstance(failure, Exception)
    return failure
