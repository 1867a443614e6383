"""What ends a parent before it serves."""

from __future__ import annotations


class CannotServe(Exception):
    """A worker cannot serve; the text says why."""
