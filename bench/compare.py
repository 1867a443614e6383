"""Two results side by side: the ratios then and now, and whether the rounds tell them apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from rich import box
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .figures import Spread
    from .results import Figure, Results, WorkResult


@attrs.frozen
class Change:
    """One figure's ratio `old` and `new`, of trio-pool to `other`."""

    work: str
    figure: Figure
    target: str
    other: str
    old: Spread
    new: Spread

    @property
    def share(self) -> float:
        """By what share the median grew, or shrank if negative."""
        return self.new.median / self.old.median - 1 if self.old.median else 0.0

    @property
    def verdict(self) -> str:
        """Rounds of the two that overlap tell nothing."""
        if self.old.overlaps(self.new):
            return "within the spread"
        return "better" if (self.share > 0) == (self.figure.better == "higher") else "worse"


def changes(old: Results, new: Results) -> Iterator[Change | str]:
    """For each work of both; a string says why a work cannot be compared."""
    for work in new.works:
        before = old.work(work.name)
        if before is None:
            yield f"{work.name}: not in the old results"
        elif before.title != work.title:
            yield f"{work.name}: not the same work then ({before.title}) and now ({work.title})"
        else:
            found = list(of_work(before, work))
            yield from found
            if not found:
                yield f"{work.name}: no ratio in both"


def of_work(old: WorkResult, new: WorkResult) -> Iterator[Change]:
    """Ratios of trio-pool's targets to the first that both can be held to."""
    for target in new.targets:
        if not target.name.startswith("trio-pool"):
            continue
        for figure in new.figures:
            if figure.better == "neither":
                continue
            for other in new.against:
                was, now = (work.ratio(target.name, other, figure.key) for work in (old, new))
                if other != target.name and was is not None and now is not None:
                    yield Change(new.name, figure, target.name, other, was, now)
                    break


def table(old: Results, new: Results) -> tuple[Table, list[str]]:
    """What is shown, and why works are missing from it."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left")
    shown.title = "ratios, old and new"
    for number, heading in enumerate(("", "/", "old", "new", "change", "")):
        shown.add_column(heading, justify="left" if number in (0, 1, 5) else "right", overflow="fold")
    missing = []
    for change in changes(old, new):
        if isinstance(change, str):
            missing.append(change)
            continue
        what = f"{change.work}, {change.figure.title}"
        if change.target != "trio-pool":
            what += f", {change.target}"
        ratios = (f"{change.old:.2f}", f"{change.new:.2f}", f"{change.share:+.1%}")
        shown.add_row(what, change.other, *ratios, change.verdict)
    return shown, missing
