"""Somebody else's test suite: where it comes from, and a run of it against one server.

A suite's tests are those of the sdist whose version is installed here, which pip fetches into a cache
directory (`TRIO_POOL_TEST_CACHE`, or `trio-pool` below the user's cache directory); what they test is the
installed distribution. They are run by a pytest of their own, which writes what becomes of each test by the
plugin `outcomes`. It must never know what the outcomes are compared with.

The suites create and drop databases and roles, so the PostgreSQL must be a throw-away one that trusts the
user `postgres`. A pool must let the same user in and connect with it to that server, whatever the database.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pg8000.native

from tests.suites.comparison import read_reports

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.suites.comparison import Result

HERE = Path(__file__).resolve().parent
PLUGIN = HERE / "plugin"

# A pool that hangs must not hold up everything.
SUITE_SECONDS = 900
FETCH_SECONDS = 300


class SuiteUnavailable(Exception):
    """The tests cannot be had here; the message says why."""


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


def _libpq_variables(target: Address) -> dict[str, str]:
    return {"PGHOST": target.host, "PGPORT": str(target.port), "PGUSER": "postgres", "PGDATABASE": "postgres"}


def _no_arguments(_: Address) -> list[str]:
    return []


@attrs.frozen(kw_only=True)
class Suite:
    """A distribution's tests, and how they are run.

    `name`: what the suite is called here; `<name>_exceptions.toml` holds its exceptions. `distribution`: on
    the package index. `keep`: what of the sdist is needed. `needs`: distributions that its tests import and
    that are not ours. `plugins`: of pytest, by module. `ini`: its settings for pytest. `tests`: what is
    run, by pytest's ids; `left_out`: ids that are not, and `keywords`: pytest's `-k`. `test_seconds`: how
    long a test may take. `tidy`: whether whoever fails has its tables cleared away. `preparation`: SQL by
    database, in this order. `arguments` and `variables`: what tells the suite which server to use.
    `rename`: what makes a test's name the same on every PostgreSQL. `least`: so many tests pass on
    PostgreSQL directly, or the comparison is worth nothing.
    """

    name: str
    distribution: str
    keep: tuple[str, ...]
    tests: tuple[str, ...]
    least: int
    needs: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()
    ini: str = ""
    left_out: tuple[str, ...] = ()
    keywords: str | None = None
    test_seconds: int = 20
    tidy: bool = True
    preparation: tuple[tuple[str, tuple[str, ...]], ...] = ()
    arguments: Callable[[Address], list[str]] = _no_arguments
    variables: Callable[[Address], Mapping[str, str]] = _libpq_variables
    rename: Callable[[str], str] = str

    @property
    def exceptions(self) -> Path:
        return HERE / f"{self.name}_exceptions.toml"

    def fetch(self) -> Path:
        """The directory that holds its files and `site/`, fetched on first use; raises `SuiteUnavailable`."""
        try:
            version = importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            raise SuiteUnavailable(f"{self.distribution} is not installed") from None
        contents = hashlib.sha256(repr((self.keep, self.needs)).encode()).hexdigest()[:8]
        target = cache_directory() / f"{self.distribution}-{version}-{contents}"
        if target.exists():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as temporary:
            work = Path(temporary)
            wanted = f"{self.distribution}=={version}"
            _pip("download", "--no-binary", self.distribution, "--no-deps", "--dest", str(work), wanted)
            (work / "suite" / "site").mkdir(parents=True)
            if self.needs:
                _pip("install", "--no-deps", "--target", str(work / "suite" / "site"), *self.needs)
            with tarfile.open(next(work.glob("*.tar.gz"))) as archive:
                archive.extractall(work / "sdist", filter="data")
            [top] = (work / "sdist").iterdir()
            for path in self.keep:
                (work / "suite" / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.move(top / path, work / "suite" / path)
            with contextlib.suppress(OSError):  # somebody else was faster
                (work / "suite").rename(target)
        return target

    def prepare(self, origin: Address) -> None:
        """Make in a new server what the tests expect to find."""
        for database, statements in self.preparation:
            run_sql(origin, database, *statements)

    def run(
        self,
        directory: Path,
        target: Address,
        origin: Address,
        *,
        only: str | None = None,
        log: Path | None = None,
    ) -> dict[str, Result]:
        """Run it against `target` and return each test's result by its name.

        `directory`: what `fetch` returned. `origin` is the PostgreSQL behind the target, for tidying up; it
        has been prepared. `only`: pytest's `-k`. `log`: where pytest's output goes. Tests that were not
        reached, pytest having died or taken 15 minutes, are not in the result.
        """
        with tempfile.TemporaryDirectory() as home:
            reports = Path(home) / "outcomes"
            settings = Path(home) / "pytest.ini"
            settings.write_text(f"[pytest]\n{self.ini}")
            with (log or Path(home) / "log").open("wb") as output:
                process = subprocess.Popen(
                    self._command(settings, target, only),
                    cwd=directory,
                    env=self._environment(directory, target, origin, home),
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
            text = reports.read_text(encoding="utf-8") if reports.exists() else ""
        return read_reports(text, self.rename)

    def _command(self, settings: Path, target: Address, only: str | None) -> list[str]:
        # `--tb=native`: pytest's rendering can exhaust the stack after a time-out.
        # `--assert=plain`: rewriting assertions takes seconds, since nothing is cached.
        command = [sys.executable, "-m", "pytest", "-c", str(settings), "--rootdir=.", "-q"]
        command += ["--tb=native", "--assert=plain"]
        for plugin in ("pytest_timeout", "outcomes", *self.plugins):
            command += ["-p", plugin]
        command += ["-p", "no:cacheprovider", f"--timeout={self.test_seconds}", *self.arguments(target)]
        command += [f"--{'deselect' if '::' in name else 'ignore'}={name}" for name in self.left_out]
        keywords = [f"({expression})" for expression in (self.keywords, only) if expression]
        if keywords:
            command += ["-k", " and ".join(keywords)]
        return [*command, *self.tests]

    def _environment(self, directory: Path, target: Address, origin: Address, home: str) -> dict[str, str]:
        """Ours without what steers libpq, drivers or pytest; a home without .pgpass and certificates.

        The system's certificates vouch for nobody here, and pg8000 reads all of them at each connection,
        which takes it longer than most of its tests: so there are none.
        """
        foreign = ("PG", "PYTEST_", "PYTHON", "COV_", "ASYNCPG_", "SQLALCHEMY_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        return {
            **kept,
            "HOME": home,
            "SSL_CERT_FILE": os.devnull,
            "SSL_CERT_DIR": os.devnull,
            "PYTHONPATH": os.pathsep.join([str(directory / "site"), str(PLUGIN)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONNOUSERSITE": "1",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "OUTCOMES_FILE": f"{home}/outcomes",
            **({"OUTCOMES_TIDY": str(origin)} if self.tidy else {}),
            **self.variables(target),
        }


def cache_directory() -> Path:
    named = os.environ.get("TRIO_POOL_TEST_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trio-pool"


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


def run_sql(server: Address, database: str, *statements: str) -> list[list[object]]:
    """Run each as the superuser; the rows of the last one."""
    rows: list[list[object]] = []
    with pg8000.native.Connection(
        "postgres", host=server.host, port=server.port, database=database, ssl_context=False
    ) as connection:
        for statement in statements:
            rows = connection.run(statement) or []
    return rows


def refuse_unless_empty(server: Address) -> None:
    """Raises `ValueError` if the database `postgres` holds tables or there are other databases."""
    [[things]] = run_sql(
        server,
        "postgres",
        "SELECT (SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace)"
        " + (SELECT count(*) FROM pg_database) - 3",
    )
    if things:
        raise ValueError(f"the server at {server} is not empty; the suites are for throw-away servers only")
