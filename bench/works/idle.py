"""Clients that log in and then do nothing, on a fresh process of each pooler: how fast, and what each costs.

Memory is the growth of the pooler's resident memory divided by their number; what the kernel keeps for their
sockets is not in it. PostgreSQL directly is left out: nobody gives it thousands of connections.
"""

from __future__ import annotations

import contextlib
import functools
import json
from typing import TYPE_CHECKING

from .. import companion, figures, idlers, poolers, processes
from ..problems import LeftOut, TargetError
from ..results import Figure
from ..sample import Done, Sample, accounted
from .work import Plan, Work

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..stage import Stage

CLIENTS = 9000
ALL_SECONDS = 180.0
# What a pooler and a load client open beside the clients' sockets.
OTHER_FILES = 200

PER_SECOND = Figure("logins", "logins per second")
MEMORY = Figure("memory", "bytes of memory per idle client", "lower")


@contextlib.contextmanager
def plan(stage: Stage) -> Iterator[Plan]:
    clients = stage.clients(CLIENTS)
    files = processes.raise_file_limit()
    # Both ends: a pooler's clients and servers are below its limit, a few files aside.
    if clients > files - OTHER_FILES:
        raise LeftOut(f"{clients:,} idle clients need more open files than the hard limit, {files:,}")

    def measure(target: poolers.Target, _seconds: int) -> Sample:
        return accounted(target, functools.partial(log_in, target, clients))

    targets = stage.both(poolers.Settings(stage.pool(), clients + 100))
    yield Plan(f"{clients:,} clients log in and stay", targets, measure, fresh=True)


def log_in(target: poolers.Target, clients: int) -> Done:
    """So many, by one process of ours, 64 under way at a time."""
    before = processes.resident_bytes(target.pid)
    arguments = (str(target.port), str(clients))
    try:
        with companion.running(idlers.__name__, *arguments, ready_seconds=ALL_SECONDS) as process:
            said = json.loads(process.ready)
            after = processes.resident_bytes(target.pid)
            process.finish()
    except companion.CompanionError as error:
        raise TargetError(f"not all of {clients:,} clients were let in: {error}") from None
    found = {"logins": clients / said["seconds"]}
    if before is not None and after is not None:
        found["memory"] = figures.per_client(before, after, clients)
    return Done(clients, found, load=said["cpu"] / said["seconds"])


WORKS = (
    Work(
        "idle",
        f"{CLIENTS:,} clients log in and do nothing",
        plan,
        figures=(PER_SECOND, MEMORY),
        unit="login",
    ),
)
