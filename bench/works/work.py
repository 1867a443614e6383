"""What a work is: something to have done by each target, and the figures that come of it.

A `Work` only describes. Its `plan`, entered when its turn has come, starts what stands beside the targets (a
network, certificates) and gives the `Plan` by which `bench.rounds` measures; it raises `LeftOut` where the
work cannot be measured.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import attrs

from .. import link, pgbench, poolers
from ..results import Figure
from ..sample import Done, Sample, accounted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from ..stage import Stage, Start

TPS = Figure("tps", "transactions per second")

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "extended", "prepared")

WARM_UP_SECONDS = 1


@attrs.frozen
class Plan:
    """How a work is measured here and now.

    `title`: all that a reader needs to know to repeat it. `targets`: how each is started. `measure`: one run
    of so many seconds; `prepare` is called before each, `warm_up` once for each target. `fresh`: every run
    gets a target that was just started, and there is no warming up.
    """

    title: str
    targets: Mapping[str, Start]
    measure: Callable[[poolers.Target, int], Sample]
    warm_up: Callable[[poolers.Target], object] | None = None
    prepare: Callable[[], object] = lambda: None
    fresh: bool = False


@attrs.frozen
class Work:
    """`does`: in a few plain words. `unit` and `against`: see `bench.results.WorkResult`."""

    name: str
    does: str
    plan: Callable[[Stage], AbstractContextManager[Plan]]
    figures: tuple[Figure, ...] = (TPS,)
    unit: str = "transaction"
    against: tuple[str, ...] = ("pgbouncer", "direct")


def by_pgbench(
    stage: Stage,
    title: str,
    targets: Mapping[str, Start],
    load: pgbench.Load,
    *,
    clients_of: Mapping[str, int] | None = None,
    prepare: Callable[[], object] = lambda: None,
    run: Callable[..., Done] = pgbench.measure,
) -> Plan:
    """A plan whose load is pgbench; `clients_of`: targets that get another number of clients.

    `run` is called as `pgbench.measure` is.
    """
    rates: dict[str, float] = {}

    def load_of(target: poolers.Target) -> pgbench.Load:
        clients = (clients_of or {}).get(target.name, load.clients)
        return attrs.evolve(load, clients=clients, threads=min(load.threads, clients))

    def warm_up(target: poolers.Target) -> None:
        done = pgbench.run(stage.database.pgbench, target.login, load_of(target), WARM_UP_SECONDS)
        rates[target.name] = pgbench.sampling_for(done.tps)

    def measure(target: poolers.Target, seconds: int) -> Sample:
        arguments = (stage.database.pgbench, target.login, load_of(target), seconds)
        return accounted(target, functools.partial(run, *arguments, rates.get(target.name, 1.0)))

    return Plan(title, targets, measure, warm_up, prepare)


@contextlib.contextmanager
def behind_link(stage: Stage, milliseconds: float) -> Iterator[poolers.Link]:
    """A network with this round trip between the poolers and PostgreSQL."""
    login = stage.database.login
    with link.link(login.port, milliseconds / 2, login.host) as between:
        yield between


def described(what: str, protocol: str, clients: int, pool: int) -> str:
    return (
        f"{what}, {protocol} protocol, {clients:,} {'client' if clients == 1 else 'clients'}, pool of {pool}"
    )


def threads(protocol: pgbench.Protocol, clients: int) -> int:
    """For transactions of several statements; see `pgbench.Load`."""
    return clients if protocol == "prepared" else 1
