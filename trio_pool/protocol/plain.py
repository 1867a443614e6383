"""Texts that certainly do nothing to the session, told by their bytes alone, since parsing costs too much."""

from __future__ import annotations

from typing import Final

# The first three letters of statements that do nothing but by calling a function or creating a table.
_HARMLESS: Final = frozenset(
    b"sel ins upd del mer val wit beg sta com end rol abo sav rel sho fet mov loc tru".split()
)
_SEMICOLON: Final = ord(";")
_AMPERSAND: Final = ord("&")
_PARENTHESIS: Final = ord("(")
_INTO: Final = frozenset({b"sel", b"wit"})
_DOTTED_I: Final = ("\xc4\xb0", "\xdd")  # its bytes in UTF-8 and in ISO 8859-9
DIGITS: Final = b"0123456789"
_MOST_SHAPES: Final = 1024
_LONGEST_SHAPE: Final = 512
_SHORT: Final = 16
"""The longest text without a digit that is remembered: every transaction has its COMMIT."""
_shapes: Final[set[bytes]] = set()
"""Plain texts without their digits, the first so many. No dangerous word has a digit, so what a text holds of
them its shape holds as well: if the shape is plain, so is the text, whatever its numbers are.
"""


def plain(text: bytes) -> bool:
    """Whether a text, with or without its NUL, certainly does nothing of what `Facts` tell. For the hot path.

    False means: parse it. It looks for bytes, wherever they are: all client encodings of PostgreSQL write
    an ASCII character as that byte, so nothing is hidden from it by quotes, comments or encodings. True
    also for broken texts, which the server refuses.
    """
    shape = text.translate(None, DIGITS)
    if shape in _shapes:
        return True
    if not _looks_plain(text):
        return False
    if len(_shapes) < _MOST_SHAPES and len(shape) <= _LONGEST_SHAPE:
        numbered = len(shape) < len(text)
        if _looks_plain(shape) if numbered else len(text) <= _SHORT:
            _shapes.add(shape)
    return True


def _looks_plain(text: bytes) -> bool:
    """`plain`, without a memory."""
    lowered = text.lower()
    first = lowered[:3]
    if first not in _HARMLESS:
        first = _behind_comments(lowered)[:3]
        if first not in _HARMLESS:
            return False
    # What one byte follows, NUL or not, is the only statement.
    if _SEMICOLON in lowered and lowered.find(_SEMICOLON) < len(lowered) - 2:
        return False
    # `bytes in bytes` takes four times as long as `str in str`, for it tries the left one as a number first.
    words = lowered.decode("latin-1")
    if "pg_" in words or (first in _INTO and "into" in words):
        return False
    if _AMPERSAND in lowered and '&"' in words:
        return False
    if not lowered.isascii() and (_DOTTED_I[0] in words or _DOTTED_I[1] in words):
        return False
    # No function is called without a parenthesis. The first: nextval, setval, lastval; the second: currval.
    return _PARENTHESIS not in lowered or not (
        "tval" in words
        or "rrval" in words
        or "set_config" in words
        or "setseed" in words
        or "dblink" in words
        or "query_to_xml" in words
        or "crosstab" in words
        or "connectby" in words
        or "xpath_table" in words
        or "ts_stat" in words
        or "ts_rewrite" in words
    )


def _behind_comments(text: bytes) -> bytes:
    """What begins behind white space and comments; nothing if comments are nested."""
    text = text.lstrip()
    while text.startswith((b"/*", b"--")):
        if text.startswith(b"--"):
            lines = text.splitlines()  # at \n, \r and both, as PostgreSQL's comments end
            text = text[len(lines[0]) :].lstrip()
            continue
        end = text.find(b"*/")
        if end < 0 or b"/*" in text[2:end]:
            return b""
        text = text[end + 2 :].lstrip()
    return text
