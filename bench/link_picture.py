"""The picture of a work in which round trips are counted: one box for each, target by target."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .results import Figure, TargetResult, WorkResult

OURS, OTHERS = "#0072b2", "#9a9a9a"
SUFFIX = "_trips"
GAP = 0.06
"""Between two boxes, in round trips."""


def counts_trips(work: WorkResult) -> bool:
    """Whether this is the picture for it."""
    return work.figures[0].key.endswith(SUFFIX)


def of_work(work: WorkResult, width: float) -> Drawing:
    """A column for each figure that counts round trips."""
    from matplotlib.figure import Figure as Drawing

    shown = [figure for figure in work.figures if figure.key.endswith(SUFFIX)]
    targets = list(reversed(work.targets))  # the first on top
    most = [max((_trips(work, target, figure) for target in targets), default=1.0) for figure in shown]
    drawing = Drawing(figsize=(width, 1.6 + 0.5 * len(targets)), layout="constrained")
    columns = drawing.subplots(1, len(shown), squeeze=False, width_ratios=[2.5 + one for one in most])[0]
    drawing.suptitle("\n".join(textwrap.wrap(work.title, 95)), x=0.01, ha="left", fontsize=11, weight="bold")
    for number, (axes, figure) in enumerate(zip(columns, shown, strict=True)):
        _draw(axes, work, figure, targets)
        axes.set_xlim(0, most[number] + 2.3)
        axes.set_yticks(range(len(targets)), [one.name for one in targets] if number == 0 else [])
    return drawing


def _draw(axes: Axes, work: WorkResult, figure: Figure, targets: Sequence[TargetResult]) -> None:
    for row, target in enumerate(targets):
        trips = _trips(work, target, figure)
        color = OURS if target.name == "trio-pool" else OTHERS
        for box in range(math.ceil(trips)):
            size = min(1.0, trips - box)
            if size > GAP:
                axes.barh(row, size - GAP, left=box, height=0.5, color=color)
        milliseconds = work.spread(target.name, figure.key.replace(SUFFIX, "_milliseconds"))
        if milliseconds is None:
            axes.text(0, row, " no figure", va="center", color="#b00020", fontsize=8)
        else:
            text = f"{trips:.1f}\n{milliseconds.median:,.0f} ms"
            axes.text(trips + 0.15, row, text, va="center", fontsize=8)
    axes.set_xlabel(textwrap.fill(figure.title, 26), fontsize=8)
    axes.set_xticks([])
    axes.set_ylim(-0.6, len(targets) - 0.4)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def _trips(work: WorkResult, target: TargetResult, figure: Figure) -> float:
    spread = work.spread(target.name, figure.key)
    return 0.0 if spread is None else spread.median
