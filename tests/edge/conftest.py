"""An edge and an origin, two poolers with a link between them on which crossings are counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.edge.path import Path, opened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import LocalPostgres


@pytest.fixture(scope="module")
def link_path(postgres: LocalPostgres, certificates: Certificates) -> Iterator[Path]:
    """A client's whole way to PostgreSQL, warm."""
    with opened(postgres, certificates) as path:
        yield path


@pytest.fixture
def path(link_path: Path) -> Path:
    """The same, at rest, with nothing seen yet."""
    link_path.rest()
    return link_path
