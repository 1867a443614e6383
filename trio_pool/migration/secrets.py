"""Passwords elsewhere than in the file: names of environment variables or of files in their place."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING

import attrs

from trio_pool.migration.document import Value

if TYPE_CHECKING:
    from trio_pool.migration.document import Document, Header

_KEYS = ("password", "query_password")


class Secrets(StrEnum):
    """Where the passwords are to stand."""

    KEEP = "keep"
    ENV = "env"
    FILE = "file"


def move_secrets(document: Document, where: Secrets) -> list[str]:
    """Put a name in the place of each password, and tell the names. They are not written anywhere."""
    if where is Secrets.KEEP:
        return []
    names: list[str] = []
    for table in document.ordered():
        for index, line in enumerate(table.lines):
            if isinstance(line, Value) and line.key in _KEYS:
                name = _name(table.header, where, names)
                names.append(name)
                table.lines[index] = attrs.evolve(line, key=f"{line.key}_{where}", value=name)
    return names


def _name(header: Header, where: Secrets, taken: list[str]) -> str:
    owner = "_".join(header)
    if where is Secrets.ENV:
        name = "TRIO_POOL_" + re.sub(r"[^A-Z0-9]+", "_", owner.upper()) + "_PASSWORD"
    else:
        name = "secrets/" + re.sub(r"[^A-Za-z0-9_.-]+", "_", owner)
    unique, number = name, 2
    while unique in taken:
        unique, number = f"{name}_{number}", number + 1
    return unique
