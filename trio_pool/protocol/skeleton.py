"""A text without its strings: what texts have in common that differ in the values that are written into them.

It must never be used where the content of a string matters.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trio_pool.protocol.shapes import shape_of

if TYPE_CHECKING:
    from re import Match

LONGEST = 4096
"""Bytes of the longest text that has a skeleton: longer ones hardly come again but for their strings."""
_MISLEADING = re.compile(rb"[\\$]|--|/\*|(?:\A|;)\s*(?:do|explain)\b", re.IGNORECASE)
"""Where a quote may not be one: an escape, a string in dollars, a comment. And statements in which strings
are code or options.
"""
_QUOTE = ord("'")
_MARK = b"\x01"
"""No text that is understood has it."""
_QUOTED = re.compile(rb"\"[^\"]*\"|'[^']*'")


def skeleton(text: bytes) -> bytes | None:
    """The text with a mark for every string, or the shape of that; names in double quotes stay.

    None if it has no strings, or if what is a string cannot be told without parsing it.
    """
    if b"'" not in text or len(text) > LONGEST or _MISLEADING.search(text):
        return None
    bare = _QUOTED.sub(_marked, text)
    return shape_of(bare) or bare


def _marked(found: Match[bytes]) -> bytes:
    quoted = found[0]
    return _MARK if quoted[0] == _QUOTE else quoted
