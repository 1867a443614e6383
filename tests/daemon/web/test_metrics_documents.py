"""What the documentation has of metrics is what the program has: the page, the dashboard, the alert rules."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from trio_pool.daemon.web.families import DATABASE, POOL, PROCESS
from trio_pool.daemon.web.reference import names, render
from trio_pool.errors import Reason

DOCS = Path(__file__).resolve().parents[3] / "docs"
DASHBOARD = json.loads((DOCS / "grafana-dashboard.json").read_text("utf-8"))
RULES = yaml.safe_load((DOCS / "alerts.yml").read_text("utf-8"))

FAMILIES: list[Any] = [*POOL, *DATABASE, *PROCESS]
FROM_ELSEWHERE = {"up", "process_cpu_seconds_total"}
"""Of Prometheus itself, and of its client library."""
COLUMNS = 24
"""Of Grafana's grid."""


def panels() -> list[dict[str, Any]]:
    """Those that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def alerts() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    """Everything in either file that asks for a metric."""
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [one["definition"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    return asked + [rule["expr"] for rule in alerts()]


def metrics(expression: str) -> set[str]:
    """The names of metrics in a PromQL expression; what is in quotes or braces is not one."""
    bare = re.sub(r'"[^"]*"', "", expression)
    return set(re.findall(r"\b(?:trio_pool|process)_\w+|\bup\b", re.sub(r"\{[^}]*\}", "", bare)))


def labels(expression: str) -> set[str]:
    """The labels that it selects or groups by."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    selected = {
        name for braces in re.findall(r"\{([^}]*)\}", bare) for name in re.findall(r"(\w+)\s*[=!]", braces)
    }
    grouped = {name for by in re.findall(r"by \(([^)]*)\)", bare) for name in re.findall(r"\w+", by)}
    return selected | grouped


def test_the_committed_page_is_the_generated_one() -> None:
    """docs/metrics.md is what docs/generate_metrics.py writes."""
    assert (DOCS / "metrics.md").read_text("utf-8") == render()


def test_every_metric_is_explained_once() -> None:
    """Names are unique, in Prometheus' alphabet and base units; each has a text that fits into a table."""
    assert len({family.full_name for family in FAMILIES}) == len(FAMILIES)
    for family in FAMILIES:
        assert re.fullmatch(r"trio_pool_[a-z_]+", family.full_name)
        assert re.fullmatch(r"[A-Z0-9].*\.", family.help)
        assert not {"|", "\n"} & set(family.help)
        assert family.kind != "histogram" or family.name.endswith("_seconds")
        assert not re.search(r"(millis|micros|_ms|_kb|_mb|_total)$", family.name)


@pytest.mark.parametrize("expression", expressions())
def test_what_is_asked_for_exists(expression: str) -> None:
    """Every query of the dashboard and of the rules names metrics, labels and reasons that there are, and its
    brackets are closed.
    """
    asked = metrics(expression)
    assert asked
    assert asked <= names() | FROM_ELSEWHERE
    known = {
        "database",
        "user",
        "job",
        "instance",
        "le",
        *(family.label for family in FAMILIES),
    }
    assert labels(expression) <= known
    for reasons in re.findall(r'reason=~?"([^"]*)"', expression):
        assert set(reasons.split("|")) <= {reason.value for reason in Reason}
    for opening, closing in ("()", "[]", "{}"):
        assert expression.count(opening) == expression.count(closing)


def test_the_dashboard_can_be_imported() -> None:
    """It has what Grafana wants of a dashboard: identities, a data source that is chosen on import, panels on
    the grid that do not cover each other, and variables that are defined before they are used.
    """
    assert DASHBOARD["title"] == "trio-pool"
    assert DASHBOARD["schemaVersion"] >= 36
    everything = DASHBOARD["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    covered: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= COLUMNS
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & covered
        covered |= cells
    known: set[str] = set()
    for variable in DASHBOARD["templating"]["list"]:
        assert _variables(json.dumps(variable.get("query"))) <= known
        known.add(variable["name"])
    for panel in panels():
        assert panel["targets"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert _variables(json.dumps(panel["targets"])) <= known


def _variables(text: str) -> set[str]:
    """Those that are used; the ones with two underscores are Grafana's own."""
    return {name for name in re.findall(r"\$\{?(\w+)", text) if not name.startswith("__")}


def test_the_rules_are_rules() -> None:
    """Each alert has a name of its own, a severity, a summary and a duration that Prometheus reads, and its
    texts use only labels that its expression leaves it.
    """
    assert list(RULES) == ["groups"]
    assert len({rule["alert"] for rule in alerts()}) == len(alerts())
    for rule in alerts():
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert re.fullmatch(r"[1-9]\d*[smh]", rule.get("for", "1s"))
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"]
        grouped = re.findall(r"by \(([^)]*)\)", rule["expr"])
        for text in rule["annotations"].values():
            used = set(re.findall(r"\$labels\.(\w+)", text))
            assert used <= {"instance", "database", "user"}
            if grouped:
                assert used <= set(re.findall(r"\w+", grouped[0]))
