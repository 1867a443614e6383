from __future__ import annotations

from pathlib import Path

import pytest

from trio_pool.migration.reference import render
from trio_pool.migration.settings import SECTIONS

PAGE = Path(__file__).parents[2] / "docs" / "migration.md"


def test_the_committed_tables_are_the_generated_ones() -> None:
    """The page says what the translator does; docs/generate_migration.py brings it up to date."""
    page = PAGE.read_text("utf-8")
    assert page == render(page)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_its_line(section: str) -> None:
    """With what it becomes, or why it does not; nothing breaks out of its cell."""
    for setting in SECTIONS[section]:
        assert setting.here or setting.remark, setting.name
        assert not setting.remark or setting.remark.endswith("."), setting.name
        assert "|" not in setting.here + setting.remark, setting.name
        assert f"| `{setting.name}`" in PAGE.read_text("utf-8")


def test_no_key_stands_twice() -> None:
    """A section's table is looked up by name."""
    for settings in SECTIONS.values():
        names = [setting.name for setting in settings]
        assert names == list(dict.fromkeys(names))
