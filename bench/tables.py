"""The figures as tables on a terminal of 80 columns or more: ratios first, then what it took to get there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from .figures import Spread
    from .results import Figure, TargetResult, WorkResult

MEGABYTE = 1e6


def show(console: Console, work: WorkResult) -> None:
    """Everything that there is to say about one work."""
    console.print()
    console.print(Text(f"{work.name}: {work.title}", style="bold"))
    if problem := work.error or work.left_out:
        console.print(Text(f"{'error' if work.error else 'left out'}: {problem}"))
        return
    if len(work.figures) == 1:
        console.print(Text(f"{work.figures[0].title}{_better(work.figures[0])}", style="italic"))
    console.print(ratios(work))
    if any(one.counts for one in work.targets):
        each = f"latency in ms; CPU in microseconds and context switches (voluntary+not) per {work.unit}"
        console.print(Text(each, style="italic"))
        console.print(accounting(work))
    for line in remarks(work):
        console.print(Text(line))


def ratios(work: WorkResult) -> Table:
    """A row for each target and figure: median (lowest-highest), and the ratio to each that it is held to."""
    others = [name for name in work.against if (one := work.target(name)) is not None and one.counts]
    table = _table("", "median (lowest-highest)", *(f"/ {name}" for name in others))
    for figure in work.figures:
        if len(work.figures) > 1:
            table.add_row(Text(f"{figure.title}{_better(figure)}", style="italic"))
        for target in work.targets:
            table.add_row(target.name, *_cells(work, target, figure, others))
    return table


def accounting(work: WorkResult) -> Table:
    """Latencies in milliseconds; CPU and context switches for one of what is counted."""
    headings = ("p50", "p95", "p99", "p99.9", "user", "system", "machine", "MB", "switches", "load")
    table = _table("", *headings)
    for target in work.targets:
        if target.counts:
            table.add_row(target.name, *_accounts(target))
    return table


def remarks(work: WorkResult) -> Iterator[str]:
    """What else should be known: limits, complaints."""
    for target in work.targets:
        if target.limited:
            yield f"{target.name}: the load was as busy as it can be, so this is at least what it does"
        link = target.accounting("link")
        if link is not None:
            yield f"{target.name}: the link kept {link.median:.2f} of a core busy"
        for number, sample in enumerate(target.samples, 1):
            for note in sample.notes:
                yield f"{target.name}, round {number}: {note}"


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    return table


def _better(figure: Figure) -> str:
    return " (lower is better)" if figure.better == "lower" else ""


def _cells(work: WorkResult, target: TargetResult, figure: Figure, others: list[str]) -> Iterator[Text]:
    if target.error is not None:
        yield Text(f"error: {target.error}", style="red")
        return
    if target.left_out is not None:
        yield Text(f"left out: {target.left_out}")
        return
    spread = work.spread(target.name, figure.key)
    yield Text(f"{spread:{figure.spec}}" if spread else "-")
    if figure.better == "neither":
        return
    for other in others:
        ratio = work.ratio(target.name, other, figure.key) if other != target.name else None
        yield Text("" if other == target.name else f"{ratio:.2f}" if ratio else "-")


def _accounts(target: TargetResult) -> Iterator[str]:
    for key in ("p50", "p95", "p99", "p999"):
        yield _median(target.accounting(key), ",.2f")
    for key in ("user", "system", "machine"):
        yield _median(target.accounting(key), ",.1f")
    resident = target.accounting("resident")
    yield f"{resident.median / MEGABYTE:,.0f}" if resident else "-"
    voluntary, involuntary = target.accounting("voluntary"), target.accounting("involuntary")
    yield f"{voluntary.median:.2f}+{involuntary.median:.2f}" if voluntary and involuntary else "-"
    yield _median(target.accounting("load"), ".2f")


def _median(spread: Spread | None, spec: str) -> str:
    return f"{spread.median:{spec}}" if spread else "-"
