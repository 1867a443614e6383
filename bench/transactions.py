"""Transactions through each target, interleaved: on the same machine, behind a link, in a crowd, under abuse.

    python -m bench.transactions                        from a checkout
    python -m trio_pool.bench.transactions              installed

Starts a throw-away PostgreSQL with pgbench's tables and, for each work, fresh poolers with the settings which
that work needs. It never asserts anything about a figure. The works, for `--only`:

begin-select-end        BEGIN, a select by primary key, END; beside PostgreSQL itself
begin-select-end-link   the same, with 1 ms of round trip between the poolers and PostgreSQL, and more clients
tpcb                    pgbench's own script, much like TPC-B
crowd                   select-only by many clients on few servers: the distribution of latencies
abuse-idle              honest select-only beside clients that leave transactions open, and find out at once
abuse-idle-asleep       the same, where they find out that they were disconnected only after their sleep
abuse-vanish            honest select-only beside clients that vanish in the middle of a long query
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from trio_pool.cli.postgres import LocalPostgres

from . import abuse, companion, crowd, link, pgbench, poolers, processes, rounds

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Measure = Callable[[LocalPostgres, argparse.Namespace], dict[str, Any]]

PROTOCOLS: tuple[pgbench.Protocol, ...] = ("simple", "prepared")

BEGIN_SELECT_END = """\
\\set aid random(1, 100000 * :scale)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
END;
"""

# What pgbench itself does before a run, for which it must know the tables: -n turns it off.
TIDY_UP = "vacuum pgbench_branches; vacuum pgbench_tellers; truncate pgbench_history;"

# An open transaction may be idle for 200 ms. PgBouncer takes fractions of a second (its parser of times reads
# a floating-point number), but looks at them three times a second (full_maint_period in its janitor.c), so it
# ends them after 200 to 533 ms.
IDLE_TOML = """\
[timeouts]
idle_in_transaction = "200ms"
"""
IDLE_INI = "idle_transaction_timeout = 0.2"

# Orphaned queries of the clients that vanish keep their server processes busy.
MAX_CONNECTIONS = 500


def measure_begin_select_end(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    settings = settings_for(chosen, chosen.clients)
    with rounds.started(chosen, postgres, settings) as started:
        targets = {"direct": poolers.direct(postgres), **started}
        works = [begin_select_end(chosen, protocol, chosen.clients) for protocol in protocols(chosen)]
        return by_rounds(postgres, chosen, targets, works)


def measure_begin_select_end_link(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    """Without PostgreSQL directly: so many connections through the link would measure the link."""
    with link.link(postgres.port, chosen.link_delay) as between:
        settings = settings_for(chosen, chosen.link_clients, between=between)
        with rounds.started(chosen, postgres, settings) as targets:
            works = [
                begin_select_end(
                    chosen, protocol, chosen.link_clients, f", {2 * chosen.link_delay:g} ms away"
                )
                for protocol in protocols(chosen)
            ]
            return by_rounds(postgres, chosen, targets, works)


def measure_tpcb(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    settings = settings_for(chosen, chosen.clients)
    with rounds.started(chosen, postgres, settings) as started:
        targets = {"direct": poolers.direct(postgres), **started}
        works = [
            pgbench.Work(
                described("TPC-B", chosen, protocol, chosen.clients),
                chosen.clients,
                protocol,
                options=("-b", "tpcb-like"),
                threads=threads(protocol, chosen.clients),
            )
            for protocol in protocols(chosen)
        ]
        return by_rounds(postgres, chosen, targets, works, prepare=lambda: postgres.run_sql(TIDY_UP))


def measure_crowd(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    settings = settings_for(chosen, chosen.crowd)
    tables = {}
    bin_dir = postgres.bin("pgbench").parent
    with rounds.started(chosen, postgres, settings) as targets:
        for protocol in protocols(chosen):
            name = described("select-only", chosen, protocol, chosen.crowd)
            work = pgbench.Work(name, chosen.crowd, protocol, threads=chosen.crowd_threads)
            seen = crowd.interleave(bin_dir, targets, work, chosen.rounds, chosen.seconds)
            tables[name] = crowd.report(work, seen)
    return tables


def measure_abuse_idle(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    arguments = ("--clients", str(chosen.abusers), "--hold", str(chosen.hold))
    wanted = abuse.Abuse("that leave transactions open", "hold", (*arguments, "--awake"))
    return beside(postgres, chosen, wanted, IDLE_TOML, IDLE_INI)


def measure_abuse_idle_asleep(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    arguments = ("--clients", str(chosen.abusers), "--hold", str(chosen.hold))
    wanted = abuse.Abuse("that leave transactions open, asleep", "hold", arguments)
    return beside(postgres, chosen, wanted, IDLE_TOML, IDLE_INI)


def measure_abuse_vanish(postgres: LocalPostgres, chosen: argparse.Namespace) -> dict[str, Any]:
    arguments = ("--rate", str(chosen.vanish_rate))
    wanted = abuse.Abuse("that vanish in the middle of a query", "vanish", arguments)
    return beside(postgres, chosen, wanted)


WORKS: Mapping[str, Measure] = {
    "begin-select-end": measure_begin_select_end,
    "begin-select-end-link": measure_begin_select_end_link,
    "tpcb": measure_tpcb,
    "crowd": measure_crowd,
    "abuse-idle": measure_abuse_idle,
    "abuse-idle-asleep": measure_abuse_idle_asleep,
    "abuse-vanish": measure_abuse_vanish,
}


def by_rounds(
    postgres: LocalPostgres,
    chosen: argparse.Namespace,
    targets: Mapping[str, poolers.Target],
    works: list[pgbench.Work],
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Throughput and CPU of each of the works; by work and target."""
    tables = {}
    bin_dir = postgres.bin("pgbench").parent
    for work in works:
        samples = rounds.interleave(bin_dir, targets, work, chosen.rounds, chosen.seconds, prepare)
        tables[work.name] = rounds.report(work, samples)
        rounds.report_limits(samples)
    return tables


def beside(
    postgres: LocalPostgres, chosen: argparse.Namespace, wanted: abuse.Abuse, toml: str = "", ini: str = ""
) -> dict[str, Any]:
    """Honest clients beside abusers, through the poolers with these settings."""
    settings = settings_for(chosen, 10_000, toml=toml, ini=ini)
    honest = pgbench.Work("honest", chosen.honest, "simple")
    name = f"{chosen.honest} honest clients beside clients {wanted.name}, pool of {chosen.pool_size}"
    with rounds.started(chosen, postgres, settings) as targets:
        bin_dir = postgres.bin("pgbench").parent
        for target in targets.values():
            pgbench.endure(bin_dir, poolers.HOST, target.port, honest, 1)
        seen = abuse.interleave(postgres, targets, honest, wanted, chosen.rounds, chosen.seconds)
        return {name: {"settings": {"toml": toml, "ini": ini}, **abuse.report(name, seen)}}


def begin_select_end(
    chosen: argparse.Namespace, protocol: pgbench.Protocol, clients: int, where: str = ""
) -> pgbench.Work:
    name = described("BEGIN, SELECT, END", chosen, protocol, clients) + where
    options = ("-s", str(chosen.scale))
    return pgbench.Work(name, clients, protocol, options, threads(protocol, clients), BEGIN_SELECT_END)


def threads(protocol: pgbench.Protocol, clients: int) -> int:
    """For transactions of several statements; see `pgbench.Work`."""
    return clients if protocol == "prepared" else 1


def described(what: str, chosen: argparse.Namespace, protocol: str, clients: int) -> str:
    return f"{what}, {protocol}, {clients:,} clients, pool of {chosen.pool_size}"


def settings_for(
    chosen: argparse.Namespace,
    clients: int,
    toml: str = "",
    ini: str = "",
    between: poolers.Link | None = None,
) -> poolers.Settings:
    return poolers.Settings(chosen.pool_size, clients + 100, chosen.queue_ahead, toml, ini, between)


def protocols(chosen: argparse.Namespace) -> tuple[pgbench.Protocol, ...]:
    return tuple(chosen.protocol or PROTOCOLS)


def chosen_works(text: str) -> list[str]:
    """Names with commas in between."""
    names = text.split(",")
    if unknown := [name for name in names if name not in WORKS]:
        raise argparse.ArgumentTypeError(f"no work {', '.join(unknown)}; there are {', '.join(WORKS)}")
    return names


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rounds.add_options(parser)
    parser.add_argument(
        "--only", type=chosen_works, default=list(WORKS), metavar="WORK,...", help="default: all"
    )
    parser.add_argument(
        "--protocol", action="append", choices=PROTOCOLS, help="default: both; abuse is simple always"
    )
    parser.add_argument(
        "--link-clients", type=int, default=200, metavar="N", help="behind the link (default %(default)s)"
    )
    parser.add_argument(
        "--link-delay", type=float, default=0.5, metavar="MS", help="each way (default %(default)s)"
    )
    parser.add_argument("--crowd", type=int, default=1000, metavar="N", help="clients (default %(default)s)")
    parser.add_argument(
        "--crowd-threads", type=int, default=1, metavar="N", help="of pgbench (default %(default)s)"
    )
    parser.add_argument(
        "--honest", type=int, default=50, metavar="N", help="clients beside abusers (default %(default)s)"
    )
    parser.add_argument(
        "--abusers", type=int, default=50, metavar="N", help="that hold (default %(default)s)"
    )
    parser.add_argument(
        "--hold", type=float, default=2.0, metavar="S", help="seconds of their sleep (default %(default)s)"
    )
    parser.add_argument(
        "--vanish-rate", type=float, default=20, metavar="N", help="per second (default %(default)s)"
    )
    return parser


def main(arguments: list[str] | None = None) -> None:
    chosen = options().parse_args(arguments)
    processes.raise_file_limit()
    if not rounds.starters(chosen):
        sys.exit("no pooler to measure")
    result = rounds.conditions(chosen)
    settings: dict[str, str | int | bool] = {"max_connections": MAX_CONNECTIONS}
    try:
        with (
            rounds.recording(chosen.json, result),
            LocalPostgres(bin_dir=chosen.bin_dir, settings=settings) as postgres,
        ):
            result["machine"]["postgresql"] = postgres.version
            result["works"] = {}
            bin_dir = postgres.bin("pgbench").parent
            pgbench.initialize(bin_dir, poolers.HOST, postgres.port, chosen.scale)
            for name in chosen.only:
                result["works"][name] = WORKS[name](postgres, chosen)
    except (poolers.PoolerStartError, pgbench.PgbenchError, companion.CompanionError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
