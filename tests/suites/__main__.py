"""A suite on PostgreSQL directly and through a pool, and the outcomes compared.

    python -m tests.suites NAME --direct HOST:PORT --pool HOST:PORT [--only PATTERN]

`--direct` must be a throw-away server, and the one behind `--pool`; one that holds anything is refused.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.suites.again import run_again
from tests.suites.catalog import SUITES
from tests.suites.comparison import compare, read_exceptions, summary
from tests.suites.suite import Address, SuiteUnavailable, refuse_unless_empty


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.suites", description="A test suite, directly and through a pool"
    )
    parser.add_argument("name", choices=SUITES)
    parser.add_argument(
        "--direct", type=Address.parse, required=True, help="HOST:PORT of a throw-away PostgreSQL"
    )
    parser.add_argument(
        "--pool", type=Address.parse, required=True, help="HOST:PORT of a pool in front of it"
    )
    parser.add_argument("--only", help="run what matches, as pytest -k does")
    parser.add_argument("--logs", type=Path, help="directory for pytest's output")
    chosen = parser.parse_args(arguments)
    suite = SUITES[chosen.name]
    try:
        directory = suite.fetch()
        refuse_unless_empty(chosen.direct)
        suite.prepare(chosen.direct)
    except (SuiteUnavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    results = {}
    for name, target in (("direct", chosen.direct), ("pool", chosen.pool)):
        log = chosen.logs / f"{name}.log" if chosen.logs else None
        results[name] = suite.run(directory, target, chosen.direct, only=chosen.only, log=log)
        print(f"{name:8} {summary(results[name])}", flush=True)
    direct, exceptions = results["direct"], read_exceptions(suite.exceptions)
    pooled = run_again(suite, directory, chosen.pool, chosen.direct, direct, results["pool"], exceptions)
    problems = compare(direct, pooled, exceptions, complete=chosen.only is None)
    print(*problems, sep="\n")
    return 1 if problems or not direct else 0


if __name__ == "__main__":
    sys.exit(main())
