"""A target that fails is reported as such, never as slow or as fast, and the others go on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest

from bench import database, loads, pgbench, poolers, rounds, storm
from bench.login import HOST, Login
from bench.problems import TargetError
from bench.results import Figure, TargetResult, WorkResult
from bench.sample import Done, Sample, accounted
from bench.stage import Options, Stage
from bench.works.work import Plan, by_pgbench

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.stage import Start


REFUSED = b"SFATAL\0C28000\0Mnobody gets in\0\0"
REFUSAL = b"E" + struct.pack("!I", 4 + len(REFUSED)) + REFUSED

# Sooner than the shortest run of pgbench is over.
MID_RUN_SECONDS = 0.3


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """With a PostgreSQL of its own, without PgBouncer."""
    with database.local(None, 1) as started:
        yield Stage(Options(rounds=2, seconds=1), started, started.connections())


@contextlib.contextmanager
def refuser() -> Iterator[poolers.Target]:
    """Listens like a pooler, and refuses every login."""
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    with listener.accept()[0] as client:
                        client.recv(4096)
                        client.sendall(REFUSAL)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield poolers.Target("refuser", Login(HOST, listener.getsockname()[1]), os.getpid())
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def by_name(plan: Plan, heard: list[str] | None = None) -> dict[str, TargetResult]:
    """Two rounds of one second."""

    def tell(target: str, what: str) -> None:
        if heard is not None:
            heard.append(f"{target}: {what}")

    return {result.name: result for result in rounds.run(plan, 2, 1, tell)}


@pytest.mark.e2e
def test_who_refuses_logins_has_an_error_and_no_figure(stage: Stage) -> None:
    """The reason is what the target said; PostgreSQL beside it is measured all the same."""
    targets = stage.direct(2) | {"refuser": refuser}
    heard: list[str] = []
    results = by_name(by_pgbench(stage, "", targets, pgbench.Load(2)), heard)
    refused = results["refuser"]
    assert refused.error is not None
    assert "nobody gets in" in refused.error
    assert (refused.counts, refused.samples) == (False, ())
    assert results["direct"].counts
    assert len(results["direct"].samples) == 2
    assert any(line.startswith("refuser: error: ") for line in heard)


@pytest.mark.e2e
def test_a_pooler_that_dies_in_mid_run_has_an_error_and_no_figure(stage: Stage) -> None:
    """Nor have the rounds that it did before: half a work is not comparable with a whole one."""
    plan = by_pgbench(stage, "", stage.direct(2) | stage.both(poolers.Settings(2)), pgbench.Load(2))
    runs: list[str] = []

    def measure(target: poolers.Target, seconds: int) -> Sample:
        runs.append(target.name)
        if runs.count("trio-pool") == 2 and target.name == "trio-pool":
            killer = threading.Timer(MID_RUN_SECONDS, os.kill, (target.pid, signal.SIGKILL))
            killer.start()
        return plan.measure(target, seconds)

    results = by_name(attrs.evolve(plan, measure=measure))
    killed = results["trio-pool"]
    work = WorkResult("killed", "", (Figure("tps", "tps"),), targets=tuple(results.values()))
    assert killed.error is not None
    assert len(killed.samples) == 1
    assert work.failed
    assert work.spread("trio-pool", "tps") is None
    assert work.ratio("trio-pool", "direct", "tps") is None
    assert work.spread("direct", "tps") is not None


def test_too_many_connections_for_postgresql_are_no_error() -> None:
    """That PostgreSQL does not take a thousand clients is why there are poolers: it is left out."""
    nothing = database.Database(Login(HOST, 1), Path("/nowhere"), Path("/nowhere"))
    plan = Plan("", Stage(Options(), nothing, connections=3).direct(4), lambda target, seconds: Sample(1, {}))
    result = by_name(plan)["direct"]
    assert result.left_out == "PostgreSQL takes 3 connections, not 4"
    assert result.error is None


def test_doing_nothing_is_an_error() -> None:
    """A load that ends early without a word does not become a very slow target."""
    here = poolers.Target("still", Login(HOST, 1))
    plan = Plan(
        "",
        {"still": lambda: contextlib.nullcontext(here)},
        lambda target, seconds: accounted(target, lambda: Done(0, {"tps": 0.0})),
    )
    assert by_name(plan)["still"].error == "it did nothing at all"


def test_a_work_that_cannot_start_its_target_goes_on() -> None:
    """A pooler that does not start is an error of that pooler alone."""

    @contextlib.contextmanager
    def broken() -> Iterator[poolers.Target]:
        raise TargetError("did not start")
        yield

    here = poolers.Target("fine", Login(HOST, 1))
    targets: dict[str, Start] = {"broken": broken, "fine": lambda: contextlib.nullcontext(here)}
    plan = Plan("", targets, lambda target, seconds: Sample(1, {"tps": 1.0}))
    results = by_name(plan)
    assert results["broken"].error == "did not start"
    assert results["fine"].values("tps") == [1.0, 1.0]


@pytest.mark.e2e
def test_a_load_that_gets_nowhere_says_why_and_can_be_asked_again(stage: Stage) -> None:
    """The next target is measured by the same processes."""
    nobody = Login(HOST, poolers.free_port())
    with loads.started(storm.__name__) as storms:
        with pytest.raises(TargetError, match="refused"):
            storms.run(nobody, 0.1, threads=1, sources=False)
        (done,) = storms.run(stage.database.login, 0.1, threads=1, sources=False)
    assert len(done["taken"]) >= 1
