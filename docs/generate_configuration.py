"""Writes ``docs/configuration.md``. Run it after a change to the model of the configuration."""

from __future__ import annotations

from pathlib import Path

from trio_pool.config.reference import render

if __name__ == "__main__":
    Path(__file__).with_name("configuration.md").write_text(render(), encoding="utf-8")
