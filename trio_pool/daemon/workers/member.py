"""A worker as its parent sees it, and how its process is started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import attrs
import trio

import trio_pool
from trio_pool.daemon.workers.channel import Channel
from trio_pool.net import descriptors

PROGRAM = "trio_pool.cli.serve_worker"


@attrs.define(eq=False)
class Member:
    """`party` is its number among all workers that there have ever been."""

    index: int
    party: int
    restarts: int
    channel: Channel
    process: trio.Process
    lifeline: int
    """Closed when it is to end, whatever it does: so it is when the parent is killed."""
    ready: bool = False
    """Whether it accepts clients, or has stopped to."""
    accepted: bool = False
    """Whether it ever has."""

    @property
    def process_id(self) -> int:
        return self.process.pid

    def cut(self) -> None:
        """Give it no more than some seconds."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def kill(self) -> None:
        """End it now."""
        if self.process.returncode is None:
            self.process.kill()


async def start(index: int, party: int, restarts: int, log_level: str) -> Member:
    """Start the process; it waits for its orders. Raises OSError."""
    ours, theirs = descriptors.pair()
    kept, lifeline = os.pipe()
    try:
        with theirs:
            passed = theirs.fileno(), kept
            arguments = *map(str, passed), str(index), log_level, trio_pool.__version__
            process = await trio.lowlevel.open_process(
                [sys.executable, "-P", "-m", PROGRAM, *arguments],
                pass_fds=passed,
                env=_environment(),
            )
    except BaseException:
        ours.close()
        os.close(lifeline)
        raise
    finally:
        os.close(kept)
    channel = Channel(ours, f"worker {index}")
    return Member(index, party, restarts, channel, process, lifeline)


def _environment() -> dict[str, str]:
    """What supervises us is not told of workers. And a program that runs from its sources, which Python finds
    because they are where it was started, finds them there as well.
    """
    private = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"}
    environment = {name: value for name, value in os.environ.items() if name not in private}
    home = str(Path(trio_pool.__file__).parent.parent)
    if os.path.abspath(sys.path[0] or os.curdir) == home:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (home, environment.get("PYTHONPATH"))))
    return environment
