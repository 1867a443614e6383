"""Under what conditions something was measured: the machine, the versions, the options."""

from __future__ import annotations

import datetime
import os
import platform
import re
from typing import TYPE_CHECKING, Any

import attrs

import trio_pool

from . import pgbench, poolers, processes

if TYPE_CHECKING:
    from .stage import Stage


def machine() -> dict[str, Any]:
    """`memory` in bytes."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def processor() -> str:
    """Its model, from Linux's /proc/cpuinfo where that has one."""
    cpuinfo = processes.PROC / "cpuinfo"
    found = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.M) if cpuinfo.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def versions(stage: Stage) -> dict[str, str]:
    found = {
        "trio-pool": trio_pool.__version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "postgresql": stage.database.version(),
        "pgbench": pgbench.version(stage.database.pgbench),
    }
    if stage.pgbouncer is not None:
        found["pgbouncer"] = poolers.pgbouncer_version(stage.pgbouncer)
    return found


def warnings(found: dict[str, str]) -> list[str]:
    """What whoever reads the figures must know about these versions."""
    if "pgbouncer" not in found:
        return ["no PgBouncer was found; bench/build_pgbouncer.sh builds one, --pgbouncer names it"]
    if poolers.is_old_pgbouncer(found["pgbouncer"]):
        return [
            f"PgBouncer {found['pgbouncer']} is older than 1.24: it is slower, and before 1.21 has no "
            "prepared statements in transaction pooling; bench/build_pgbouncer.sh builds a current one"
        ]
    return []


def of(stage: Stage) -> dict[str, Any]:
    """All of it, as it is written as JSON."""
    found = versions(stage)
    options = attrs.asdict(stage.options)
    return {
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": found,
        "options": options | {"script": str(stage.options.script) if stage.options.script else None},
        "scale": stage.database.scale,
        "own database": stage.own,
        "warnings": warnings(found),
    }
