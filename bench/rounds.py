"""The rounds: every target once in each, so that a machine that slows down slows them all down.

A target that fails is out of the work from then on, and the others go on. Nothing here asserts anything about
a figure, and nothing prints.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

from . import figures
from .problems import LeftOut, TargetError
from .results import TargetResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from .poolers import Target
    from .sample import Sample
    from .stage import Start
    from .works.work import Plan

    Tell = Callable[[str, str], None]
    """Called with a target's name and with what is done or known about it: "starts", "round 2", an error."""

FAILURES = (TargetError, OSError, subprocess.SubprocessError)

# A reason longer than this is what a program printed; its beginning is in the table, and says what it is.
LONGEST_REASON = 400


def run(plan: Plan, rounds: int, seconds: int, tell: Tell) -> tuple[TargetResult, ...]:
    """Measure every target of the plan; failures are in the results."""
    with contextlib.ExitStack() as stack:
        course = _Course(plan, seconds, tell, stack)
        for name in plan.targets:
            course.prepare(name)
        for number in range(rounds):
            for name in figures.turn(list(plan.targets), number):
                if name in course.starts:
                    tell(name, f"round {number + 1}/{rounds}")
                    course.measure(name)
        return tuple(course.result(name) for name in plan.targets)


class _Course:
    """One work under way: `starts` has the targets that are still in it."""

    def __init__(self, plan: Plan, seconds: int, tell: Tell, stack: contextlib.ExitStack) -> None:
        self.plan = plan
        self.seconds = seconds
        self.tell = tell
        self.stack = stack
        self.starts: dict[str, Start] = {}
        self.samples: Mapping[str, list[Sample]] = {name: [] for name in plan.targets}
        self.errors: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def prepare(self, name: str) -> None:
        """Start the target and let it warm up: the first run of all is thrown away."""
        start = self.plan.targets[name]
        self.starts[name] = start
        if self.plan.fresh:
            return
        self.tell(name, "starts")
        with self._failing(name):
            target = self.stack.enter_context(start())
            self.starts[name] = lambda: contextlib.nullcontext(target)
            if self.plan.warm_up is not None:
                self.tell(name, "warms up")
                self.plan.warm_up(target)

    def measure(self, name: str) -> None:
        with self._failing(name):
            self.plan.prepare()
            with self.starts[name]() as target:
                sample = self.plan.measure(target, self.seconds)
                self._check(target, sample)
            self.samples[name].append(sample)

    def result(self, name: str) -> TargetResult:
        return TargetResult(name, tuple(self.samples[name]), self.errors.get(name), self.left_out.get(name))

    def _check(self, target: Target, sample: Sample) -> None:
        """Of a pooler that is gone nothing counts, even if its clients did not complain; nor does nothing."""
        if target.pid and not _lives(target.pid):
            raise TargetError("its process has ended")
        if not sample.count:
            raise TargetError("it did nothing at all")

    @contextlib.contextmanager
    def _failing(self, name: str) -> Iterator[None]:
        """Who fails here is out."""
        try:
            yield
        except LeftOut as reason:
            self.left_out[name] = str(reason)
        except FAILURES as error:
            self.errors[name] = f"{error}".strip()[:LONGEST_REASON] or type(error).__name__
            self.tell(name, f"error: {self.errors[name]}")
        else:
            return
        self.starts.pop(name, None)


def _lives(pid: int) -> bool:
    """Whether a child of ours still runs, without reaping it, which is for who started it."""
    with contextlib.suppress(ChildProcessError):
        options = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, pid, options) is None
    return True
