"""The exit status of a daemon, by how it has ended."""

from __future__ import annotations

from trio_pool.daemon.signals import Ending

EXIT_STATUS = {Ending.IN_ORDER: 0, Ending.AT_ONCE: 1, Ending.GAVE_UP: 10}
"""Not 2, with which click says that the command line is wrong, nor a number that has a name in systemd."""
