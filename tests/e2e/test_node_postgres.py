"""node-postgres; what it does is in node/node_postgres.js, one process per action."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.e2e.node.driver import NodeDriver
from tests.support.actions import actions_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.target import Target

pytestmark = pytest.mark.e2e


class NodePostgres(NodeDriver):
    """`Client`, with pg-copy-streams and pg-cursor."""

    script: ClassVar[str] = "node_postgres.js"
    lacks: ClassVar[Mapping[str, str]] = {}


@actions_of(NodePostgres)
def test_node_postgres(action: str, target: Target, node_modules: Path) -> None:
    """node-postgres finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    NodePostgres(target, node_modules).perform(action)


def test_node_postgres_pool(target: Target, node_modules: Path) -> None:
    """`pg.Pool`, a pool in front of the pool, gives every query its own answer."""
    NodePostgres(target, node_modules).perform("pool")


def test_node_postgres_cursors(target: Target, node_modules: Path) -> None:
    """Rows come in portions, as many as were asked for, until they end, fail or are given up."""
    NodePostgres(target, node_modules).perform("cursors")


def test_node_postgres_listen(target: Target, node_modules: Path) -> None:
    """Every notification that was committed arrives once and in order."""
    NodePostgres(target, node_modules).perform("listen")


def test_node_postgres_session_settings(target: Target, node_modules: Path) -> None:
    """Settings of the login and of the session stay with their client, those of a transaction end with it."""
    NodePostgres(target, node_modules).perform("session_settings")
