"""What was found out: for each work and target the rounds, and the medians, spreads and ratios of them.

`as_json` and `from_json` are the file that `--json` writes. Everything that is shown (tables, pictures, the
page) is made of these, so it can be made again from the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import attrs

from . import figures
from .figures import Latencies, Spread
from .sample import Sample

FORMAT = 1

# Above this share of what it could have had, the load is called the limit.
LIMITING = 0.9

Better = Literal["higher", "lower", "neither"]


@attrs.frozen
class Figure:
    """One figure of a work: `title` such as "transactions per second", `spec` as numbers are formatted.

    "neither": it only says what happened, and has no ratio.
    """

    key: str
    title: str
    better: Better = "higher"
    spec: str = ",.0f"


@attrs.frozen
class TargetResult:
    """`samples` are the rounds. With an `error`, or `left_out`, they are no measurement of anything."""

    name: str
    samples: tuple[Sample, ...] = ()
    error: str | None = None
    left_out: str | None = None

    @property
    def counts(self) -> bool:
        return self.error is None and self.left_out is None and bool(self.samples)

    def values(self, key: str) -> list[float | None]:
        """Of one figure, round by round."""
        return [sample.figures.get(key) for sample in self.samples]

    def accounting(self, key: str) -> Spread | None:
        """Of an attribute of the samples, or of their latencies."""
        if not self.counts:
            return None
        latency = key in attrs.fields_dict(Latencies)
        parts = [sample.latencies if latency else sample for sample in self.samples]
        return figures.spread(getattr(part, key) if part is not None else None for part in parts)

    @property
    def limited(self) -> bool:
        """Whether the load was as busy as it can be, so that the target could have done more."""
        load = self.accounting("load")
        return load is not None and load.median >= LIMITING


ACCOUNTING = (
    "p50",
    "p95",
    "p99",
    "p999",
    "user",
    "system",
    "machine",
    "resident",
    "voluntary",
    "involuntary",
    "load",
    "link",
)


@attrs.frozen
class WorkResult:
    """`unit`: what the accounting is for one of. `against`: whose ratios are given, most important first.

    `error` and `left_out` are of the work as a whole, which then has no targets.
    """

    name: str
    title: str
    figures: tuple[Figure, ...]
    unit: str = "transaction"
    against: tuple[str, ...] = ("pgbouncer", "direct")
    targets: tuple[TargetResult, ...] = ()
    error: str | None = None
    left_out: str | None = None

    def target(self, name: str) -> TargetResult | None:
        return next((one for one in self.targets if one.name == name), None)

    def spread(self, target: str, key: str) -> Spread | None:
        """None for a target that failed: an error is no speed."""
        found = self.target(target)
        return figures.spread(found.values(key)) if found is not None and found.counts else None

    def ratio(self, target: str, other: str, key: str) -> Spread | None:
        """Of the same rounds. None if one of them failed, or of a figure that has no ratio."""
        one, baseline = self.target(target), self.target(other)
        if one is None or baseline is None or not one.counts or not baseline.counts:
            return None
        return figures.ratios(one.values(key), baseline.values(key))

    def baseline(self) -> str | None:
        """The most important target to compare with that has figures."""
        known = {one.name for one in self.targets if one.counts}
        return next((name for name in self.against if name in known), None)

    @property
    def failed(self) -> bool:
        return self.error is not None or any(one.error is not None for one in self.targets)

    def as_json(self) -> dict[str, Any]:
        """With the medians, spreads and ratios, which `from_json` computes again."""
        plain = attrs.asdict(self)
        for target in plain["targets"]:
            target["rounds"] = target.pop("samples")
            target["summary"] = self._summary(target["name"])
        return plain

    def _summary(self, name: str) -> dict[str, Any]:
        target = self.target(name)
        assert target is not None
        if not target.counts:
            return {}
        summary: dict[str, Any] = {}
        for figure in self.figures:
            spread = self.spread(name, figure.key)
            others = self.against if figure.better != "neither" else ()
            ratios = {other: self.ratio(name, other, figure.key) for other in others if other != name}
            known = {other: attrs.asdict(one) for other, one in ratios.items() if one is not None}
            summary[figure.key] = {"spread": attrs.asdict(spread) if spread else None, "ratios": known}
        spreads = {key: target.accounting(key) for key in ACCOUNTING}
        return summary | {key: attrs.asdict(one) for key, one in spreads.items() if one is not None}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> WorkResult:
        targets = [
            TargetResult(
                target["name"],
                tuple(_sample(sample) for sample in target["rounds"]),
                target["error"],
                target["left_out"],
            )
            for target in plain["targets"]
        ]
        return cls(
            name=plain["name"],
            title=plain["title"],
            figures=tuple(Figure(**figure) for figure in plain["figures"]),
            unit=plain["unit"],
            against=tuple(plain["against"]),
            targets=tuple(targets),
            error=plain["error"],
            left_out=plain["left_out"],
        )


def _sample(plain: Mapping[str, Any]) -> Sample:
    latencies = Latencies(**plain["latencies"]) if plain["latencies"] else None
    return Sample(**{**plain, "latencies": latencies, "notes": tuple(plain["notes"])})


@attrs.frozen
class Results:
    """Everything of one call: see `bench.conditions` for what those hold."""

    conditions: Mapping[str, Any]
    works: tuple[WorkResult, ...] = ()

    @property
    def failed(self) -> bool:
        return any(work.failed for work in self.works)

    def work(self, name: str) -> WorkResult | None:
        return next((one for one in self.works if one.name == name), None)

    def as_json(self) -> dict[str, Any]:
        works = [work.as_json() for work in self.works]
        return {"format": FORMAT, "conditions": dict(self.conditions), "works": works}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Results:
        """Raises `ValueError` if it is something else."""
        if not isinstance(plain, Mapping) or plain.get("format") != FORMAT:
            raise ValueError(f"no results of `trio-pool bench --json` in format {FORMAT}")
        return cls(plain["conditions"], tuple(WorkResult.from_json(work) for work in plain["works"]))
