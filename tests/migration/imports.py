"""Importing in tests: files that exist only as text, and what came out in each of its forms."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any

import attrs

from trio_pool.config import Config, parse
from trio_pool.migration import spell, translate
from trio_pool.migration.problems import Place, cannot

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_pool.migration import Translation

WHERE = "pgbouncer.ini"


@attrs.frozen
class Texts:
    """Files by name."""

    texts: Mapping[str, str]

    def find(self, name: str) -> str:
        return name

    def read(self, name: str, named_at: Place, key: str) -> str:
        if name not in self.texts:
            raise cannot(named_at, key, f'the file "{name}" cannot be read', "correct the name")
        return self.texts[name]


@attrs.frozen
class Imported:
    translation: Translation
    toml: str

    @property
    def config(self) -> Config:
        """What our own reader makes of it."""
        return parse(self.toml)

    @property
    def data(self) -> dict[str, Any]:
        return tomllib.loads(self.toml)

    @property
    def comments(self) -> str:
        """All comments, as one text without line breaks."""
        lines = [line.removeprefix("# ") for line in self.toml.splitlines() if line.startswith("#")]
        return " ".join(lines)


def import_(ini: str, **files: str) -> Imported:
    """Import a text; `users="..."` is the file "users", and so on."""
    translation = translate(ini, WHERE, Texts(files))
    return Imported(translation, spell(translation.document))


def general(lines: str, **files: str) -> Imported:
    """The same of keys of [pgbouncer], with one database."""
    return import_(f"[databases]\napp = host=db.example\n[pgbouncer]\n{lines}\n", **files)


def database(pairs: str, lines: str = "", **files: str) -> Any:
    """What one database becomes, as TOML has it."""
    return import_(f"[databases]\napp = {pairs}\n[pgbouncer]\n{lines}\n", **files).data["databases"]["app"]
