"""node-postgres and its packages, from npm, for the driver's tests."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "e2e" / "node"
INSTALL_SECONDS = 100


class NodeUnavailable(Exception):
    """Node.js, npm or the packages cannot be had; the message says why."""


def installed_modules(cache: Path) -> Path:
    """The packages of e2e/node/package.json, installed once into a directory below `cache`."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        raise NodeUnavailable("node-postgres needs node and npm, which are not on PATH")
    manifest = (SOURCES / "package.json").read_bytes()
    home = cache / hashlib.sha256(manifest).hexdigest()[:16]
    if not home.exists():
        # Installed aside and renamed, so that parallel workers see all of it or nothing.
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            done = Path(scratch) / "done"
            _install(done, manifest)
            with contextlib.suppress(OSError):  # another worker was first
                done.rename(home)
    return home / "node_modules"


def _install(directory: Path, manifest: bytes) -> None:
    directory.mkdir()
    (directory / "package.json").write_bytes(manifest)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
    try:
        subprocess.run(
            command, cwd=directory, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.CalledProcessError as error:
        raise NodeUnavailable(f"npm could not install node-postgres: {error.stderr[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise NodeUnavailable(f"npm took more than {INSTALL_SECONDS} s to install node-postgres") from error
