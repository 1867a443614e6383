"""What is made of results: the file, the comparison with an older one, the tables, the page, the pictures."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from click.testing import CliRunner
from rich.console import Console

from bench import compare, page, pictures, tables
from bench.command import command
from bench.figures import Spread
from bench.results import Results, TargetResult
from tests.bench import made

if TYPE_CHECKING:
    from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n"

FAILED = TargetResult("trio-pool", made.target("trio-pool", 99_999.0).samples, error="it |fell| over")
SLOWER = made.work(
    "slower",
    made.target("direct", 100.0, 100.0, 100.0),
    made.target("trio-pool", 40.0, 45.0, 50.0),
    made.target("pgbouncer", 50.0, 50.0, 100.0),
)
FASTER = made.work(
    "faster",
    made.target("trio-pool", 1.0, 1.0, 1.0, key="p99"),
    made.target("pgbouncer", 2.0, 2.5, 4.0, key="p99"),
    figure=made.LATENCY,
)
BROKEN = made.work("broken", FAILED, made.target("pgbouncer", 50.0, 50.0, 50.0))
ALL = made.results(SLOWER, FASTER, BROKEN)


def shown(work_name: str) -> str:
    """The tables of a work, as text."""
    console = Console(width=120, file=io.StringIO(), record=True)
    found = ALL.work(work_name)
    assert found is not None
    tables.show(console, found)
    return console.export_text()


def test_results_survive_their_file() -> None:
    """Everything that is shown can be shown again from the JSON."""
    written = json.loads(json.dumps(ALL.as_json()))
    assert Results.from_json(written) == ALL
    summary = written["works"][0]["targets"][1]["summary"]
    assert summary["tps"]["ratios"]["pgbouncer"] == {"median": 0.8, "low": 0.5, "high": 0.9}
    assert summary["user"]["median"] == 7.0
    assert summary["p999"]["median"] == 4.0


def test_an_error_is_no_speed() -> None:
    """Neither in the file's summary nor in a table nor as a baseline."""
    (_, _, broken) = ALL.as_json()["works"]
    assert broken["targets"][0]["summary"] == {}
    assert ALL.failed
    assert "99,999" not in shown("broken")
    assert "error: it |fell| over" in shown("broken")


def test_a_table_has_medians_ratios_and_spreads() -> None:
    """As they follow from the rounds."""
    text = shown("slower")
    assert "45 (40-50)" in text
    assert "0.80 (0.50-0.90)" in text
    assert "0.45 (0.40-0.50)" in text


def test_a_load_at_its_limit_is_marked() -> None:
    """Its figure is a lower bound, and says so."""
    limited = made.work("limited", made.target("trio-pool", 1.0, load=0.95))
    assert any("at least" in line for line in tables.remarks(limited))
    assert not list(tables.remarks(SLOWER))


def test_comparing_tells_a_change_from_the_spread() -> None:
    """Rounds that overlap with the old ones are no news; for latencies less is better."""
    ratios = ("trio-pool", 90.0, 90.0, 90.0), ("pgbouncer", 100.0, 100.0, 100.0)
    new = made.results(
        made.work("slower", *(made.target(*one) for one in ratios)),
        made.work(
            "faster",
            made.target("trio-pool", 3.0, 3.0, 3.0, key="p99"),
            made.target("pgbouncer", 2.0, 2.0, 2.0, key="p99"),
            figure=made.LATENCY,
        ),
        made.work("new"),
    )
    first, second, third = compare.changes(ALL, new)
    assert isinstance(first, compare.Change)
    assert isinstance(second, compare.Change)
    assert (first.old, first.new) == (Spread(0.8, 0.5, 0.9), Spread(0.9, 0.9, 0.9))
    assert (first.verdict, second.verdict) == ("within the spread", "worse")
    assert third == "new: not in the old results"


def test_other_works_are_not_compared() -> None:
    """A work of the same name with other clients is another work."""
    other = made.results(made.work("slower", made.target("trio-pool", 1.0), title="with more clients"))
    (only,) = compare.changes(ALL, other)
    assert isinstance(only, str)
    assert "not the same work" in only


def test_pictures_are_drawn_of_every_work_and_of_all(tmp_path: Path) -> None:
    """As PNG and as SVG with text in it, the failed target included."""
    pictures.draw(ALL, tmp_path)
    names = ("slower", "faster", "broken", "summary")
    files = {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    assert {path.name for path in tmp_path.iterdir()} == files
    assert (tmp_path / "slower.png").read_bytes().startswith(PNG)
    root = ElementTree.parse(tmp_path / "broken.svg").getroot()
    assert "error: it |fell| over" in " ".join(root.itertext())


def test_the_page_says_where_we_lose(tmp_path: Path) -> None:
    """In words that follow from the ratios, with conditions, tables, pictures and what failed."""
    written = page.write(ALL, tmp_path / "results.md")
    text = written[0].read_text()
    lose, win = text.partition("## Where we lose")[2].partition("## Where we win")[::2]
    assert "the work slower: 20% less than pgbouncer in transactions per second" in lose
    assert "the work faster: 60% less than pgbouncer in p99, milliseconds, of which less is better" in win
    assert "Some \\| Processor, 2 cores" in text or "Some | Processor, 2 cores" in text
    assert "- `broken, trio-pool`: it \\|fell\\| over" in text
    assert "| trio-pool | 45 (40-50) | 0.80 (0.50-0.90) | 0.45 (0.40-0.50) |" in text
    for picture in written[1:]:
        assert f"]({picture.relative_to(tmp_path)})" in text


def test_few_rounds_say_nothing() -> None:
    """Two rounds agree by chance."""
    assert page.verdict(made.TPS, Spread(2.0, 1.5, 3.0), 2) == "open"
    assert page.verdict(made.TPS, Spread(2.0, 1.5, 3.0), 3) == "won"
    assert page.verdict(made.LATENCY, Spread(2.0, 1.5, 3.0), 3) == "lost"


def test_the_command_shows_old_results_and_fails_for_them(tmp_path: Path) -> None:
    """`--from` and `--compare` measure nothing; an error in the results is the exit status."""
    file = tmp_path / "old.json"
    file.write_text(json.dumps(ALL.as_json()))
    done = CliRunner().invoke(command, ["--from", str(file), "--compare", str(file)])
    assert done.exit_code == 1
    assert "45 (40-50)" in done.stdout
    assert "within the spread" in done.stdout


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Some other JSON is a wrong command line, not a traceback."""
    file = tmp_path / "other.json"
    file.write_text("[]")
    done = CliRunner().invoke(command, ["--from", str(file)])
    assert done.exit_code == 2
