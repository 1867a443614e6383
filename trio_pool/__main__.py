"""`python -m trio_pool` is `trio-pool`."""

from __future__ import annotations

from trio_pool.cli import main

if __name__ == "__main__":
    main(prog_name="trio-pool")
