"""trio-pool: a PostgreSQL connection pooler on Trio.

Inside a Trio program:

    config = trio_pool.Config.from_dict({...})   # or trio_pool.read_config("trio-pool.toml")
    service = await nursery.start(trio_pool.serve, config)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_pool.config.model import Config
    from trio_pool.config.reader import read as read_config
    from trio_pool.daemon.service import Service, serve

__version__ = "0.1.0.dev0"

__all__ = ["Config", "Service", "read_config", "serve"]

_HOMES = {
    "Config": ("trio_pool.config.model", "Config"),
    "Service": ("trio_pool.daemon.service", "Service"),
    "read_config": ("trio_pool.config.reader", "read"),
    "serve": ("trio_pool.daemon.service", "serve"),
}


def __getattr__(name: str) -> object:
    """Imported on first use: the daemon takes most of a second, and not every command needs it."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    value = globals()[name] = getattr(importlib.import_module(module), attribute)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
