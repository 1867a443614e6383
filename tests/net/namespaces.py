"""Two network namespaces with a cable between them that can be cut. Nothing of it is outside of them, and
nothing of it is left when their processes have ended.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEAR = "10.99.0.1"
FAR = "10.99.0.2"


@attrs.frozen
class Namespaces:
    """`near` and `far` are processes that keep the namespaces alive."""

    near: int
    far: int

    def enter(self, pid: int, *command: str) -> list[str]:
        """The command line of a command in the namespace of a process."""
        return ["nsenter", f"--net=/proc/{pid}/ns/net", *command]

    def run(self, pid: int, *command: str) -> None:
        subprocess.run(self.enter(pid, *command), check=True, capture_output=True)

    def connect(self) -> None:
        """Lay the cable."""
        self.run(
            self.near,
            "ip",
            "link",
            "add",
            "near",
            "type",
            "veth",
            "peer",
            "name",
            "far",
            "netns",
            str(self.far),
        )
        for pid, name, address in ((self.near, "near", NEAR), (self.far, "far", FAR)):
            self.run(pid, "ip", "address", "add", f"{address}/30", "dev", name)
            self.run(pid, "ip", "link", "set", name, "up")
        self.run(self.near, "ip", "link", "set", "lo", "up")

    def cut(self) -> None:
        """Cut the cable: whatever is sent is lost, and nobody is told."""
        self.run(self.far, "ip", "link", "set", "far", "down")

    def python_near(self, directory: Path) -> str:
        """A program that is Python in the near namespace."""
        program = directory / "python"
        entered = " ".join(self.enter(self.near, sys.executable))
        program.write_text(f'#!/bin/sh\nexec {entered} "$@"\n')
        program.chmod(0o755)
        return str(program)


def why_not() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"there is no program {program}"
    tried = subprocess.run(
        ["unshare", "--net", "ip", "link", "add", "near", "type", "veth", "peer", "name", "far"],
        capture_output=True,
        text=True,
        check=False,
    )
    return None if tried.returncode == 0 else f"no network namespace: {tried.stderr.strip()}"


@contextlib.contextmanager
def namespaces() -> Iterator[Namespaces]:
    """Both, connected, for as long as the block lasts."""
    with contextlib.ExitStack() as stack:
        pids = []
        for _ in range(2):
            process = stack.enter_context(
                subprocess.Popen(
                    ["unshare", "--net", "sh", "-c", "echo there; read -r _"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == b"there\n"
            pids.append(process.pid)
        both = Namespaces(*pids)
        both.connect()
        yield both
