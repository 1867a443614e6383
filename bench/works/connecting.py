"""Connect, ask once, disconnect: what applications without a pool of their own do all the time.

With TLS and SCRAM the embedded PostgreSQL, which has no TLS, does not take part. The certificate is made for
the occasion (ECDSA, P-256), the same for both poolers.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from trio_pool.protocol.credentials import ScramSecret

from .. import figures, loads, poolers, storm
from ..login import HOST
from ..problems import LeftOut
from ..results import Figure
from ..sample import Done, Sample, accounted
from .work import Plan, Work

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ..stage import Stage, Start

CONNECTIONS = Figure("connections", "connections per second")
COPIES, THREADS = 2, 8
WHAT = "connect, one query, disconnect"
WITH_TLS = f"{WHAT}, TLS 1.3 and SCRAM"


@contextlib.contextmanager
def plain(stage: Stage) -> Iterator[Plan]:
    with storming(WHAT, stage.direct(COPIES * THREADS) | both(stage)) as planned:
        yield planned


@contextlib.contextmanager
def with_tls(stage: Stage) -> Iterator[Plan]:
    with (
        tempfile.TemporaryDirectory(prefix="trio-pool-bench-") as directory,
        storming(WITH_TLS, both(stage, door(Path(directory)))) as planned,
    ):
        yield planned


def both(stage: Stage, wanted: poolers.Door | None = None) -> dict[str, Start]:
    return stage.both(poolers.Settings(stage.pool(), door=wanted))


@contextlib.contextmanager
def storming(what: str, targets: Mapping[str, Start]) -> Iterator[Plan]:
    """A plan whose load are processes of `bench.storm`."""

    def load(target: poolers.Target, seconds: float) -> Done:
        # Poolers take clients from any address of this machine; a PostgreSQL may know only the usual one.
        parts = storms.run(target.login, seconds, threads=THREADS, sources=bool(target.pid))
        taken = [one for part in parts for one in part["taken"]]
        per_second = sum(len(part["taken"]) / part["seconds"] for part in parts)
        busiest = max(part["load"] for part in parts)
        return Done(len(taken), {"connections": per_second}, figures.latencies(taken), busiest)

    def measure(target: poolers.Target, seconds: int) -> Sample:
        return accounted(target, functools.partial(load, target, seconds))

    title = f"{what}, {COPIES * THREADS} at a time"
    with loads.started(storm.__name__, COPIES) as storms:
        yield Plan(title, targets, measure, lambda target: load(target, 0.2))


def door(directory: Path) -> poolers.Door:
    """A certificate and a password, made up now; raises `LeftOut` without what it is made with."""
    try:
        import trustme
    except ImportError:
        raise LeftOut("needs trustme, which comes with trio-pool[bench] and trio-pool[embedded]") from None
    certificate, key = directory / "server.crt", directory / "server.key"
    issued = trustme.CA().issue_cert("localhost", HOST)
    certificate.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    key.touch(0o600)
    issued.private_key_pem.write_to_path(key)
    password = secrets.token_urlsafe()
    return poolers.Door(certificate, key, secret_of(password), password)


def secret_of(password: str) -> str:
    """As PostgreSQL stores it."""
    return str(ScramSecret.derive(password.encode(), secrets.token_bytes(16)))


WORKS = (
    Work("connect-plain", f"{WHAT}, on trust", plain, figures=(CONNECTIONS,), unit="connection"),
    Work("connect-tls", WITH_TLS, with_tls, figures=(CONNECTIONS,), unit="connection"),
)
