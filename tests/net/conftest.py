"""The option of the kill storm."""

from __future__ import annotations

import os

import pytest

STORM_SECONDS = 6.0


def pytest_addoption(parser: pytest.Parser) -> None:
    """Known when pytest is told about this directory; the environment variable always is."""
    parser.addoption("--storm-seconds", type=float, help="how long the kill storm lasts, for each PostgreSQL")


@pytest.fixture
def storm_seconds(pytestconfig: pytest.Config) -> float:
    """60 for a proof; short by default."""
    given = pytestconfig.getoption("--storm-seconds", default=None)
    return float(given or os.environ.get("TRIO_POOL_STORM_SECONDS", STORM_SECONDS))
