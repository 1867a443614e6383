"""What the works that move much have in common: one client, megabytes per second."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from .. import loads, poolers, stream
from ..results import Figure
from ..sample import Done, Sample, accounted
from .work import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..stage import Stage

MEGABYTES = Figure("megabytes", "MB/s", spec=",.0f")
ROWS = 1_000_000
SELECT = f"SELECT g, repeat('x', 96) FROM generate_series(1, {ROWS}) AS g"


@contextlib.contextmanager
def by_stream(
    stage: Stage,
    title: str,
    text: str,
    *,
    tag: str = "",
    before: str = "",
    megabytes: float = 0,
    prepare: Callable[[], object] = lambda: None,
) -> Iterator[Plan]:
    """A plan whose load is one client of `bench.stream`; CPU is for each megabyte."""
    asked = {"text": text, "tag": tag, "before": before, "megabytes": megabytes}

    def load(target: poolers.Target, seconds: float) -> Done:
        (done,) = client.run(target.login, seconds, **asked)
        speed = done["megabytes"] / done["seconds"]
        return Done(done["megabytes"], {"megabytes": speed}, load=done["load"])

    def measure(target: poolers.Target, seconds: int) -> Sample:
        return accounted(target, functools.partial(load, target, seconds))

    targets = stage.direct(1) | stage.both(poolers.Settings(stage.pool()))
    with loads.started(stream.__name__) as client:
        yield Plan(title, targets, measure, lambda target: load(target, 0.001), prepare)
