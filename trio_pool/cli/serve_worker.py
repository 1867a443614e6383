"""The program that a worker process runs. It is started by `trio-pool serve` and by nobody else."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import structlog
import trio

import trio_pool
from trio_pool.cli.endings import EXIT_STATUS
from trio_pool.daemon.logs import configure_logs
from trio_pool.daemon.workers.channel import Channel
from trio_pool.daemon.workers.worker import Worker
from trio_pool.net import descriptors

HARD_END = 5.0
"""Seconds that a worker has for its end when the parent is gone."""


def main() -> None:
    """Arguments: descriptors of channel and lifeline, index, least log level, the parent's version."""
    channel, lifeline, index = map(int, sys.argv[1:4])
    # The parent says when to end; a terminal's Ctrl-C goes to both.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    os.set_inheritable(lifeline, False)
    threading.Thread(target=_end_with_parent, args=(lifeline,), name="lifeline", daemon=True).start()
    configure_logs(level=sys.argv[4])
    structlog.contextvars.bind_contextvars(worker=index)
    if sys.argv[5] != trio_pool.__version__:
        log = structlog.get_logger()
        log.error("another version is installed: hand over or restart", parent=sys.argv[5])
        sys.exit(1)
    ending = trio.run(Worker(Channel(descriptors.adopt(channel), "the parent")).run)
    sys.exit(EXIT_STATUS[ending])


def _end_with_parent(lifeline: int) -> None:
    """Nobody is left behind when the parent is killed, not even one that hangs."""
    os.read(lifeline, 1)
    time.sleep(HARD_END)
    os._exit(1)


if __name__ == "__main__":
    main()
