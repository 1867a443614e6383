"""A picture for each work, and one of all ratios, as PNG and as SVG.

On the left the work's main figure: a bar for each target, its length the median, a dot for each round. On the
right what it cost: CPU inside the pooler for one of what is counted. matplotlib is imported when something is
drawn, and used without its global state.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from . import link_picture
from .problems import LeftOut

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Drawing

    from .results import Figure, Results, TargetResult, WorkResult

FORMATS = ("png", "svg")
SUMMARY = "summary"

# Ours stands out, the others are grey; the palette can be told apart by the colour-blind.
OURS, OURS_PALE, OTHERS, SYSTEM = "#0072b2", "#7fb8d8", "#9a9a9a", "#d55e00"
WIDTH = 9.0
DOTS_PER_INCH = 120

# Text stays text, and the same figures make the same file.
STYLE: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": "trio-pool", "font.size": 10}


def draw(results: Results, directory: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
    """All pictures, named after their works; raises `LeftOut` without matplotlib, or `OSError`."""
    try:
        from matplotlib import rc_context
    except ImportError:
        raise LeftOut("pictures need matplotlib, which comes with trio-pool[bench]") from None
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(STYLE):  # type: ignore[arg-type]
        drawings = {work.name: of_work(work) for work in results.works if has_picture(work)}
        if compared(results):
            drawings[SUMMARY] = summary(results)
        for name, drawing in drawings.items():
            written += _write(drawing, directory, name, formats)
    return written


def has_picture(work: WorkResult) -> bool:
    """Whether any target has figures."""
    return any(target.counts for target in work.targets)


def of_work(work: WorkResult) -> Drawing:
    """One work."""
    if link_picture.counts_trips(work):
        return link_picture.of_work(work, WIDTH)
    from matplotlib.figure import Figure as Drawing

    targets = list(reversed(work.targets))  # the first on top
    drawing = Drawing(figsize=(WIDTH, 1.5 + 0.5 * len(targets)), layout="constrained")
    costs = any(target.accounting("user") is not None for target in targets)
    left, *right = drawing.subplots(
        1, 2 if costs else 1, width_ratios=(5, 2) if costs else None, squeeze=False
    )[0]
    drawing.suptitle("\n".join(textwrap.wrap(work.title, 95)), x=0.01, ha="left", fontsize=11, weight="bold")
    _draw_figure(left, work, work.figures[0], targets)
    for axes in right:
        _draw_cpu(axes, work, targets)
    return drawing


def _draw_figure(axes: Axes, work: WorkResult, figure: Figure, targets: Sequence[TargetResult]) -> None:
    baseline = work.baseline()
    most = max((max(_known(target, figure)) for target in targets if target.counts), default=1.0) or 1.0
    for row, target in enumerate(targets):
        spread = work.spread(target.name, figure.key)
        if spread is None:
            axes.text(0, row, f" {_why_not(target)}", va="center", color="#b00020", fontsize=8)
            continue
        axes.barh(row, spread.median, height=0.6, color=_color(target.name))
        known = _known(target, figure)
        axes.plot(known, [row] * len(known), "o", color="black", markersize=3, alpha=0.6)
        ratio = work.ratio(target.name, baseline, figure.key) if baseline else None
        times = f"   {ratio.median:.2f} x {baseline}" if ratio and baseline != target.name else ""
        atleast = "at least " if target.limited else ""
        axes.text(
            max(spread.high, spread.median) + most * 0.015,
            row,
            f"{atleast}{spread.median:{figure.spec}}{times}",
            va="center",
            fontsize=9,
        )
    axes.set_yticks(range(len(targets)), [target.name for target in targets])
    axes.set_xlim(0, most * 1.45)
    axes.set_ylim(-0.6, len(targets) - 0.4)
    axes.set_xlabel(f"{figure.title} ({figure.better} is better); dots: rounds", fontsize=8)
    _tidy(axes)


def _draw_cpu(axes: Axes, work: WorkResult, targets: Sequence[TargetResult]) -> None:
    for row, target in enumerate(targets):
        user, system = target.accounting("user"), target.accounting("system")
        if user is None or system is None:
            continue
        axes.barh(row, user.median, height=0.6, color=_color(target.name))
        axes.barh(row, system.median, left=user.median, height=0.6, color=SYSTEM, alpha=0.55)
        total = user.median + system.median
        axes.text(total, row, f" {user.median:.1f} + {system.median:.1f}", va="center", fontsize=8)
    axes.margins(x=0.45)
    axes.set_yticks([])
    axes.set_ylim(-0.6, len(targets) - 0.4)
    axes.set_xlabel(f"CPU us per {work.unit}: user + system", fontsize=8)
    _tidy(axes)


def compared(results: Results) -> list[tuple[WorkResult, str]]:
    """The works in which trio-pool can be held to another target, and to which."""
    found = []
    for work in results.works:
        baseline = work.baseline()
        ours = work.target("trio-pool")
        if baseline and ours is not None and ours.counts and baseline != ours.name:
            found.append((work, baseline))
    return found


def summary(results: Results) -> Drawing:
    """The ratio of every work at one glance: right of the line trio-pool is ahead."""
    from matplotlib.figure import Figure as Drawing
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    rows = list(reversed(compared(results)))
    drawing = Drawing(figsize=(WIDTH, 1.4 + 0.3 * len(rows)), layout="constrained")
    axes = drawing.subplots()
    drawing.suptitle("trio-pool against the others, all works", x=0.01, ha="left", weight="bold")
    axes.axvline(1.0, color="black", linewidth=1)
    ends = [1.0]
    for row, (work, baseline) in enumerate(rows):
        ratio = work.ratio("trio-pool", baseline, work.figures[0].key)
        if ratio is None or not ratio.low:
            continue
        turned = work.figures[0].better == "lower"
        values = (ratio.median, ratio.low, ratio.high)
        median, low, high = (1 / ratio.median, 1 / ratio.high, 1 / ratio.low) if turned else values
        axes.plot([low, high], [row, row], color=OURS, linewidth=2)
        axes.plot([median], [row], "o", color=OURS if median >= 1 else SYSTEM)
        ends += [low, high]
    axes.set_yticks(range(len(rows)), [f"{work.name} / {baseline}" for work, baseline in rows], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(min(ends) / 1.2, max(ends) * 1.2)
    axes.xaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.33, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 100]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.set_xlabel("times as good as (right of 1: better; lines: lowest and highest round)", fontsize=8)
    _tidy(axes)
    return drawing


def _write(drawing: Drawing, directory: Path, name: str, formats: Iterable[str]) -> list[Path]:
    written = []
    for kind in formats:
        path = directory / f"{name}.{kind}"
        metadata = {"Date": None} if kind == "svg" else None
        drawing.savefig(path, dpi=DOTS_PER_INCH, metadata=metadata)
        written.append(path)
    return written


def _known(target: TargetResult, figure: Figure) -> list[float]:
    return [value for value in target.values(figure.key) if value is not None] or [0.0]


def _why_not(target: TargetResult) -> str:
    reason = target.error or target.left_out or "no figure"
    kind = "error: " if target.error else ""
    return textwrap.shorten(kind + " ".join(reason.split()), 80)


def _color(name: str) -> str:
    if name == "trio-pool":
        return OURS
    return OURS_PALE if name.startswith("trio-pool") else OTHERS


def _tidy(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(labelsize=9)
