"""All tables by name, and SHOW HELP."""

from __future__ import annotations

from typing import Final

from trio_pool.daemon.console import (
    show_cache,
    show_config,
    show_connections,
    show_leases,
    show_pools,
    show_process,
    show_stats,
    show_tunnels,
)
from trio_pool.daemon.console.show import Show, View
from trio_pool.daemon.console.table import columns

PGBOUNCERS: Final = {
    "CLIENTS": show_connections.CLIENTS,
    "CONFIG": show_config.CONFIG,
    "DATABASES": show_pools.DATABASES,
    "FDS": show_connections.FDS,
    "LISTS": show_pools.LISTS,
    "PEERS": show_pools.PEERS,
    "PEER_POOLS": show_pools.PEER_POOLS,
    "POOLS": show_pools.POOLS,
    "SERVERS": show_connections.SERVERS,
    "SOCKETS": show_connections.SOCKETS,
    "ACTIVE_SOCKETS": show_connections.ACTIVE_SOCKETS,
    "STATS": show_stats.STATS,
    "STATS_TOTALS": show_stats.STATS_TOTALS,
    "STATS_AVERAGES": show_stats.STATS_AVERAGES,
    "USERS": show_pools.USERS,
    "VERSION": show_process.VERSION,
    "TOTALS": show_stats.TOTALS,
    "MEM": show_process.MEM,
    "DNS_HOSTS": show_process.DNS_HOSTS,
    "DNS_ZONES": show_process.DNS_ZONES,
    "STATE": show_process.STATE,
}
OURS: Final = {
    "LEASES": show_leases.LEASES,
    "PINS": show_leases.PINS,
    "TIMEOUTS": show_leases.TIMEOUTS,
    "PREPARED": show_leases.PREPARED,
    "AHEAD": show_leases.AHEAD,
    "CACHE": show_cache.CACHE,
    "CACHE_REASONS": show_cache.CACHE_REASONS,
    "TUNNELS": show_tunnels.TUNNELS,
    "WORKERS": show_process.WORKERS,
}
SHOWS: Final = {**PGBOUNCERS, **OURS}


def find(name: str) -> Show | None:
    """The table of this name, in upper or lower case, or of a setting that drivers ask for."""
    known = SHOWS.get(name.upper())
    if known is not None:
        return known
    value = show_process.PRETENDED.get(name.lower())
    if value is None:
        return None

    def rows(view: View) -> list[tuple[str]]:
        return [(value,)]

    return Show(columns(name.lower()), rows, "a setting of the session")


HELP: Final = """
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW FDS|SOCKETS|ACTIVE_SOCKETS|LISTS|MEM|STATE
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSHOW LEASES|PINS|TIMEOUTS|PREPARED|AHEAD|CACHE|CACHE_REASONS|TUNNELS|WORKERS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSUSPEND
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tWAIT_CLOSE [<db>]
\tPURGE CACHE [<db> [TABLE <table> | TAG <tag>]]"""
"""The details of the notice that answers SHOW HELP."""
