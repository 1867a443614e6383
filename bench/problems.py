"""What can go wrong with a target or with a work, as opposed to with the harness."""

from __future__ import annotations


class TargetError(Exception):
    """A target did not do what was asked of it, or its load could not tell; the message says what it got."""


class LeftOut(Exception):
    """A work or a target that cannot be measured here, through nobody's fault; the message says why."""
