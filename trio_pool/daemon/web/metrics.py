"""`/metrics`: what the census knows, for Prometheus.

A scrape may have ten thousand clients to look at and as many series to spell, which is tens of milliseconds
of work, and the data plane runs in the same thread. So it is done in small parts, between which everybody
else gets a turn: the ledger's reading, and then the text, a few samples at a time through the client
library's own encoder.
"""

from __future__ import annotations

import platform
import zlib
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

import trio
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString
from starlette.responses import Response

from trio_pool import __version__
from trio_pool.daemon.web.families import (
    BUILD,
    BUILD_HELP,
    BUILD_LABELS,
    CACHE,
    DATABASE,
    POOL,
    PROCESS,
    TUNNEL,
)
from trio_pool.daemon.web.ledger import number
from trio_pool.net import poller
from trio_pool.pooling.traffic import BOUNDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from prometheus_client import Metric
    from starlette.requests import Request

    from trio_pool.daemon.web.families import Family, Seen
    from trio_pool.daemon.web.ledger import Number
    from trio_pool.daemon.web.source import Reading, Source


Encoder = Callable[[CollectorRegistry], bytes]

SAMPLES_AT_ONCE = 100
"""About half a millisecond of work."""
_BUCKETS = [*map(floatToGoString, BOUNDS), "+Inf"]
_END = b"# EOF\n"
"""Of OpenMetrics; once."""
_WITH_GZIP_HEADER = 31
_COMPRESSION = 1
"""Text like this becomes a fifteenth of itself all the same."""


class Metrics:
    """`/metrics` of what the source has."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._part = _Part()
        self._registry = CollectorRegistry()
        self._registry.register(self._part)

    async def respond(self, request: Request) -> Response:
        """The endpoint: Prometheus' text or OpenMetrics, compressed or not, as the client prefers."""
        encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        compress = gzip_accepted(request.headers.get("accept-encoding", ""))
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"
        return Response(await self.text(encoder, compress=compress), headers=headers)

    async def text(self, encoder: Encoder, *, compress: bool = False) -> bytes:
        """All metrics. Takes turns with everybody else."""
        reading = await self._source.reading()
        squeeze = zlib.compressobj(_COMPRESSION, wbits=_WITH_GZIP_HEADER) if compress else None
        written = []
        name = ""
        for metric in _metrics(reading):
            text = self._encode(encoder, metric, goes_on=metric.name == name)
            written.append(text if squeeze is None else squeeze.compress(text))
            name = metric.name
            await trio.lowlevel.checkpoint()
        end = _END if self._encode(encoder, None, goes_on=False) else b""
        written += [end] if squeeze is None else [squeeze.compress(end), squeeze.flush()]
        return b"".join(written)

    def _encode(self, encoder: Encoder, metric: Metric | None, *, goes_on: bool) -> bytes:
        self._part.metric = metric
        text = encoder(self._registry).removesuffix(_END) if metric is not None else encoder(self._registry)
        while goes_on and text.startswith(b"#"):
            text = text.partition(b"\n")[2]
        return text


class _Part(Collector):
    """What the encoder is given, as the client library wants it: a collector in a registry of its own."""

    metric: Metric | None = None

    def collect(self) -> Iterable[Metric]:
        return () if self.metric is None else (self.metric,)


def _metrics(reading: Reading) -> Iterator[Metric]:
    """All families, long ones in several parts that follow each other."""
    build = (__version__, platform.python_version(), str(_is_compiled()).lower())
    yield InfoMetricFamily(BUILD, BUILD_HELP, dict(zip(BUILD_LABELS, build, strict=True)))
    for resource in reading.resources:
        yield _KINDS[resource.kind](resource.name, resource.help, value=resource.value)
    for of_process in PROCESS:
        yield from _parts(of_process, (), [((), number(of_process.read(reading.process)))])
    for of_database in DATABASE:
        values = [((one.database,), number(of_database.read(one))) for one in reading.origins]
        yield from _parts(of_database, ("database",), values)
    for of_cache in CACHE:
        values = [((one.database,), number(of_cache.read(one))) for one in reading.caches]
        yield from _parts(of_cache, ("database",), values)
    for of_tunnel in TUNNEL:
        pairs = [((one.side, one.peer), number(of_tunnel.read(one))) for one in reading.tunnels]
        yield from _parts(of_tunnel, ("side", "peer"), pairs)
    for at, of_pool in enumerate(POOL):
        found = [(labels, each) for labels, all_ in reading.series.items() if (each := all_[at]) is not None]
        yield from _parts(of_pool, ("database", "user"), found)


def _parts(
    family: Family[Seen], names: Sequence[str], found: Iterable[tuple[Sequence[str], Number]]
) -> Iterator[Metric]:
    """The family with what was found, by the values of its labels; without samples if there is nothing."""
    part = _empty(family, names)
    yielded = False
    for values, value in found:
        _fill(part, values, value)
        if len(part.samples) >= SAMPLES_AT_ONCE:
            yield part
            part, yielded = _empty(family, names), True
    if part.samples or not yielded:
        yield part


def _empty(family: Family[Seen], names: Sequence[str]) -> Metric:
    if family.label is not None:
        names = (*names, family.label)
    return _KINDS[family.kind](family.base, family.help, labels=names)


def _fill(part: Metric, values: Sequence[str], value: Number) -> None:
    if isinstance(part, HistogramMetricFamily):
        assert isinstance(value, list)
        *counts, seconds = value
        buckets = list(zip(_BUCKETS, accumulate(counts), strict=True))
        part.add_metric(values, buckets, seconds)
        return
    assert isinstance(part, CounterMetricFamily | GaugeMetricFamily)
    if isinstance(value, dict):
        for name, each in value.items():
            part.add_metric((*values, name), each)
    else:
        assert isinstance(value, int | float)
        part.add_metric(values, value)


_KINDS: dict[str, Callable[..., Metric]] = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
}


def _is_compiled() -> bool:
    return not str(poller.__file__).endswith(".py")
