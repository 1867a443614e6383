"""The text of ``docs/configuration.md``, made from the model so that the two always agree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_pool.config.origin import PARAMETERS
from trio_pool.config.tables import TABLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.config.kinds import Key
    from trio_pool.config.tables import Table

_INTRODUCTION = """\
# Configuration

<!-- Made by docs/generate_configuration.py from trio_pool/config; change the texts there. -->

One TOML file, given to `trio-pool serve --config FILE`. `trio-pool check --config FILE` reads it and logs in
to every origin. Unknown keys are errors, and all errors are reported at once, each with its line. An
embedding program passes the same structure to `trio_pool.config.Config.from_dict`.

The shortest configuration that lets somebody in:

```toml
[users.alice]
password_env = "ALICE_PASSWORD"

[databases.app]
origin = "postgresql://pool_user@db.internal:5432/app?sslmode=verify-full"
password_env = "APP_PASSWORD"
```

## Values

- A **duration** is a string with one of PostgreSQL's units `us`, `ms`, `s`, `min`, `h` and `d`: `"500ms"`,
  `"15s"`, `"1.5h"`. `"0"` is off.
- A **size** is a string with one of PostgreSQL's units `B`, `kB`, `MB`, `GB` and `TB`, which are powers of
  1024: `"50MB"`.
- A **file** is a path, relative to the directory of the configuration file.
"""

_ORIGIN = """\
## The origin's URL

`postgresql://user:password@host1:port1,host2:port2/database?parameter=value&...`, as in libpq; `postgres://`
is the same. Everything but the scheme and one host may be left out; the port is then 5432. Hosts are tried in
order. An IPv6 address stands in brackets, the directory of a Unix socket is a host with `/` written as `%2F`.
Characters with a meaning in URLs are percent-encoded. No other parameters are accepted.
"""


def render() -> str:
    """The whole page, in MyST Markdown."""
    sections = [_INTRODUCTION, *(_render_table(table) for table in TABLES), _render_origin()]
    return "\n".join(sections)


def _render_table(table: Table) -> str:
    header = f"[[{table.header}]]" if table.header == "auth.rules" else f"[{table.header}]"
    if table.repeats:
        return f"## `{header}`\n\n{table.text}\n"
    rows = [
        (f"`{name}`", key.kind.name, _spell_default(key, field), key.meaning)
        for name, (key, field) in table.keys.items()
    ]
    return f"## `{header}`\n\n{table.text}\n\n{_render_rows(('key', 'type', 'default', 'meaning'), rows)}"


def _render_origin() -> str:
    rows = [(f"`{name}`", meaning) for name, meaning in PARAMETERS.items()]
    return f"{_ORIGIN}\n{_render_rows(('parameter', 'meaning'), rows)}"


def _spell_default(key: Key, field: attrs.Attribute[object]) -> str:
    if field.default is attrs.NOTHING:
        return "required"
    return "" if field.default is None else f"`{key.kind.spell(field.default)}`"


def _render_rows(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
