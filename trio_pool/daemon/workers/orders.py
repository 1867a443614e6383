"""What a worker is told when it begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from pathlib import Path

    from trio_pool.config.model import Config


@attrs.frozen
class Orders:
    """Along with it go the descriptors of the shared memory, if there is one, and of its listeners."""

    index: int
    count: int
    """How many workers there are to be."""
    config: Config
    started_with: Config
    """What the parent began with: of some keys, what is in force."""
    config_path: Path | None
    addresses: tuple[str, ...]
    """Where clients connect."""
    has_memory: bool
    rows: int
    """How many processes may write to the memory."""
    row: int
    """Where this one does."""
