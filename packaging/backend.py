"""setuptools, and for wheels what compiles the hot path.

An editable installation is not compiled, so it needs no compiler of types either. TRIO_POOL_COMPILE says
otherwise, as in setup.py.
"""

from __future__ import annotations

import os

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403

# attrs, because mypy has to know what its classes are made with.
_COMPILER = ["mypy>=2.4.1", "attrs>=26.1.0"]


def get_requires_for_build_wheel(  # type: ignore[no-redef]
    config_settings: dict[str, str | list[str] | None] | None = None,
) -> list[str]:
    wanted = os.environ.get("TRIO_POOL_COMPILE") != "0"
    return build_meta.get_requires_for_build_wheel(config_settings) + (_COMPILER if wanted else [])


def get_requires_for_build_editable(  # type: ignore[no-redef]
    config_settings: dict[str, str | list[str] | None] | None = None,
) -> list[str]:
    wanted = os.environ.get("TRIO_POOL_COMPILE") == "1"
    return build_meta.get_requires_for_build_editable(config_settings) + (_COMPILER if wanted else [])
