"""Which tests run in one process, and in which order, when pytest-xdist runs them in several.

A file's tests of one PostgreSQL stay together, so that what the file sets up (a PostgreSQL, a pooler, roles)
is set up once and not in every process. What takes long begins first, so that no process is left alone with
it at the end. Other people's suites take longest, and several processes each: kept together, there are never
more of them at once than there are PostgreSQLs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest
    from xdist.remote import Producer

# What takes long, longest first; whatever is not named comes after it.
FIRST = (
    "tests/suites/test_suites.py",
    "tests/compiled/",
    "tests/net/test_vanished.py",
    "tests/e2e/test_sessions",
    "tests/daemon/",
    "tests/migration/test_same",
    "tests/auth/",
    "tests/e2e/",
    "tests/bench/",
    "tests/net/",
    "tests/cli/",
)

_PARAMETERS = re.compile(r"\[.*\]$")


def group(test: str, installations: Sequence[str]) -> str:
    """The name of those tests with which a test stays together, from pytest's id."""
    file, _, rest = test.partition("::")
    parameters = _PARAMETERS.search(rest)
    words = parameters[0].strip("[]").split("-") if parameters else []
    return "::".join([file, *(label for label in installations if label in words)])


def rank(test: str) -> int:
    """What sorts the tests."""
    return next((place for place, start in enumerate(FIRST) if test.startswith(start)), len(FIRST))


class Distribution(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Groups of tests, in the order in which they were collected."""

    def __init__(self, config: pytest.Config, log: Producer, installations: Sequence[str]) -> None:
        super().__init__(config, log)
        self._installations = installations
        config.option.loadscopereorder = False  # that would be by their number

    def _split_scope(self, nodeid: str) -> str:
        return group(nodeid, self._installations)
