"""postgres.js; what it does is in node/postgres_js.js, one process per action."""

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


class PostgresJs(NodeDriver):
    """It pipelines whatever it can, and prepares every statement unless it is told not to."""

    script: ClassVar[str] = "postgres_js.js"
    lacks: ClassVar[Mapping[str, str]] = {"bind_channel": "postgres.js has no SCRAM-SHA-256-PLUS"}


@actions_of(PostgresJs)
def test_postgres_js(action: str, target: Target, node_modules: Path) -> None:
    """postgres.js finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    PostgresJs(target, node_modules).perform(action)


def test_postgres_js_concurrent(target: Target, node_modules: Path) -> None:
    """Eight connections with many queries under way on each give every query its own answer or error."""
    PostgresJs(target, node_modules).perform("concurrent")


def test_postgres_js_cursors(target: Target, node_modules: Path) -> None:
    """Rows come in portions, as many as were asked for, until they end, fail or are given up."""
    PostgresJs(target, node_modules).perform("cursors")


def test_postgres_js_listen(target: Target, node_modules: Path) -> None:
    """Every notification that was committed arrives once and in order, on the right channel."""
    PostgresJs(target, node_modules).perform("listen")


def test_postgres_js_session_settings(target: Target, node_modules: Path) -> None:
    """Settings of the login and of the session stay with their client, those of a transaction end with it."""
    PostgresJs(target, node_modules).perform("session_settings")
