"""How Sphinx builds the documentation: `sphinx-build -W docs OUTPUT`."""

from __future__ import annotations

import re
from pathlib import Path

# Read as text, so that building the documentation needs no installed trio-pool.
_package = Path(__file__).resolve().parent.parent / "trio_pool" / "__init__.py"
_version = re.search(r'^__version__ = "(.+)"$', _package.read_text(encoding="utf-8"), re.MULTILINE)
assert _version is not None

project = "trio-pool"
author = "the trio-pool authors"
copyright = "2026 the trio-pool authors"
release = version = _version[1]

extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"trio-pool {release}"
