"""What a pool tells the console, the logs and the tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping


@attrs.frozen
class PoolStatistics:
    """A snapshot. The collections are counts of servers (or clients, for `waiting`), of which `pinned` are
    among the `leased`; `leases`, `waits` and `pins` (by reason) count since the start.
    """

    connecting: int
    idle: int
    leased: int
    cleaning: int
    cancelling: int
    waiting: int
    pinned: int
    leases: int
    waits: int
    pins: Mapping[str, int]
