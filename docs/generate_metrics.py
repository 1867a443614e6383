"""Writes ``docs/metrics.md``. Run it after a change to the metrics."""

from __future__ import annotations

from pathlib import Path

from trio_pool.daemon.web.reference import render

if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render(), encoding="utf-8")
