"""Progress on standard error: bars on a terminal, else a line for each run.

No refresh thread: this machine is being measured. A bar moves when a run has ended.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import attrs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import TaskID


def _standard_error() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


@attrs.define(eq=False)
class Screen:
    """Above one bar for all works, below one for the rounds of the work that is under way."""

    console: Console = attrs.field(factory=_standard_error)
    _progress: Progress | None = None
    _works: TaskID | None = None
    _runs: TaskID | None = None

    def say(self, line: str) -> None:
        self.console.print(line, markup=False)

    @contextlib.contextmanager
    def works(self, number: int) -> Iterator[None]:
        """While so many works are measured."""
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, auto_refresh=False, transient=True) as progress:
            self._progress = progress
            self._works = progress.add_task("works", total=number)
            try:
                yield
            finally:
                self._progress = None

    @contextlib.contextmanager
    def work(self, name: str, runs: int) -> Iterator[None]:
        """While one work of so many runs is measured."""
        if self._progress is None:
            yield
            return
        self._runs = self._progress.add_task(name, total=runs)
        try:
            yield
        finally:
            self._progress.remove_task(self._runs)
            if self._works is not None:
                self._progress.advance(self._works)
            self._progress.refresh()

    def tell(self, work: str, target: str, what: str) -> None:
        """What `bench.rounds` says."""
        if self._progress is None or what.startswith("error"):
            self.say(f"  {work}  {target:15} {what}")
        if self._progress is not None and self._runs is not None:
            self._progress.update(self._runs, description=f"{work}: {target}, {what}")
            if what.startswith("round"):
                self._progress.advance(self._runs)
            self._progress.refresh()
