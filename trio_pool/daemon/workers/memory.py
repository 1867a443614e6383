"""Memory that all workers of a parent write to, each in a row of its own (cache/freshness.py)."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs

from trio_pool.cache.freshness import Counters

if TYPE_CHECKING:
    from collections.abc import Iterator


@attrs.frozen(eq=False)
class SharedMemory:
    """It has no name and is gone with the last process that has it."""

    descriptor: int
    rows: int

    @classmethod
    @contextmanager
    def made(cls, rows: int) -> Iterator[SharedMemory]:
        """Zeros, for so many processes."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("trio-pool")
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        try:
            os.ftruncate(descriptor, Counters.size(rows))
            yield cls(descriptor, rows)
        finally:
            os.close(descriptor)
