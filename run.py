#!/usr/bin/env python3
"""Run trio-pool or its tests from a checkout, on a machine that has only Python.

    python3 run.py demo [ARGUMENTS]     trio-pool demo, with an embedded PostgreSQL
    python3 run.py test [ARGUMENTS]     pytest; without arguments the whole suite

Both make the virtual environment `.venv` beside this file when it is missing or stale, and install the
checkout into it. The variable TRIO_POOL_VENV names another place for it. This file uses the standard library
only, and a syntax that older Pythons can read, so that they get an explanation and not a traceback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = Path(os.environ.get("TRIO_POOL_VENV") or ROOT / ".venv").absolute()
STAMP = ENVIRONMENT / "trio-pool.json"
PYTHON = ENVIRONMENT / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
OLDEST = (3, 11)

# Command: the extra it needs, and what is run with the environment's Python.
COMMANDS = {
    "demo": ("embedded", ["-m", "trio_pool", "demo"]),
    "test": ("test", ["-m", "pytest", "-n", "4"]),
}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked_for_help = sys.argv[1:2] in (["-h"], ["--help"])
        print(__doc__.strip(), file=sys.stdout if asked_for_help else sys.stderr)
        sys.exit(0 if asked_for_help else 2)
    extra, arguments = COMMANDS[sys.argv[1]]
    prepare(extra)
    if sys.argv[1] == "test":
        os.chdir(ROOT)
    execute([str(PYTHON), *arguments, *sys.argv[2:]])


def prepare(extra: str) -> None:
    """Make the environment hold the checkout with the extra."""
    if sys.version_info < OLDEST:
        oldest, this = ".".join(map(str, OLDEST)), sys.version.split()[0]
        stop(f"trio-pool needs Python {oldest} or newer; this is {this}.")
    stamp = read_stamp()
    if stamp.get("base") != base():
        create()
        stamp = {}
    if stamp.get("requirements") == requirements() and extra in stamp["extras"]:
        return
    extras = sorted({extra, *stamp.get("extras", [])})
    install(extras)
    STAMP.write_text(json.dumps({"base": base(), "requirements": requirements(), "extras": extras}))


def base() -> list[str]:
    """What the environment is bound to; when one of these changes it is made anew."""
    return [sys.version, sys.base_prefix, str(ROOT)]


def requirements() -> str:
    """Changes when the files that name the dependencies and packages change."""
    files = ("pyproject.toml", "setup.cfg", "setup.py")
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in files)).hexdigest()


def read_stamp() -> dict[str, Any]:
    """What an earlier, completed run noted; empty when there was none."""
    if not (STAMP.exists() and PYTHON.exists()):
        return {}
    try:
        stamp = json.loads(STAMP.read_text())
    except ValueError:
        return {}
    return stamp if isinstance(stamp, dict) else {}


def create() -> None:
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        stop(
            "This Python cannot make virtual environments: its module venv or ensurepip is missing.\n"
            "On Debian and Ubuntu install the package python3-venv: apt-get install python3-venv"
        )
    if ENVIRONMENT.exists():
        if not (ENVIRONMENT / "pyvenv.cfg").exists():
            stop(f"{ENVIRONMENT} exists and is not a virtual environment; remove it first.")
        shutil.rmtree(ENVIRONMENT)
    say(f"Making a virtual environment in {ENVIRONMENT} ...")
    # Not venv.create(): inside another virtual environment that would link to it, and break when it goes.
    quietly([getattr(sys, "_base_executable", None) or sys.executable, "-m", "venv", str(ENVIRONMENT)])


def install(extras: list[str]) -> None:
    say("Installing trio-pool with its libraries; the first time takes a minute ...")
    target = f"{ROOT}[{','.join(extras)}]"
    options = ["--disable-pip-version-check", "--no-input"]
    quietly([str(PYTHON), "-m", "pip", "install", *options, "--editable", target])


def quietly(command: list[str]) -> None:
    """Run a command; its output is shown only if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        stop(f"This failed with exit status {done.returncode}: {' '.join(command)}")


def execute(command: list[str]) -> NoReturn:
    """Become the command, so that signals and the exit status are its own."""
    sys.stdout.flush()
    if os.name == "nt":
        sys.exit(subprocess.call(command))
    os.execv(command[0], command)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def stop(text: str) -> NoReturn:
    say(text)
    sys.exit(1)


if __name__ == "__main__":
    main()
