"""What one run gave: the figures, and beside them what was used to get there.

`Reading` is what had been used at one moment; the difference of two of them, divided by what was done in
between, is the accounting of a `Sample`.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from . import figures, processes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from .figures import Latencies
    from .poolers import Target
    from .processes import CpuTime, Switches


@attrs.frozen
class Done:
    """What a load did in one run.

    `count`: in the work's unit (transactions, connections, megabytes). `figures`: by their keys. `load`: how
    much of the processor time that it could have had the load took; near 1 the load was what was measured.
    `notes`: what else should be known, such as complaints.
    """

    count: float
    figures: Mapping[str, float]
    latencies: Latencies | None = None
    load: float | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class Sample:
    """One run through one target.

    `user` and `system`: CPU microseconds inside the pooler for one of what is counted; `machine`: of
    everybody, load and PostgreSQL included. `resident`: bytes of the pooler's memory at the end of the run.
    `voluntary` and `involuntary`: context switches of the pooler for one of what is counted. `load`: see
    `Done`. `link`:
    cores that the process which delays kept busy, near 1 it was measured. `processes`: of the pooler.

    None where there is no such process, or where it cannot be known.
    """

    count: float
    figures: Mapping[str, float]
    latencies: Latencies | None = None
    user: float | None = None
    system: float | None = None
    machine: float | None = None
    resident: int | None = None
    voluntary: float | None = None
    involuntary: float | None = None
    load: float | None = None
    link: float | None = None
    processes: int | None = None
    notes: tuple[str, ...] = ()


@attrs.frozen
class Reading:
    """What had been used at one moment: by the pooler, by the whole machine, by the link."""

    at: float
    pooler: CpuTime | None
    switches: Switches | None
    machine: CpuTime | None
    link: CpuTime | None

    @classmethod
    def of(cls, target: Target) -> Reading:
        return cls(
            time.monotonic(),
            processes.cpu_time(target.pid) if target.pid else None,
            processes.switches(target.pid) if target.pid else None,
            processes.machine_cpu_time(),
            processes.cpu_time(target.link) if target.link else None,
        )

    def sample(self, after: Reading, done: Done) -> Sample:
        """Of a run between this reading and the other; without CPU for each where nothing was done."""
        sample = Sample(done.count, dict(done.figures), done.latencies, load=done.load, notes=done.notes)
        if self.link and after.link:
            used = after.link.since(self.link)
            sample = attrs.evolve(sample, link=(used.user + used.system) / (after.at - self.at))
        if not done.count:
            return sample
        if self.pooler and after.pooler:
            used = after.pooler.since(self.pooler)
            sample = attrs.evolve(
                sample,
                user=figures.per_transaction(used.user, done.count),
                system=figures.per_transaction(used.system, done.count),
            )
        if self.switches and after.switches:
            sample = attrs.evolve(
                sample,
                voluntary=(after.switches.voluntary - self.switches.voluntary) / done.count,
                involuntary=(after.switches.involuntary - self.switches.involuntary) / done.count,
            )
        if self.machine and after.machine:
            used = after.machine.since(self.machine)
            machine = figures.per_transaction(used.user + used.system, done.count)
            sample = attrs.evolve(sample, machine=machine)
        return sample


def accounted(target: Target, load: Callable[[], Done]) -> Sample:
    """Run the load and tell what it took; raises what the load raises."""
    before = Reading.of(target)
    done = load()
    sample = before.sample(Reading.of(target), done)
    if not target.pid:
        return sample
    count = len(processes.process_tree(target.pid))
    return attrs.evolve(sample, resident=processes.resident_bytes(target.pid), processes=count)
