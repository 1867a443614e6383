"""Where PgBouncer's files are read from.

PgBouncer takes relative names from its working directory. Nobody knows here what that was, so a name is
looked for in the working directory of this process and then beside pgbouncer.ini.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from trio_pool.migration.problems import Place, cannot

if TYPE_CHECKING:
    from collections.abc import Iterator


class Files(Protocol):
    """What reads the files that PgBouncer's configuration names."""

    def find(self, name: str) -> str:
        """The full name of a file, or the name as it is if there is none."""
        ...

    def read(self, name: str, named_at: Place, key: str) -> str:
        """The text of a file. Raises `CannotImport`."""
        ...


@attrs.frozen
class Directory:
    """Real files; `beside` is the directory of pgbouncer.ini."""

    beside: Path

    def find(self, name: str) -> str:
        for path in self._candidates(name):
            if path.exists():
                return str(path)
        return name

    def read(self, name: str, named_at: Place, key: str) -> str:
        found = Path(self.find(name))
        try:
            text = found.read_bytes().decode()
        except OSError as error:
            reason = error.strerror or type(error).__name__
            remedy = "correct the name or the permissions"
            if key == "auth_file":
                remedy += ", or name a copy with --userlist"
            raise cannot(named_at, key, f'the file "{name}" cannot be read: {reason}', remedy) from None
        except UnicodeDecodeError:
            raise cannot(named_at, key, f'the file "{name}" is not UTF-8', "convert it to UTF-8") from None
        if "\0" in text:
            raise cannot(named_at, key, f'the file "{name}" has a zero byte in it', "take it out")
        return text

    def _candidates(self, name: str) -> Iterator[Path]:
        yield Path.cwd() / name
        yield (self.beside / name).absolute()
