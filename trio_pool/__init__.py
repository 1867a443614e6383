"""trio-pool: a PostgreSQL connection pooler on Trio.

Inside a Trio program:

    config = trio_pool.Config.from_dict({...})   # or trio_pool.read_config("trio-pool.toml")
    service = await nursery.start(trio_pool.serve, config)
"""

from __future__ import annotations

from trio_pool.config.model import Config
from trio_pool.config.reader import read as read_config
from trio_pool.daemon.service import Service, serve

__version__ = "0.1.0.dev0"

__all__ = ["Config", "Service", "read_config", "serve"]
