from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from trio_pool.config import Config
from trio_pool.config.reference import render
from trio_pool.config.tables import TABLES, Table

DOCS = Path(__file__).parents[2] / "docs"


def test_the_committed_reference_is_the_generated_one() -> None:
    """The documentation says what the program does; docs/generate_configuration.py brings it up to date."""
    assert (DOCS / "configuration.md").read_text("utf-8") == render()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.header)
def test_every_key_is_explained(table: Table) -> None:
    """No key is without a meaning, and none breaks out of its cell."""
    for name, (key, _) in table.keys.items():
        assert key.meaning.endswith("."), name
        assert "\n" not in key.meaning, name


def test_the_shortest_configuration_of_the_reference_works() -> None:
    """What a reader copies first is accepted."""
    example = render().split("```toml\n")[1].split("```")[0]
    config = Config.from_dict(tomllib.loads(example), environ={"ALICE_PASSWORD": "a", "APP_PASSWORD": "b"})
    assert (list(config.users), list(config.databases)) == (["alice"], ["app"])
