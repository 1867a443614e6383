"""What a process and the machine have used: CPU time, memory, context switches, from Linux's /proc.

Elsewhere there is no /proc and every figure is None; throughput is measured all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
from pathlib import Path

import attrs

from trio_pool.cli.processes import child_processes

PROC = Path("/proc")


@attrs.frozen
class CpuTime:
    """Seconds, in steps of 1/100."""

    user: float
    system: float

    def since(self, before: CpuTime) -> CpuTime:
        return CpuTime(self.user - before.user, self.system - before.system)


@attrs.frozen
class Switches:
    """Context switches: `voluntary` ones to wait for something, `involuntary` ones to let others run."""

    voluntary: int
    involuntary: int


def process_tree(pid: int) -> list[int]:
    """The process and all its descendants."""
    return [pid, *(below for child in child_processes(pid) for below in process_tree(child))]


def cpu_time(pid: int) -> CpuTime | None:
    """Of the process and its descendants that still live; of a multi-threaded one all threads together."""
    if not (PROC / "self" / "stat").exists():
        return None
    ticks = [0, 0]
    for one in process_tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            # The name in parentheses may hold anything. After it: the state, then fields 4 and up of proc(5).
            fields = (PROC / str(one) / "stat").read_text(errors="replace").rpartition(")")[2].split()
            ticks[0] += int(fields[11])
            ticks[1] += int(fields[12])
    return CpuTime(_seconds(ticks[0]), _seconds(ticks[1]))


def switches(pid: int) -> Switches | None:
    """Of every thread of the process and of its descendants."""
    if not (PROC / "self" / "status").exists():
        return None
    counted = {"voluntary": 0, "nonvoluntary": 0}
    for one in process_tree(pid):
        for status in (PROC / str(one) / "task").glob("*/status"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                for kind, number in re.findall(r"^(\w+)_ctxt_switches:\s+(\d+)", status.read_text(), re.M):
                    counted[kind] += int(number)
    return Switches(counted["voluntary"], counted["nonvoluntary"])


def machine_cpu_time() -> CpuTime | None:
    """Everything that ran on any core, interrupts included; time stolen by a hypervisor is not in it."""
    if not (PROC / "stat").exists():
        return None
    with (PROC / "stat").open() as file:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return CpuTime(_seconds(user + nice), _seconds(system + irq + softirq))


def resident_bytes(pid: int) -> int | None:
    """Resident memory of the process and its descendants. What the kernel keeps for sockets is not in it."""
    if not (PROC / "self" / "statm").exists():
        return None
    pages = 0
    for one in process_tree(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pages += int((PROC / str(one) / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def seconds_of_children() -> float:
    """CPU time of the processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def raise_file_limit() -> int:
    """Allow this process and those it starts as many files as the hard limit says; return that number."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _seconds(ticks: int) -> float:
    return ticks / os.sysconf("SC_CLK_TCK")
