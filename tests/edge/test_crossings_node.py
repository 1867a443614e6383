"""What clients of node-postgres and postgres.js cost in crossings between edge and origin."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import uuid
from pathlib import Path as File
from typing import TYPE_CHECKING

import pytest

from tests.support.node import NodeUnavailable, installed_modules
from tests.support.target import DATABASE, PASSWORD, USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.edge.path import Path

SCRIPT = File(__file__).with_name("crossings.js")
CONNECT = ["connect 0", "connect 0", "connect 0"]


@pytest.fixture(scope="session")
def node_modules(request: pytest.FixtureRequest) -> File:
    """The packages, in pytest's cache directory; tests that need them skip without npm."""
    assert request.config.cache is not None, "pytest's cacheprovider is off"
    try:
        return installed_modules(request.config.cache.mkdir("node"))
    except NodeUnavailable as unavailable:
        pytest.skip(str(unavailable))


@contextlib.contextmanager
def acting(path: Path, modules: File, action: str, text: str) -> Iterator[Callable[[], list[str]]]:
    """A process that acts; each call gives the turns of its next step."""
    options = {
        "host": path.target.host,
        "port": path.target.port,
        "user": USER,
        "password": PASSWORD,
        "database": DATABASE,
        "ssl": False,
    }
    with subprocess.Popen(
        ["node", SCRIPT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NODE_PATH": str(modules)},
    ) as process:
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None
        assert stdout is not None
        said = json.dumps({"action": action, "options": options, "text": text})

        def step() -> list[str]:
            nonlocal said
            with path.seen() as turns:
                stdin.write(said + "\n")
                stdin.flush()
                assert stdout.readline() == "done\n"
            said = ""
            return turns

        try:
            yield step
            stdin.write("\n")
            stdin.flush()
            assert process.wait(30) == 0
        finally:
            process.kill()


def new_sql() -> str:
    """A statement that nobody has prepared yet."""
    return f"select $1::int + 1 as a_{uuid.uuid4().hex}"


def test_node_postgres(path: Path, node_modules: File) -> None:
    """It never waits in between: one crossing for whatever it does, BEGIN aside, which costs none."""
    with acting(path, node_modules, "node_postgres", new_sql()) as step:
        assert step() == CONNECT
        assert step() == ["Q 1"]
        assert step() == ["PBDES 1"]
        assert step() == ["PBDES 1"]
        assert step() == ["BDES 1"]
        assert step() == ["Q 0", "BDES 1", "BDES 1", "BDES 1", "Q 1"]
        assert step() == ["Q 1", "PBDES 1"]


def test_postgres_js(path: Path, node_modules: File) -> None:
    """It waits for a new statement's description before it binds: two crossings, for the first of all
    clients. Its next connection pays one, like every execution.
    """
    text = new_sql()
    with acting(path, node_modules, "postgres_js", text) as step:
        assert step() == [*CONNECT, "PDH 1", "BES 1"]
        assert step() == ["BES 1"]
        assert step() == ["Q 1"]
        assert step() == ["Q 0", "BES 1", "BES 1", "BES 1", "PDBES 1"]
        assert step() == ["PDH 1", "BES 1"]
    path.rest()
    with acting(path, node_modules, "postgres_js", text) as step:
        assert step() == [*CONNECT, "PDH 0", "BES 1"]
        for _ in range(3):
            step()
        assert step() == ["PDH 0", "BES 1"]
