"""The tables of settings in `docs/migration.md`, as the translator has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from trio_pool.migration.settings import DATABASES, PEERS, PGBOUNCER, USERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio_pool.migration.settings import Setting

MARK: Final = (
    "<!-- The tables below are made by docs/generate_migration.py from trio_pool/migration/settings.py. -->\n"
)
"""The line of the page behind which all is generated."""

_SECTIONS: Final = (
    ("pgbouncer", PGBOUNCER, ""),
    (
        "databases",
        DATABASES,
        'Each entry becomes `[databases.NAME]`, `*` becomes `[databases."*"]`. The keys of a connection '
        "string:",
    ),
    ("users", USERS, "Each entry becomes `[users.NAME]`."),
    ("peers", PEERS, ""),
)


def render(page: str) -> str:
    """The page (MyST Markdown) with its tables made anew. Raises ValueError if it has no mark."""
    written, mark, _ = page.partition(MARK)
    if not mark:
        raise ValueError("the page has no mark behind which the tables go")
    parts = [written + mark]
    for name, settings, text in _SECTIONS:
        head = f"### `[{name}]`\n"
        parts.append("\n".join([head, *([text + "\n"] if text else []), _table(settings)]))
    return "\n".join(parts)


def _table(settings: Sequence[Setting]) -> str:
    lines = ["| PgBouncer | trio-pool | remark |", "|---|---|---|"]
    for one in settings:
        default = f" ({one.default})" if one.default else ""
        lines.append(f"| `{one.name}`{default} | {one.here} | {one.remark} |")
    return "\n".join(lines) + "\n"
