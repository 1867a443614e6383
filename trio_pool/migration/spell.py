"""A document as TOML text."""

from __future__ import annotations

import json
import re
import textwrap
from typing import TYPE_CHECKING

from trio_pool.migration.document import Comment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_pool.migration.document import Document, Header, Table

WIDTH = 110

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
# TOML 1.0 allows none of these in a comment but the tab; a line break of another kind would end it for some
# readers.
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def spell(document: Document) -> str:
    """The text of the file."""
    return "\n\n".join("\n".join(_table(table)) for table in document.ordered()) + "\n"


def spell_comment(text: str) -> list[str]:
    """The lines of a comment."""
    lines = textwrap.wrap(
        _UNPRINTABLE.sub(" ", text), WIDTH - 2, break_long_words=False, break_on_hyphens=False
    )
    return [f"# {line}" for line in lines]


def _table(table: Table) -> Iterator[str]:
    if table.header:
        yield f"[[{_header(table.header)}]]" if table.is_element else f"[{_header(table.header)}]"
    for line in table.lines:
        if isinstance(line, Comment):
            yield from spell_comment(line.text)
            continue
        remark = f"  # {_UNPRINTABLE.sub(' ', line.remark)}" if line.remark else ""
        yield f"{line.key} = {_value(line.value)}{remark}"


def _header(header: Header) -> str:
    return ".".join(step if _BARE_KEY.fullmatch(step) else _string(step) for step in header)


def _value(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list() | tuple():
            return f"[{', '.join(map(_value, value))}]"
        case _:
            return _string(str(value))


def _string(text: str) -> str:
    # JSON's literal is TOML's too, but for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
