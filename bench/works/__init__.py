"""The works, in the order in which they are run and shown.

Every module of this package that is named in `MODULES` holds works of one kind in a tuple called `WORKS`.
A new kind of work is a new module and its name here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .work import Work

MODULES = (
    "select_only",
    "transaction",
    "tpcb",
    "ahead",
    "cached",
    "rows",
    "copying",
    "connecting",
    "idle",
    "crowd",
    "crossing",
    "abuse",
)

# What `--quick` runs: two minutes of everything that differs.
QUICK = ("select-simple-32", "select-prepared-32", "transaction-prepared", "rows", "connect-plain")


def every() -> tuple[Work, ...]:
    """All of them."""
    modules = (importlib.import_module(f"{__name__}.{name}") for name in MODULES)
    return tuple(work for module in modules for work in module.WORKS)


def chosen(names: Iterable[str]) -> tuple[Work, ...]:
    """Those with these names, in our order; `family-*` names all that begin so. Raises `LookupError`."""
    wanted = list(names)
    works = every()
    unknown = [name for name in wanted if not any(_fits(work.name, name) for work in works)]
    if unknown:
        raise LookupError(f"no work {', '.join(unknown)}; there are {', '.join(work.name for work in works)}")
    return tuple(work for work in works if any(_fits(work.name, name) for name in wanted))


def _fits(name: str, wanted: str) -> bool:
    return name.startswith(wanted[:-1]) if wanted.endswith("*") else name == wanted
