"""The hot path, compiled: the same tests, run against a build of this checkout as a wheel has it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.support import versions

ROOT = Path(__file__).parents[2]
SOURCES = [
    "LICENSE",
    "README.md",
    "bench",
    "packaging",
    "pyproject.toml",
    "setup.cfg",
    "setup.py",
    "trio_pool",
]
BESIDE_TESTS = ["docs", "examples", "pyproject.toml", "run.py", "tests"]
AGAIN = [
    "tests/pooling",
    "tests/wire",
    "tests/protocol",
    "tests/net/test_transaction_limits.py",
    "tests/net/test_time_races.py",
    "tests/net/test_bad_clients.py",
    "tests/net/test_queue_ahead_cross_talk.py",
]
"""The machines, and what drives clients and servers through the most of their code."""
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
HEADER = Path(sysconfig.get_paths()["include"]) / "Python.h"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"there is no C compiler {COMPILER!r}"),
    pytest.mark.skipif(not HEADER.exists(), reason="Python's headers are not installed"),
]


def copy(names: list[str], to: Path) -> None:
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(ROOT / name, to / name)


def source_in(place: Path) -> str:
    """What a wheel is built from; TRIO_POOL_WHEEL names one that was built of this checkout already."""
    place.mkdir()
    copy(SOURCES, place)
    return str(place)


def compiled_modules(installed: Path) -> set[str]:
    return {
        str(path.relative_to(installed)).partition(".")[0] for path in installed.glob("trio_pool/**/*.so")
    }


@pytest.mark.timeout(900)
def test_the_compiled_hot_path_keeps_the_same_promises(tmp_path: Path) -> None:
    """What mypyc makes of the hot path passes the tests that its source passes."""
    installed, beside = tmp_path / "installed", tmp_path / "tests"
    beside.mkdir()
    environment = {**os.environ, "TRIO_POOL_COMPILE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(installed)]
    command.append(os.environ.get("TRIO_POOL_WHEEL") or source_in(tmp_path / "source"))
    built = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr

    wanted = re.findall(r'^    "(\w+/\w+)",$', (ROOT / "setup.py").read_text(), flags=re.MULTILINE)
    assert compiled_modules(installed) == {f"trio_pool/{name}" for name in wanted}

    copy(BESIDE_TESTS, beside)
    environment["PYTHONPATH"] = str(installed)
    environment.pop("PYTEST_XDIST_WORKER", None)
    # Who has compiled it is all the same to PostgreSQL: the tests' source has met each of them.
    environment[versions.VARIABLE] = "first"
    pytest_again = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *AGAIN]
    again = subprocess.run(
        pytest_again, cwd=beside, env=environment, capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", again.stdout)
    assert passed is not None
    assert int(passed[1]) > 2500


def test_a_checkout_is_not_compiled() -> None:
    """Compiled modules beside their source would hide every change of it."""
    assert compiled_modules(ROOT) == set()
