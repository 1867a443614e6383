"""`trio-pool top`: the status page in a terminal, or one JSON object per interval in a pipe."""

from __future__ import annotations

import http.client
import json
import os
import select
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trio_pool.cli.reading import read_or_exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import RenderableType

Json = dict[str, Any]

PATIENCE = 5.0
"""Seconds for an answer."""
SORTS: dict[str, tuple[str, Callable[[Json], Any]]] = {
    "w": ("waiting", lambda pool: -pool["waiting"]),
    "t": ("transactions", lambda pool: -pool["transactions_per_second"]),
    "l": ("leased", lambda pool: -pool["leased"]),
    "p": ("query p95", lambda pool: -(pool["query"]["p95"] or 0)),
    "n": ("name", lambda pool: (pool["database"], pool["user"])),
}
"""By the key that chooses it: what the pools are sorted by."""
NOT_OURS = "this is not the status page of a trio-pool"
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Past any proxy that the environment names: it would not know this machine by 127.0.0.1."""
BAR = 20
"""Characters of a pool's bar."""


@attrs.define
class Screen:
    """What is shown, and how."""

    url: str
    sort: str = "w"
    snapshot: Json | None = None
    problem: str = ""

    def look(self) -> None:
        """Get the latest; keep the last if there is none, and say so."""
        try:
            self.snapshot = fetch(self.url)
            self.problem = ""
        except OSError as error:
            self.problem = f"no answer from {self.url}: {error}; trying again"

    def __rich__(self) -> RenderableType:
        parts: list[RenderableType] = []
        if self.problem:
            parts.append(Text(self.problem, style="bold red"))
        if self.snapshot is not None:
            parts += [self._head(self.snapshot), self._pools(self.snapshot), _leases(self.snapshot)]
        keys = "  ".join(f"{key} {name}" for key, (name, _) in SORTS.items())
        parts.append(Text(f"sort by: {keys}    q quits", style="dim"))
        return Group(*parts)

    def _head(self, now: Json) -> RenderableType:
        totals, process = now["totals"], now["process"]
        state = "stopping" if process["stopping"] else "suspended" if process["suspended"] else "live"
        return Text(
            f"trio-pool {process['version']}, process {process['id']} at {self.url}: {state}, up for "
            f"{span(now['at'] - process['started_at'])}\n"
            f"{totals['transactions_per_second']:,.0f} transactions/s, {totals['queries_per_second']:,.0f} "
            f"queries/s, query p50 {span(totals['query']['p50'])}, p99 {span(totals['query']['p99'])}, "
            f"wait p95 {span(totals['wait']['p95'])}, {totals['clients']:,} clients, "
            f"{totals['waiting']:,} waiting{_from_memory(totals)}\n"
        )

    def _pools(self, now: Json) -> RenderableType:
        table = _table("database", "user", "servers", "")
        for name in (
            "leased",
            "idle",
            "size",
            "waiting",
            "pinned",
            "clients",
            "trans/s",
            "query p95",
            "wait p95",
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for pool in sorted(now["pools"], key=SORTS[self.sort][1]):
            counts = (pool[name] for name in ("leased", "idle", "size", "waiting", "pinned", "clients"))
            table.add_row(
                Text(pool["database"]),
                Text(pool["user"]),
                _bar(pool),
                Text(pool["failure"] or "", style="red"),
                *(f"{count:,}" for count in counts),
                f"{pool['transactions_per_second']:,.0f}",
                span(pool["query"]["p95"]),
                span(pool["wait"]["p95"]),
                style="yellow" if pool["waiting"] else "",
            )
        return table


def _from_memory(totals: Json) -> str:
    if not totals.get("cached"):
        return ""
    rate = totals["hit_rate"]
    share = "" if rate is None else f" ({rate:.0%})"
    return f", {totals['hits_per_second']:,.0f} answers/s from memory{share}"


def _leases(now: Json) -> RenderableType:
    table = _table("lease of", "from", "for", "doing")
    for lease in now["leases"]:
        who = f"{lease['database']}/{lease['user']}"
        table.add_row(Text(who), Text(lease["address"]), span(lease["leased_for"]), Text(lease["doing"]))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, expand=False)
    for column in columns:
        table.add_column(column, overflow="ellipsis")
    return table


def _bar(pool: Json) -> Text:
    leased = round(BAR * pool["leased"] / pool["size"])
    idle = min(BAR - leased, round(BAR * pool["idle"] / pool["size"]))
    return Text.assemble(("█" * leased, "blue"), ("▒" * idle, "blue"), ("·" * (BAR - leased - idle), "dim"))


def span(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "-"
    for most, factor, unit, digits in (
        (0.001, 1e6, "us", 0),
        (0.01, 1e3, "ms", 1),
        (1, 1e3, "ms", 0),
        (120, 1, "s", 1),
        (7200, 1 / 60, "min", 0),
    ):
        if seconds < most:
            return f"{seconds * factor:.{digits}f} {unit}"
    return f"{seconds / 3600:.1f} h"


def fetch(url: str) -> Json:
    """The latest snapshot. Raises OSError."""
    try:
        with _OPENER.open(f"{url}/snapshot.json", timeout=PATIENCE) as answer:
            found = json.load(answer)
    except urllib.error.URLError as error:
        raise OSError(error.reason if isinstance(error.reason, str) else str(error.reason)) from error
    except http.client.HTTPException as error:
        raise OSError(f"the answer broke off ({type(error).__name__})") from error
    except ValueError as error:
        raise OSError(NOT_OURS) from error
    if not isinstance(found, dict) or not found.keys() >= {"process", "totals", "pools", "leases"}:
        raise OSError(NOT_OURS)
    return found


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """What waits for a key: it returns that, or "" after so many seconds."""
    if not sys.stdin.isatty():

        def no_key(seconds: float) -> str:
            time.sleep(seconds)
            return ""

        yield no_key
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    tty.setcbreak(stdin)

    def wait(seconds: float) -> str:
        # Not through `sys.stdin`, which reads ahead what `select` then does not see.
        ready, _, _ = select.select([stdin], [], [], seconds)
        if not ready:
            return ""
        return os.read(stdin, 1).decode("ascii", "replace") or "q"  # the terminal is gone

    try:
        yield wait
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def watch(screen: Screen, interval: float, count: int) -> None:
    """Show it until `q`, or so many times (0: without end)."""
    left = count or -1
    with keys() as key, Live(screen, console=Console(), screen=not count, auto_refresh=False) as live:
        while left:
            screen.look()
            live.update(screen, refresh=True)
            left -= 1
            until = time.monotonic() + interval
            while left and (seconds := until - time.monotonic()) > 0:
                pressed = key(seconds)
                if pressed == "q":
                    return
                if pressed in SORTS:
                    screen.sort = pressed
                    live.update(screen, refresh=True)


def pipe(url: str, interval: float, count: int) -> None:
    """One JSON object per line. A pooler that does not answer is an object, too."""
    left = count or -1
    while left:
        try:
            line = fetch(url)
        except OSError as error:
            line = {"error": f"no answer from {url}: {error}"}
        click.echo(json.dumps(line))
        left -= 1
        if left:
            time.sleep(interval)


@click.command("top")
@click.option("--url", help="Where the status page is. Default: http://127.0.0.1:6480.")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="Take it from [http] address of this file."
)
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, metavar="SECONDS")
@click.option("--count", type=click.IntRange(0), default=0, help="End after so many times. Default: never.")
@click.option(
    "--sort",
    type=click.Choice([name for name, _ in SORTS.values()]),
    default="waiting",
    show_default=True,
    help="What the pools are sorted by.",
)
def command(url: str | None, path: Path | None, interval: float, count: int, sort: str) -> None:
    """Watch a running daemon: pools, leases, what waits. In a pipe: one JSON object per interval."""
    if url is None:
        url = "http://127.0.0.1:6480"
        if path is not None:
            address = read_or_exit(path).http.address
            if address is None:
                raise click.UsageError(f"{path} has no [http] address; add one, or name the page with --url")
            url = f"http://{address}"
    url = url.rstrip("/")
    try:
        if sys.stdout.isatty():
            chosen = next(key for key, (name, _) in SORTS.items() if name == sort)
            watch(Screen(url, chosen), interval, count)
        else:
            pipe(url, interval, count)
    except (KeyboardInterrupt, BrokenPipeError):
        pass
