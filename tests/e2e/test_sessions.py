"""Sessions survive pooling: every sequence of tests/corpus is answered as on a direct connection.

PostgreSQL itself is the judge; no expected output is written down anywhere. The pool has two servers, eight
clients are busy on it at all times: six with the sequences of a file, two with what disturbs, noise.txt.

    pytest tests/e2e/test_sessions.py                                 all
    pytest tests/e2e/test_sessions.py -k "settings and system15"      files named like that, one PostgreSQL
    SEQUENCE="rolled back" pytest tests/e2e/test_sessions.py -k temp  only sequences with that in the title
    SEQUENCE="..." QUIET=1 pytest ...                                 one client, no noise: one by itself
    SESSIONS_SEED=7 pytest ...                                        another order of sequences
    TRIO_POOL_SESSIONS_LINKED=1 pytest ...                            over two poolers, an edge and an origin

The format of the corpus: tests/support/corpus.py. What is compared: tests/support/sessions.py.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from tests.support import corpus
from tests.support.audited import FAILED
from tests.support.pooler import Pooler
from tests.support.raw import RawClient
from tests.support.roles import configuration, create_roles, edge_configuration
from tests.support.sessions import Direct, Names, Place, Pooled, Transcript, difference, run
from tests.support.target import USER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.support.corpus import StatementSequence
    from trio_pool.cli.postgres import LocalPostgres

pytestmark = pytest.mark.e2e

AUDITED = "tests.support.audited"
POOL_SIZE = 2
RUNNERS = 6
DISTURBERS = 2
NOISE = "noise"
SEED = int(os.environ.get("SESSIONS_SEED", "1"))
WANTED = os.environ.get("SEQUENCE", "")
QUIET = bool(os.environ.get("QUIET"))
LINKED = bool(os.environ.get("TRIO_POOL_SESSIONS_LINKED"))

# Files with what no pooler can see from outside: functions that change the session from inside. They are run
# with the pooler's strict mode.
STRICT_FILES = ("hidden",)
STRICT: dict[str, Any] = {"session": {"strict": True}}

# A log-in that hangs or a lease that never comes costs this much each, so give up a file after a few.
MOST_TIMEOUTS = 3

# How long a client waits for a server at most; a sequence that is pinned keeps its server for milliseconds.
LEASE_WAIT = "8s"


@attrs.frozen
class World:
    """One PostgreSQL with roles for the corpus, the pooler in front of it, and the judge's answers so far."""

    pg: LocalPostgres
    pooler: Pooler
    control: RawClient
    mutex: threading.Lock = attrs.field(factory=threading.Lock)
    several: threading.Lock = attrs.field(factory=threading.Lock)

    @property
    def direct(self) -> Direct:
        return Direct(f"{self.pg.socket_dir}/.s.PGSQL.{self.pg.port}")

    @property
    def pooled(self) -> Pooled:
        return Pooled(self.pooler.host, self.pooler.port)

    def run(self, sequence: StatementSequence, place: Place) -> Transcript:
        """Run a sequence in a schema of its own.

        With several sessions a sequence may hold one server while it waits for another; two such sequences
        could wait for each other on a pool of two, so there is one at a time.
        """
        names = Names.draw()
        with self.mutex:
            problems = self.control.run(
                f"create schema {names.u} authorization {USER};"
                f" grant all on schema {names.u} to ada, bob, lily, mona"
            )
        assert problems == []
        if len(sequence.sessions) == 1 or place == self.direct:
            return run(sequence, place, names)
        with self.several:
            return run(sequence, place, names)


@pytest.fixture(scope="module")
def prepared(postgres: LocalPostgres) -> LocalPostgres:
    """PostgreSQL with the roles of the corpus."""
    create_roles(postgres)
    return postgres


@pytest.fixture(scope="module")
def pooler(prepared: LocalPostgres) -> Iterator[Pooler]:
    with in_front_of(prepared, {}) as running:
        yield running


@pytest.fixture(scope="module")
def strict_pooler(prepared: LocalPostgres) -> Iterator[Pooler]:
    with in_front_of(prepared, STRICT) as running:
        yield running


@contextlib.contextmanager
def in_front_of(pg: LocalPostgres, more: dict[str, Any]) -> Iterator[Pooler]:
    """The pooler that clients connect to; the edge of another one if that is wanted."""
    extra = configuration(pg, POOL_SIZE, LEASE_WAIT) | more
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(Pooler(pg, tls=False, auth="trust", extra=extra, module=AUDITED))
        if LINKED:
            extra = edge_configuration(running.port, POOL_SIZE, LEASE_WAIT) | more
            running = stack.enter_context(Pooler(pg, tls=False, auth="trust", extra=extra, module=AUDITED))
        with RawClient.log_in((running.host, running.port)) as client:
            client.run("select lastval()")  # the first of all tells the pool that somebody asks for it
        yield running


@pytest.fixture
def world(prepared: LocalPostgres, request: pytest.FixtureRequest) -> Iterator[World]:
    file = request.getfixturevalue("file")
    pooler: Pooler = request.getfixturevalue("strict_pooler" if file in STRICT_FILES else "pooler")
    pooler.revive()
    path = f"{prepared.socket_dir}/.s.PGSQL.{prepared.port}"
    with RawClient.log_in(path, user="boss") as control:
        yield World(prepared, pooler, control)
    assert pooler.running, f"the pooler ended\n{pooler.log_text()}"


def wanted(file: str) -> list[StatementSequence]:
    """The sequences of a file, or those that the environment asks for."""
    sequences = [one for one in corpus.load(file) if WANTED in one.title]
    if not sequences:
        pytest.skip(f"no sequence of {file}.txt has {WANTED!r} in its title")
    return sequences


def together(
    world: World,
    sequences: Sequence[StatementSequence],
    judge: Callable[[StatementSequence, Transcript], bool],
) -> None:
    """Run the sequences through the pooler in some order, several at a time and disturbed.

    `judge` gets each transcript and says whether to go on.
    """
    chance = random.Random(SEED)
    left = list(sequences)
    chance.shuffle(left)
    done = threading.Event()

    def work() -> None:
        while left and not done.is_set():
            try:
                sequence = left.pop()
            except IndexError:
                return
            if not judge(sequence, world.run(sequence, world.pooled)):
                done.set()

    def disturb(order: random.Random) -> None:
        noises = corpus.load(NOISE)
        while not done.is_set():
            world.run(order.choice(noises), world.pooled)

    with ThreadPoolExecutor(RUNNERS + DISTURBERS) as threads:
        noise = [] if QUIET else [threads.submit(disturb, random.Random(SEED + n)) for n in range(DISTURBERS)]
        workers = [threads.submit(work) for _ in range(1 if QUIET else RUNNERS)]
        for worker in workers:
            worker.exception()
        done.set()
    for one in workers + noise:
        one.result()


@pytest.mark.parametrize("file", corpus.files())
def test_replies_are_those_of_a_direct_connection(world: World, file: str) -> None:
    """Eight clients on two servers are each answered exactly as if they had PostgreSQL for themselves."""
    sequences = wanted(file)
    since = world.pooler.mark()
    expected = {one.title: world.run(one, world.direct) for one in sequences}
    reports: dict[str, str] = {}
    timeouts = 0

    def judge(sequence: StatementSequence, got: Transcript) -> bool:
        nonlocal timeouts
        timeouts += got.broken
        report = difference(expected[sequence.title], got)
        if report is not None:
            reports[sequence.title] = report
        return timeouts < MOST_TIMEOUTS

    together(world, sequences, judge)
    gave_up = f"; gave up after {timeouts} timeouts" if timeouts >= MOST_TIMEOUTS else ""
    excused = corpus.differences(file)
    reports = {title: report for title, report in reports.items() if title not in excused}
    leaks = world.pooler.log_events(FAILED, since)
    assert leaks == [], "a lease left behind what the server machine does not know of"
    if reports:
        head = f"{len(reports)} of {len(sequences)} sequences of {file}.txt differ{gave_up}\n\n"
        ordered = [reports[one.title] for one in sequences if one.title in reports]
        pytest.fail(head + "\n".join(ordered), pytrace=False)


@pytest.mark.parametrize("file", corpus.files())
def test_the_judge_is_fair(world: World, file: str) -> None:
    """Two direct connections are answered the same, so a difference is never PostgreSQL's own."""
    reports = []
    for sequence in wanted(file):
        first, second = (world.run(sequence, world.direct) for _ in range(2))
        assert not first.broken, f"{sequence.title}: {first.steps[-1]}"
        report = difference(first, second)
        if report is not None:
            reports.append(report)
    if reports:
        pytest.fail("\n".join(reports), pytrace=False)
