"""Tell setuptools which packages there are, and which modules are compiled; everything else is in setup.cfg.

`bench/` lies at the top level of the repository and is shipped as `trio_pool.bench`. setup.cfg can find
packages or list them, not both, hence this file.

The modules of the hot path are compiled by mypyc from the source that is there, types and all. Without them
the program does the same, slower: so where there is no C compiler, the wheel holds Python only. The variable
TRIO_POOL_COMPILE decides: 0 never, 1 always, and an error if it cannot be done; otherwise only where it can,
and not in an editable installation, whose compiled modules would hide what is edited.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

WANTED = os.environ.get("TRIO_POOL_COMPILE", "")

# What a message passes through from socket to socket.
COMPILED = [
    "cache/flight",
    "cache/freshness",
    "cache/store",
    "net/cached",
    "net/client",
    "net/connection",
    "net/feed_line",
    "net/listening_connection",
    "net/poller",
    "net/queue_ahead",
    "net/server",
    "net/server_queue",
    "net/timed",
    "net/transport",
    "pooling/pool",
    "pooling/traffic",
    "protocol/backend",
    "protocol/carried",
    "protocol/client",
    "protocol/lone",
    "protocol/plain",
    "protocol/prepared",
    "protocol/reply_queue",
    "protocol/server",
    "protocol/serverless",
    "protocol/transactions",
    "protocol/watch",
    "wire/frames",
]


class BuildAllOrNothing(build_ext):
    """Half of the modules would not be loadable."""

    def run(self) -> None:
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            if WANTED == "1":
                raise
            print(
                f"The hot path is not compiled, and so not as fast as it could be: {error}", file=sys.stderr
            )
            for extension in self.extensions:
                Path(self.get_ext_fullpath(extension.name)).unlink(missing_ok=True)
            self.extensions = []


def extensions() -> list[Any]:
    """What is to be compiled by this command."""
    builds = {"bdist_wheel", "build", "build_ext", "install"} & {*sys.argv}
    if WANTED == "1":
        builds |= {"editable_wheel", "develop"} & {*sys.argv}
    if not builds or WANTED == "0":
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        if WANTED == "1":
            raise
        return []
    sources = [f"trio_pool/{name}.py" for name in COMPILED]
    return mypycify(
        ["--config-file=setup.cfg", *sources], opt_level="3", debug_level="0", group_name="trio_pool"
    )


setup(
    package_dir={"trio_pool.bench": "bench"},
    packages=[
        *find_packages(include=["trio_pool", "trio_pool.*"]),
        *(f"trio_pool.{package}" for package in find_packages(include=["bench", "bench.*"])),
    ],
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildAllOrNothing},
)
