"""`trio-pool bench`: the harness that measures trio-pool beside PostgreSQL and PgBouncer.

It is no part of this package: its code lies in `bench/` and is installed as `trio_pool.bench`. In a checkout
that nobody installed it is the `bench` that lies beside `trio_pool`.
"""

from __future__ import annotations

import importlib
import importlib.util

INSTALLED = "trio_pool.bench"


def harness() -> str:
    """The name by which the harness is imported here."""
    return INSTALLED if importlib.util.find_spec(INSTALLED) is not None else "bench"


command = importlib.import_module(f"{harness()}.command").command
