"""Tell setuptools which packages there are; everything else is in setup.cfg.

`bench/` lies at the top level of the repository and is shipped as `trio_pool.bench`. setup.cfg can find
packages or list them, not both, hence this file.
"""

from __future__ import annotations

from setuptools import find_packages, setup

setup(
    package_dir={"trio_pool.bench": "bench"},
    packages=[
        *find_packages(include=["trio_pool", "trio_pool.*"]),
        *(f"trio_pool.{package}" for package in find_packages(include=["bench", "bench.*"])),
    ],
)
