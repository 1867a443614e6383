"""node-postgres; what it does is in node/actions.js, one process per action."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, ClassVar

import pytest

from tests.support.actions import (
    BIG_VALUE_BYTES,
    MANY_ROWS,
    MANY_ROWS_SQL,
    Driver,
    actions_of,
    long_query,
)
from tests.support.node import SOURCES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.support.target import Target

pytestmark = pytest.mark.e2e


class NodePostgres(Driver):
    """A process of Node.js that finds its packages in `modules`."""

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: Target, modules: Path) -> None:
        super().__init__(target)
        self.modules = modules

    @classmethod
    def has(cls, action: str) -> bool:
        return f"  async {action}() {{\n" in (SOURCES / "actions.js").read_text()

    def perform(self, action: str) -> None:
        target, certificates = self.target, self.target.certificates
        settings = {
            "host": target.host,
            "port": target.port,
            "user": target.user,
            "password": target.password,
            "database": target.database,
            "ca": str(certificates.ca) if certificates else None,
            "stranger_ca": str(certificates.stranger_ca) if certificates else None,
            "table": self.table,
            "many_rows": MANY_ROWS,
            "many_rows_sql": MANY_ROWS_SQL,
            "big_value_bytes": BIG_VALUE_BYTES,
            "long_query": long_query(self.marker),
        }
        with subprocess.Popen(
            ["node", SOURCES / "actions.js", action],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "NODE_PATH": str(self.modules)},
        ) as process:
            assert process.stdin is not None
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            if action == "cancel":
                assert process.stdout is not None
                assert process.stdout.readline() == "run\n"
                self.target.wait_until_running(self.marker)
            _, stderr = process.communicate()
        assert process.returncode == 0, stderr


@actions_of(NodePostgres)
def test_node_postgres(action: str, target: Target, node_modules: Path) -> None:
    """node-postgres finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    NodePostgres(target, node_modules).perform(action)


def test_node_postgres_pool(target: Target, node_modules: Path) -> None:
    """`pg.Pool`, a pool in front of the pool, gives every query its own answer."""
    NodePostgres(target, node_modules).perform("pool")
