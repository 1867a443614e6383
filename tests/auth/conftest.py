"""PostgreSQL with users whose passwords it alone knows, and a pooler that looks them up there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.auth.origin import AuthOrigin
from tests.support.pooler import Pooler

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.certificates import Certificates
    from trio_pool.cli.postgres import Installation


@pytest.fixture(scope="module")
def origin(installation: Installation, certificates: Certificates) -> Iterator[AuthOrigin]:
    with AuthOrigin.start(installation, certificates) as running:
        yield running


@pytest.fixture(scope="module")
def pool(origin: AuthOrigin) -> Iterator[Pooler]:
    """Everybody shares one pool; users are looked up by the function of the documentation."""
    with Pooler(origin.pg, tls=False, extra=origin.lookup()) as running:
        yield running
