"""asyncpg's own test suite, run on PostgreSQL directly and through the pool, and the outcomes compared.

    python tests/suites/asyncpg_suite.py --direct HOST:PORT --pool HOST:PORT [--only PATTERN]

A test that passes directly must pass through the pool, unless `asyncpg_exceptions.toml` names it with a
reason; and a test named there must still fail. asyncpg itself is the installed one; its tests come from the
sdist of the same version, which pip fetches into a cache directory (`TRIO_POOL_TEST_CACHE`, or `trio-pool`
below the user's cache directory).

The suite finds its server in PGHOST and PGPORT. What needs a server of its own it skips then, except for what
is left out here. It creates and drops databases and roles, so `--direct` must be a throw-away server that
trusts the user `postgres`; a database that holds anything is refused. The pool must let the same user in and
connect with it to that server, whatever the database.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path

import attrs
import pg8000.native

HERE = Path(__file__).resolve().parent
EXCEPTIONS = HERE / "asyncpg_exceptions.toml"

# The slowest test takes 2.3 s directly, the whole suite 45 s; a pool that hangs must not hold up everything.
TEST_SECONDS = 20
SUITE_SECONDS = 900
FETCH_SECONDS = 300

LEFT_OUT = (
    "tests/test__sourcecode.py",  # runs linters over asyncpg's own source
    "tests/test_connect.py::TestConnectionAttributes",  # starts a primary and a standby, never uses ours
    # 3 of 10 runs on PostgreSQL directly end with "unexpected connection_lost() call" (asyncpg 0.32.0).
    "tests/test_pool.py::TestPool::test_pool_config_persistence",
)

# `--tb=native` as in asyncpg's own settings: pytest's rendering can exhaust the stack after a time-out.
PYTEST_INI = """\
[pytest]
addopts = -q -p no:cacheprovider -p outcomes --import-mode=importlib --tb=native
filterwarnings = default
"""


class SuiteUnavailable(Exception):
    """asyncpg's tests cannot be had here; the message says why."""


class Outcome(enum.Enum):
    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    UNFINISHED = "unfinished"
    MISSING = "missing"


@attrs.frozen
class Result:
    """How a test ended; `message` is the last line of its traceback or the reason it was skipped."""

    outcome: Outcome
    message: str = ""


@attrs.frozen
class Address:
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """From HOST:PORT; raises `ValueError`."""
        host, colon, port = text.rpartition(":")
        if not (colon and host):
            raise ValueError(f"{text!r} is not HOST:PORT")
        return cls(host, int(port))

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def cache_directory() -> Path:
    named = os.environ.get("TRIO_POOL_TEST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio-pool"


def fetch_suite() -> Path:
    """The directory that holds `tests/` and `site/`, fetched on first use; raises `SuiteUnavailable`."""
    try:
        version = importlib.metadata.version("asyncpg")
    except importlib.metadata.PackageNotFoundError:
        raise SuiteUnavailable("asyncpg is not installed") from None
    target = cache_directory() / f"asyncpg-{version}"
    if (target / "tests").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
        work = Path(temporary)
        _pip("download", "--no-binary", "asyncpg", "--no-deps", "--dest", str(work), f"asyncpg=={version}")
        # The tests import it, asyncpg does not.
        _pip("install", "--target", str(work / "suite" / "site"), "distro")
        sdist = next(work.glob("asyncpg-*.tar.gz"))
        with tarfile.open(sdist) as archive:
            archive.extractall(work, filter="data")
        shutil.move(work / f"asyncpg-{version}" / "tests", work / "suite" / "tests")
        with contextlib.suppress(OSError):  # somebody else was faster
            (work / "suite").rename(target)
    return target


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", arguments[0], "-q", "--disable-pip-version-check", "--no-input"]
    try:
        done = subprocess.run(
            [*command, *arguments[1:]], capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SuiteUnavailable(f"pip {arguments[0]}: {error}") from error
    if done.returncode != 0:
        raise SuiteUnavailable(f"pip {arguments[0]} failed: {done.stderr.strip()}")


def refuse_unless_empty(origin: Address) -> None:
    """Raises `ValueError` if the database `postgres` holds tables or there are other databases."""
    connection = pg8000.native.Connection("postgres", host=origin.host, port=origin.port, database="postgres")
    try:
        [[things]] = connection.run(
            "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
            " + (SELECT count(*) FROM pg_database) - 3"
        )
    finally:
        connection.close()
    if things:
        raise ValueError(f"the server at {origin} is not empty; this suite is for throw-away servers only")


def run_suite(
    suite: Path, target: Address, origin: Address, *, only: str | None = None, log: Path | None = None
) -> dict[str, Result]:
    """Run the suite against `target` and return each test's result by its id.

    `origin` is the PostgreSQL behind it, for cleaning up. `only`: pytest's `-k`. `log`: where pytest's output
    goes. Tests that were not reached, pytest having died or taken 15 minutes, are not in the result.
    """
    with tempfile.TemporaryDirectory() as home:
        reports = Path(home) / "outcomes"
        settings = Path(home) / "pytest.ini"
        settings.write_text(PYTEST_INI)
        command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir=."]
        command += [f"--timeout={TEST_SECONDS}", "tests"]
        command += [f"--{'deselect' if '::' in name else 'ignore'}={name}" for name in LEFT_OUT]
        if only:
            command += ["-k", only]
        with (log or Path(home) / "log").open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=suite,
                env=_environment(suite, target, origin, home),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                process.wait(SUITE_SECONDS)
            except subprocess.TimeoutExpired:
                pass
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return read_reports(reports.read_text(encoding="utf-8") if reports.exists() else "")


def _environment(suite: Path, target: Address, origin: Address, home: str) -> dict[str, str]:
    """Ours without what steers libpq, asyncpg or pytest; a home without .pgpass and certificates."""
    foreign = ("PG", "PYTEST_", "COV_", "ASYNCPG_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return kept | {
        "HOME": home,
        "PGHOST": target.host,
        "PGPORT": str(target.port),
        "PGUSER": "postgres",
        "PGDATABASE": "postgres",
        "PYTHONPATH": os.pathsep.join([str(suite / "site"), str(HERE)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OUTCOMES_FILE": f"{home}/outcomes",
        "OUTCOMES_ORIGIN": str(origin),
    }


def read_reports(text: str) -> dict[str, Result]:
    """Results from the JSON lines of the plugin `outcomes`: a test's worst report counts."""
    results: dict[str, Result] = {}
    finished = set()
    for line in text.splitlines():
        report = json.loads(line)
        name, outcome = report["id"], Outcome(report["outcome"])
        before = results.get(name, Result(Outcome.PASSED))
        worse = before.outcome is not Outcome.FAILED and outcome is not Outcome.PASSED
        results[name] = Result(outcome, report["message"]) if worse else before
        if report["when"] == "teardown":
            finished.add(name)
    return {
        name: result if name in finished or result.outcome is Outcome.FAILED else Result(Outcome.UNFINISHED)
        for name, result in results.items()
    }


@attrs.frozen
class Exceptions:
    """Tests that are allowed to fail through the pool, with the reasons: those that must, those that may."""

    must: dict[str, str] = attrs.field(factory=dict)
    may: dict[str, str] = attrs.field(factory=dict)


def read_exceptions(path: Path = EXCEPTIONS) -> Exceptions:
    """What `asyncpg_exceptions.toml` names."""
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    return Exceptions(table["exceptions"], table["either"])


def compare(
    direct: dict[str, Result], pooled: dict[str, Result], exceptions: Exceptions, *, complete: bool
) -> list[str]:
    """What is wrong, one line each. `complete`: the whole suite ran, so every exception must be in it."""
    problems = []
    for name, result in direct.items():
        through = pooled.get(name, Result(Outcome.MISSING))
        if result.outcome is not Outcome.PASSED or name in exceptions.may:
            continue
        if through.outcome is not Outcome.PASSED and name not in exceptions.must:
            problems.append(
                f"{name} passes directly; through the pool: {through.outcome.value} {through.message}"
            )
        if through.outcome is Outcome.PASSED and name in exceptions.must:
            problems.append(f"{name} passes through the pool: take it out of the exceptions")
    if complete:
        problems += [
            f"{name} is an exception and no test of the suite"
            for name in (*exceptions.must, *exceptions.may)
            if name not in direct
        ]
    return problems


def summary(results: dict[str, Result]) -> str:
    """Such as "311 passed, 63 skipped"."""
    counts = {outcome: sum(result.outcome is outcome for result in results.values()) for outcome in Outcome}
    return (
        ", ".join(f"{count} {outcome.value}" for outcome, count in counts.items() if count) or "no test ran"
    )


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="asyncpg's test suite, directly and through a pool")
    parser.add_argument(
        "--direct", type=Address.parse, required=True, help="HOST:PORT of a throw-away PostgreSQL"
    )
    parser.add_argument(
        "--pool", type=Address.parse, required=True, help="HOST:PORT of a pool in front of it"
    )
    parser.add_argument("--only", metavar="PATTERN", help="the tests that pytest's -k selects")
    parser.add_argument("--logs", type=Path, metavar="DIRECTORY", help="keep pytest's output here")
    chosen = parser.parse_args(arguments)
    try:
        suite = fetch_suite()
        refuse_unless_empty(chosen.direct)
    except (SuiteUnavailable, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    results = {}
    for name, target in (("direct", chosen.direct), ("pool", chosen.pool)):
        log = chosen.logs / f"{name}.log" if chosen.logs else None
        results[name] = run_suite(suite, target, chosen.direct, only=chosen.only, log=log)
        print(f"{name:8} {summary(results[name])}", flush=True)
    problems = compare(results["direct"], results["pool"], read_exceptions(), complete=chosen.only is None)
    print(*problems, sep="\n")
    return 1 if problems or not results["direct"] else 0


if __name__ == "__main__":
    sys.exit(main())
