"""What is served over HTTP, asked for and understood."""

from __future__ import annotations

import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import trio
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import Metric

HTTP = {"address": "127.0.0.1:0"}
"""The table `[http]` of a configuration."""


class Served(Protocol):
    """One process, or several together."""

    @property
    def http_address(self) -> str | None: ...


@attrs.frozen
class Answer:
    """Header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


async def get(service: Served, path: str, **headers: str) -> Answer:
    """GET, by a client in a thread. Underscores in the names of headers are hyphens."""
    assert service.http_address is not None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await trio.to_thread.run_sync(_get, service.http_address + path, named, abandon_on_cancel=True)


def _get(url: str, headers: Mapping[str, str]) -> Answer:
    # Past any proxy that the environment names.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=20.0) as response:
            return _answer(response.status, response.headers, response.read())
    except urllib.error.HTTPError as error:
        return _answer(error.code, error.headers, error.read())


def _answer(status: int, headers: Any, body: bytes) -> Answer:
    return Answer(status, {name.lower(): value for name, value in headers.items()}, body)


@attrs.frozen
class Scrape:
    """The samples of one scrape."""

    families: tuple[Metric, ...]

    @classmethod
    async def of(cls, service: Served) -> Scrape:
        """Now."""
        answer = await get(service, "/metrics")
        assert answer.status == 200
        return cls(tuple(text_string_to_metric_families(answer.body.decode())))

    @property
    def series(self) -> int:
        return sum(len(family.samples) for family in self.families)

    def values(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """The samples of this name with these labels, by all their labels."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        }

    def value(self, name: str, **labels: str) -> float:
        """Their sum; 0 if there are none."""
        return sum(self.values(name, **labels).values())

    @property
    def pairs(self) -> set[tuple[str, str]]:
        """Databases and users that are told apart."""
        return {
            (sample.labels["database"], sample.labels["user"])
            for family in self.families
            for sample in family.samples
            if "user" in sample.labels
        }

    def fallen_since(self, before: Scrape) -> list[str]:
        """What must never go down, and has."""
        now = self._counters()
        return [
            f"{key}: {count} -> {now.get(key)}"
            for key, count in before._counters().items()
            if now.get(key, -1.0) < count
        ]

    def _counters(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }

    def check(self) -> None:
        """Histograms are cumulative, and complete; names and labels are not repeated."""
        keys = [
            (sample.name, tuple(sorted(sample.labels.items())))
            for family in self.families
            for sample in family.samples
        ]
        assert len(keys) == len(set(keys))
        for family in self.families:
            if family.type == "histogram":
                _check_histogram(family)


def _check_histogram(family: Metric) -> None:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    counts, sums = {}, {}
    for sample in family.samples:
        labels = tuple(sorted((name, text) for name, text in sample.labels.items() if name != "le"))
        if sample.name == f"{family.name}_bucket":
            buckets.setdefault(labels, []).append((float(sample.labels["le"]), sample.value))
        elif sample.name == f"{family.name}_count":
            counts[labels] = sample.value
        else:
            assert sample.name == f"{family.name}_sum"
            sums[labels] = sample.value
    assert buckets.keys() == counts.keys() == sums.keys()
    for labels, found in buckets.items():
        assert found == sorted(found)
        assert [count for _, count in found] == sorted(count for _, count in found)
        assert found[-1] == (float("inf"), counts[labels])
        assert sums[labels] >= 0.0
