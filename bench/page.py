"""The page of results, in Markdown, from what `--json` wrote: conditions, method, tables, pictures, losses.

Nothing on it is written by hand: what it says of who wins follows from the ratios.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from . import pictures

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from .figures import Spread
    from .results import Figure, Results, TargetResult, WorkResult

GIBIBYTE = 1 << 30
OURS = "trio-pool"

# Fewer rounds than this agree by chance.
FEW = 3

METHOD = """\
Every round runs each target once, in turn, so that a machine that slows down slows all of them down; each
ratio is of two runs of the same round. Given are the median and, in parentheses, the lowest and the highest
round. CPU is in microseconds inside the pooler, user and system apart, for one of what the work counts; so
are context switches, voluntary and involuntary. Memory is the pooler's resident memory at the end of a run.
Latencies are quantiles of pgbench's log of transactions, of which fast works log a sample. `load` is the
share of the processor time that the load generator could have had and took: at 0.90 or more the load was what
was measured, and the figure is a lower bound.
"""

QUICK = """\
**This was a quick run: few and short rounds, to show that everything works. It is not for conclusions.**
"""


def write(results: Results, file: Path) -> list[Path]:
    """The page, and its pictures (SVG) in `pictures/` beside it; raises `LeftOut` or `OSError`."""
    folder = f"pictures/{file.stem}"
    drawn = pictures.draw(results, file.parent / folder, ("svg",))
    file.write_text("\n".join(lines(results, folder)).rstrip() + "\n")
    return [file, *drawn]


def lines(results: Results, folder: str) -> Iterator[str]:
    yield from ("# Results of the benchmarks", "")
    yield from ("Made by `trio-pool bench --from FILE.json --page`; [how it is measured](benchmarks.md).", "")
    if results.conditions["options"]["quick"]:
        yield QUICK
    yield from conditions(results.conditions)
    yield from ("## Method", "", METHOD)
    yield from conclusions(results)
    if pictures.compared(results):
        yield from (f"![All ratios at a glance]({folder}/{pictures.SUMMARY}.svg)", "")
    yield from ("## Works", "")
    for work in results.works:
        yield from of_work(work, folder)


def conditions(found: Mapping[str, Any]) -> Iterator[str]:
    machine, versions, options = found["machine"], found["versions"], found["options"]
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "pgbench")
    rounds = f"{options['rounds']} rounds of {options['seconds']} s, pgbench's scale {found['scale']}"
    database = "a throw-away one on the same machine" if found["own database"] else "named by a DSN"
    yield from (
        "## Conditions",
        "",
        "| | |",
        "|---|---|",
        f"| date | {found['at']} |",
        f"| processor | {machine['processor']}, {machine['cores']} cores, {machine['architecture']} |",
        f"| memory | {machine['memory'] / GIBIBYTE:.1f} GiB |",
        f"| kernel | {machine['system']} {machine['kernel']} |",
        f"| versions | {_escaped(named)}; {versions['pgbench']} |",
        f"| runs | {rounds} |",
        f"| database | {database} |",
        "",
    )
    for warning in found["warnings"]:
        yield from (f"**Note:** {_escaped(warning)}.", "")


def conclusions(results: Results) -> Iterator[str]:
    """Where we win, where we lose, where the rounds do not tell, and what failed.

    A quick run says only what failed.
    """
    found: dict[str, list[str]] = {"won": [], "lost": [], "open": []}
    for work in results.works:
        for figure in work.figures:
            for rival in rivals(work):
                ratio = work.ratio(OURS, rival, figure.key)
                if ratio is not None and figure.better != "neither":
                    sentence = f"- {said(work, figure, rival, ratio)}"
                    found[verdict(figure, ratio, results.conditions["options"]["rounds"])].append(sentence)
    if not results.conditions["options"]["quick"]:
        yield from _section("Where we lose", found["lost"], f"Nowhere in every one of at least {FEW} rounds.")
        yield from _section("Where we win", found["won"], f"Nowhere in every one of at least {FEW} rounds.")
        yield from _section("Where the rounds do not tell", found["open"], "Nowhere.")
    failed = [f"- `{name}`: {_escaped(reason)}" for name, reason in failures(results)]
    if failed:
        yield from _section("What failed", failed, "")


def rivals(work: WorkResult) -> list[str]:
    """Whom trio-pool is held to: those with figures; PostgreSQL itself only if there is nobody else."""
    known = [name for name in work.against if (one := work.target(name)) is not None and one.counts]
    others = [name for name in known if name != "direct"]
    return others or known


def verdict(figure: Figure, ratio: Spread, rounds: int) -> Literal["won", "lost", "open"]:
    """ "won" or "lost" only if all rounds agree, and if they are not too few to mean anything by it."""
    worse, better = ratio.high < 1, ratio.low > 1
    if figure.better == "lower":
        worse, better = better, worse
    if rounds < FEW or not (worse or better):
        return "open"
    return "won" if better else "lost"


def said(work: WorkResult, figure: Figure, rival: str, ratio: Spread) -> str:
    """Such as "select-only: 15% less than pgbouncer in transactions per second (ratio 0.85, ...)"."""
    more = ratio.median - 1
    if ratio.median >= 2:
        how = f"{ratio.median:.1f} times as much as {rival}"
    elif abs(more) < 0.005:
        how = f"as much as {rival}"
    else:
        how = f"{abs(more):.0%} {'more' if more > 0 else 'less'} than {rival}"
    better = ", of which less is better" if figure.better == "lower" else ""
    rounds = f"ratio {ratio.median:.2f}, rounds {ratio.low:.2f} to {ratio.high:.2f}"
    return f"{work.title}: {how} in {figure.title}{better} ({rounds})"


def failures(results: Results) -> Iterator[tuple[str, str]]:
    for work in results.works:
        if work.error:
            yield work.name, work.error
        for target in work.targets:
            if target.error:
                yield f"{work.name}, {target.name}", target.error


def of_work(work: WorkResult, folder: str) -> Iterator[str]:
    """A heading, the picture, the tables."""
    yield from (f"### {work.name}", "", f"{work.title[:1].upper()}{work.title[1:]}.", "")
    if work.error or work.left_out:
        yield from (f"{'Failed' if work.error else 'Left out'}: {_escaped(work.error or work.left_out)}.", "")
        return
    if pictures.has_picture(work):
        yield from (f"![{work.title}]({folder}/{work.name}.svg)", "")
    others = [name for name in work.against if (one := work.target(name)) is not None and one.counts]
    for figure in work.figures:
        yield from _figure_table(work, figure, others if figure.better != "neither" else [])
    yield from _accounting_table(work)
    links = {target.name: target.accounting("link") for target in work.targets}
    busy = [f"{name} {spread.median:.2f}" for name, spread in links.items() if spread is not None]
    if busy:
        yield f"The link kept this share of a core busy: {', '.join(busy)}; near 1 it was what was measured."
        yield ""


def _figure_table(work: WorkResult, figure: Figure, others: list[str]) -> Iterator[str]:
    better = " (lower is better)" if figure.better == "lower" else ""
    yield "| target | " + " | ".join([figure.title + better, *(f"/ {name}" for name in others)]) + " |"
    yield "|---" * (2 + len(others)) + "|"
    for target in work.targets:
        spread = work.spread(target.name, figure.key)
        if spread is None:
            cells = [_why_not(target), *("" for _ in others)]
        else:
            ratios = [work.ratio(target.name, name, figure.key) for name in others]
            cells = [f"{'at least ' if target.limited else ''}{spread:{figure.spec}}"]
            cells += [
                "" if name == target.name else f"{ratio:.2f}" if ratio else "-"
                for name, ratio in zip(others, ratios, strict=True)
            ]
        yield f"| {target.name} | " + " | ".join(cells) + " |"
    yield ""


def _accounting_table(work: WorkResult) -> Iterator[str]:
    counting = [target for target in work.targets if target.counts]
    if not counting:
        return
    headings = f"p50 ms | p95 | p99 | p99.9 | user us/{work.unit} | system | machine | switches | MB | load"
    yield f"| target | {headings} |"
    yield "|---" * 11 + "|"
    for target in counting:
        cells = [
            *(_median(target, key, ",.2f") for key in ("p50", "p95", "p99", "p999")),
            *(_median(target, key, ",.1f") for key in ("user", "system", "machine")),
            _pair(_median(target, "voluntary", ".2f"), _median(target, "involuntary", ".2f")),
            _median(target, "resident", ",.0f", 1e-6),
            _median(target, "load", ".2f"),
        ]
        yield f"| {target.name} | " + " | ".join(cells) + " |"
    yield ""


def _pair(one: str, other: str) -> str:
    return f"{one} + {other}" if one or other else ""


def _median(target: TargetResult, key: str, spec: str, factor: float = 1.0) -> str:
    spread = target.accounting(key)
    return f"{spread.median * factor:{spec}}" if spread else ""


def _why_not(target: TargetResult) -> str:
    if target.error:
        return f"error: {_escaped(target.error)}"
    return f"left out: {_escaped(target.left_out)}" if target.left_out else "-"


def _section(heading: str, sentences: list[str], otherwise: str) -> Iterator[str]:
    yield from (f"## {heading}", "", *(sentences or [otherwise]), "")


def _escaped(text: str | None) -> str:
    """One line that fits into a table's cell."""
    return " ".join((text or "").replace("|", "\\|").replace("<", "\\<").split())
