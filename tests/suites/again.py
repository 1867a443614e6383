"""Second chances for tests that fail when the machine is busy, whatever is under test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.suites.comparison import Exceptions, Result, failed_in_haste

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.suites.suite import Address, Suite

CHANCES = 3


def run_again(
    suite: Suite,
    directory: Path,
    target: Address,
    origin: Address,
    direct: Mapping[str, Result],
    pooled: Mapping[str, Result],
    exceptions: Exceptions,
) -> dict[str, Result]:
    """The results through the pool, those of `exceptions.hasty` that failed replaced by their last chance's.

    They run by themselves, at most three times. What cannot pass through the pool fails every time.
    """
    results = dict(pooled)
    for _ in range(CHANCES):
        names = failed_in_haste(direct, results, exceptions)
        if not names:
            break
        results |= attrs.evolve(suite, tests=tuple(names)).run(directory, target, origin)
    return results
