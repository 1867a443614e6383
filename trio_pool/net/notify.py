"""Telling a supervisor where the process stands: systemd's protocol (`sd_notify(3)`), datagrams of
assignments to the Unix socket that `NOTIFY_SOCKET` names. Without that variable nothing is sent.

Nobody waits for an answer, and a supervisor that cannot be reached is no reason not to serve.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress


def ready(status: str = "") -> None:
    """Clients are accepted; or a reload is over."""
    _send("READY=1", *([f"STATUS={status}"] if status else []))


def main_process(process_id: int) -> None:
    """Another process of ours is to be supervised from now on."""
    _send(f"MAINPID={process_id}")


def watchdog_interval() -> float | None:
    """Seconds within which the supervisor wants to hear from us; None if it does not watch us."""
    span, whom = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not span.isdecimal() or not int(span) or whom not in ("", str(os.getpid())):
        return None
    return int(span) / 1_000_000


def alive() -> None:
    """The event loop turns."""
    _send("WATCHDOG=1")


def reloading() -> None:
    """A reload begins, which ends with `ready`."""
    # The supervisor compares it with its own clock, to know which of its signals was meant.
    microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    _send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")


def stopping() -> None:
    """The end has begun."""
    _send("STOPPING=1", "STATUS=draining")


def _send(*assignments: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")) or not hasattr(socket, "AF_UNIX"):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract one
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.sendto("\n".join(assignments).encode(), address)
