"""Drivers of Node.js: what they do is in JavaScript beside this file, one process per action."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tests.support.actions import BIG_VALUE_BYTES, MANY_ROWS, MANY_ROWS_SQL, Driver, long_query

if TYPE_CHECKING:
    from tests.support.target import Target

HERE = Path(__file__).resolve().parent
ACTION_SECONDS = 90


class NodeDriver(Driver):
    """A process of Node.js that runs `script` and finds its packages in `modules`."""

    script: ClassVar[str]

    def __init__(self, target: Target, modules: Path) -> None:
        super().__init__(target)
        self.modules = modules

    @classmethod
    def has(cls, action: str) -> bool:
        return f"  async {action}() {{\n" in (HERE / cls.script).read_text()

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
            ["node", HERE / self.script, action],
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
            try:
                _, stderr = process.communicate(timeout=ACTION_SECONDS)
            except BaseException:
                process.kill()
                raise
        assert process.returncode == 0, stderr
