"""Writes the tables of ``docs/migration.md``. Run it after a change to what PgBouncer's settings become."""

from __future__ import annotations

from pathlib import Path

from trio_pool.migration.reference import render

if __name__ == "__main__":
    page = Path(__file__).with_name("migration.md")
    page.write_text(render(page.read_text("utf-8")), encoding="utf-8")
