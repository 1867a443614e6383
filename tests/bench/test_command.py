"""The whole harness, on a tiny selection of works. No timing is asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from bench import harness, works
from bench.stage import Options
from trio_pool.cli.bench import command

if TYPE_CHECKING:
    from pathlib import Path

TINY = ["--rounds", "2", "--seconds", "1", "--scale", "1", "--without", "pgbouncer"]


def test_every_work_has_a_name_of_its_own() -> None:
    """`--only` and `--compare` mean one work each."""
    names = [work.name for work in works.every()]
    assert len(set(names)) == len(names)
    assert set(works.QUICK) <= set(names)


def test_unknown_works_are_named() -> None:
    """A misspelt work does not leave the others unmeasured silently."""
    assert [work.name for work in works.chosen(["tpcb-simple", "crowd"])] == ["tpcb-simple", "crowd"]
    assert [work.name for work in works.chosen(["tpcb-*"])] == ["tpcb-simple", "tpcb-prepared"]
    with pytest.raises(LookupError, match="crowds"):
        works.chosen(["crowds", "tpcb-simple"])


def test_a_script_is_measured_alone(tmp_path: Path) -> None:
    """Unless works are named as well."""
    options = Options(script=tmp_path / "mine.sql")
    assert [work.name for work in harness.chosen_works(options, [])] == ["script"]
    assert [work.name for work in harness.chosen_works(options, ["crowd"])] == ["crowd", "script"]


def test_the_command_is_registered() -> None:
    """`trio-pool bench` is what `bench.command` describes."""
    assert command.name == "bench"


@pytest.mark.e2e
@pytest.mark.slow
def test_one_command_measures_and_draws(tmp_path: Path) -> None:
    """It starts everything, measures, stops everything, and writes figures and pictures."""
    script = tmp_path / "one.sql"
    script.write_text("SELECT 1;\n")
    files = {name: tmp_path / name for name in ("figures.json", "pictures")}
    outputs = ["--json", str(files["figures.json"]), "--pictures", str(files["pictures"])]
    asked = ["--only", "connect-tls", "--script", str(script), "--clients", "2", "--pool-size", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "trio_pool", "bench", *TINY, *asked, *outputs],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    written = json.loads(files["figures.json"].read_text())
    assert written["conditions"]["machine"]["cores"] >= 1
    assert written["conditions"]["versions"]["postgresql"]
    connecting, scripted = written["works"]
    (ours,) = connecting["targets"]
    assert ours["summary"]["connections"]["spread"]["low"] > 0
    assert {target["name"] for target in scripted["targets"]} == {"direct", "trio-pool"}
    (ours,) = (target for target in scripted["targets"] if target["name"] == "trio-pool")
    assert len(ours["rounds"]) == 2
    assert ours["rounds"][0]["latencies"]["p99"] > 0
    assert ours["rounds"][0]["processes"] == 1
    assert ours["summary"]["tps"]["ratios"]["direct"]["median"] > 0
    assert (files["pictures"] / "script.png").stat().st_size > 0
    assert "/ direct" in done.stdout
