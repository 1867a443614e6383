"""The text of `docs/metrics.md`, made from the table of metrics so that the two always agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_pool.daemon.lag import EVERY, RECENT
from trio_pool.daemon.web.families import (
    BUILD,
    BUILD_HELP,
    BUILD_LABELS,
    CACHE,
    DATABASE,
    POOL,
    PROCESS,
    TUNNEL,
)
from trio_pool.daemon.web.ledger import MOST_PAIRS, OTHER
from trio_pool.pooling.traffic import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from trio_pool.daemon.web.families import Family, Seen

_INTRODUCTION = """\
# Metrics and health

<!-- Made by docs/generate_metrics.py from trio_pool/daemon/web; change the texts there. -->

With `address` in `[http]`, trio-pool serves `/metrics` for Prometheus, `/healthz` and `/readyz` for whatever
starts and stops it, and a status page at `/`. Without, it serves none of them. There is no authentication:
choose an address that only those reach who may know names of databases and users, and what an origin is
called.

```toml
[http]
address = "127.0.0.1:6480"
```

The ready line in the log has the address as `http=`. It is served until the last client has left, so a pooler
that drains can still be watched. An address that is in use ends the start with exit status 1.

With several [workers](workers.md) the address is the parent's, and everything is about all of them together:
counts and histograms are sums, also of what workers have counted that have died since, as far as it had been
scraped or shown. So no counter ever falls until the parent itself is started again. A worker that does not
answer within 5 s counts with what it said last. `/readyz` says no when no worker serves.

## Health

| path | status | body |
|---|---|---|
| `/healthz` | 200, always | `ok`: the process runs, and its event loop gets round to answering |
| `/readyz` | 200 if new clients are served, else 503 | JSON, see below |

```json
{
  "ready": false,
  "not_ready_because": ["no origin is reachable"],
  "databases": [
    {
      "database": "app",
      "origin": "postgresql://pool_user@db.internal:5432/app",
      "state": "active",
      "reachable": false,
      "failure": "connection to db.internal:5432 refused"
    }
  ]
}
```

`/readyz` gives 503

- while it drains (`stopping`) and during `SUSPEND`,
- if every database is paused or disabled, but not if one is and another is not,
- if no origin is reachable: then another trio-pool may do better. One origin of several that is down is
  named, and the status stays 200, because the clients of the others are served. An origin that nobody has
  asked for yet counts as reachable. What a single user is told at login is not held against the origin where
  clients log in there as themselves.

Restart on `/healthz`, route by `/readyz`. A restart mends no origin.

## Prometheus

```yaml
scrape_configs:
  - job_name: trio-pool
    static_configs:
      - targets: ["127.0.0.1:6480"]
```

Prometheus' text format and OpenMetrics are served, compressed where the scraper accepts it. A scrape takes
turns with the data plane, in parts of a millisecond or two.

- {download}`Alert rules <alerts.yml>` for what should wake somebody up.
- {download}`A dashboard <grafana-dashboard.json>` for Grafana: *Dashboards*, *New*, *Import*.

A counter with a `reason` or a `limit` appears when it first has something to count; until then there is
nothing, not 0. Counters count since the start, and do not go down when a reload takes a database away.
"""

_BOUNDED = f"""\
At most {MOST_PAIRS} pairs of `database` and `user` are told apart. Where the origin's URL has no user there
is a pool for every user of the clients, and there can be any number; those that come later are summed up
under `user="{OTHER}"`, and under `database="{OTHER}"` if they came through `"*"`. `user` is who the pool logs
in as at the origin: with a user in the origin's URL, all clients of the database are in one series.
"""


def render() -> str:
    """The whole page, in MyST Markdown."""
    bounds = ", ".join(f"{bound:g}" for bound in BOUNDS)
    sections = [
        _INTRODUCTION,
        f"All histograms have the buckets {bounds} (seconds).\n",
        "## Of pools\n\nLabels: `database`, `user`, and the one that is named.\n",
        _BOUNDED,
        _table(_row(family) for family in POOL),
        "## Of databases\n\nLabel: `database`, as it is configured.\n",
        _table(_row(family) for family in DATABASE),
        "## Of query caches\n\nLabel: `database`, of those with a cache, by the name that clients use.\n",
        _table(_row(family) for family in CACHE),
        "## Of tunnels\n\nLabels: `side` (`edge` or `origin`), what the process is to them; `peer`, at an "
        "edge the origin's name, at an origin the edge's address; and the one that is named.\n",
        _table(_row(family) for family in TUNNEL),
        "## Of the process\n",
        _table([_line(f"{BUILD}_info", "gauge", BUILD_LABELS, BUILD_HELP), *map(_row, PROCESS)]),
        f"The lag is looked at every {EVERY:g} s, and its maximum is that of the last {RECENT:g} s. On Linux "
        "there are also the `process_*` metrics that all Prometheus clients have: CPU time, memory, "
        "descriptors.\n",
    ]
    return "\n".join(sections)


def names() -> set[str]:
    """Every name that a query can ask for."""
    found = {f"{BUILD}_info"}
    for families in (POOL, DATABASE, CACHE, TUNNEL, PROCESS):
        for family in families:
            parts = ("_bucket", "_count", "_sum") if family.kind == "histogram" else ("",)
            found |= {f"{family.full_name}{part}" for part in parts}
    return found


def _row(family: Family[Seen]) -> str:
    return _line(family.full_name, family.kind, [family.label] if family.label else [], family.help)


def _line(name: str, kind: str, labels: Sequence[str], about: str) -> str:
    return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels)} | {about} |"


def _table(rows: Iterable[str]) -> str:
    def lines() -> Iterator[str]:
        yield "| name | kind | label | meaning |"
        yield "|---|---|---|---|"
        yield from rows

    return "\n".join(lines()) + "\n"
