"""psql, the client that most people type into: the one of each PostgreSQL against each target."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import tty
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from tests.support.actions import (
    MANY_ROWS,
    MANY_ROWS_SQL,
    Driver,
    big_value,
    difference,
    long_query,
    offered_by,
)
from trio_pool.cli.postgres import Installation, available_installations

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.target import Target

pytestmark = pytest.mark.e2e

PROGRAMS = available_installations()
PIPELINES_SINCE = 18

PIPE = subprocess.PIPE
Process = subprocess.Popen[str]
Result = subprocess.CompletedProcess[str]


class Psql(Driver):
    """A process per script; it goes on after errors, as it does for somebody who types."""

    lacks: ClassVar[Mapping[str, str]] = {}

    def __init__(self, target: Target, program: Installation) -> None:
        super().__init__(target if program.has_tls else target.plain())
        self.program = program

    def start(self, options: list[str], login: dict[str, str], terminal: int = PIPE) -> Process:
        parameters = {**self.target.libpq(), **login}
        password = parameters.pop("password")
        connection = " ".join(f"{name}='{value}'" for name, value in parameters.items())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        always = ["-X", "-q", "-A", "-t", "-v", "VERBOSITY=verbose"]
        return subprocess.Popen(
            [self.program.bin_dir / "psql", *always, *options, connection],
            stdin=terminal,
            stdout=terminal,
            stderr=PIPE,
            text=True,
            env={**kept, "PGPASSWORD": password, "LC_ALL": "C"},
        )

    def run(self, script: str, **login: str) -> Result:
        with self.start(["-f", "-"], login) as process:
            stdout, stderr = process.communicate(script)
        return Result("psql", process.returncode, stdout, stderr)

    def prints(self, script: str, expected: list[str], errors: tuple[str, ...] = ()) -> None:
        """Run a script; check its output's lines and the SQLSTATEs it met, in order."""
        done = self.run(script)
        assert difference(done.stdout.splitlines(), expected) is None, done.stderr
        assert sqlstates(done.stderr) == list(errors), done.stderr
        assert done.returncode == 0

    def refused(self, message: str, **login: str) -> None:
        done = self.run("select 1", **login)
        assert message in done.stderr
        assert done.returncode == 2

    def connect(self) -> None:
        self.prints("select current_user, 1;", [f"{self.target.user}|1"])
        described = self.run("\\conninfo").stdout
        assert ("TLS" in described) is (self.target.certificates is not None)
        self.refused("password authentication failed", password="wrong")
        self.refused('database "nowhere" does not exist', dbname="nowhere")
        if self.target.certificates is not None:
            stranger = str(self.target.certificates.stranger_ca)
            self.refused("certificate verify failed", sslrootcert=stranger)

    def bind_channel(self) -> None:
        if self.target.certificates is None:
            self.refused("channel binding", channel_binding="require")
            return
        assert self.run("select 1", channel_binding="require").stdout == "1\n"

    def query(self) -> None:
        script = r"""
            \pset null NULL
            select 1 as a, 'x' as "B c", null::text as d;
            select 1 where false;
            ;
            select 1\; select 2, 3;
            select 4 \gdesc
            select 'a' as x \gset
            select :'x', 'é€🐘';
            \d not_there
        """
        self.prints(script, ["1|x|NULL", "1", "2|3", "?column?|integer", "a|é€🐘"])

    def parameters(self) -> None:
        """By \\bind, since 16; before that psql pastes them."""
        if self.program.major >= 16:
            self.prints("select $1::int + 1, $2::text \\bind 41 'O''Reilly' \\g\n", ["42|O'Reilly"])
        self.prints("\\set name 'O''Reilly $1'\nselect :'name';", ["O'Reilly $1"])

    def prepared(self) -> None:
        script = "prepare twice (int) as select $1 * 2;\n"
        script += "".join(f"execute twice ({number});\n" for number in range(50))
        script += "begin; execute twice (7); rollback; deallocate twice; execute twice (1);\n"
        expected = [str(2 * number) for number in range(50)] + ["14"]
        if self.program.major >= PIPELINES_SINCE:
            script += "select $1::int * 3 \\parse thrice\n"
            script += "".join(f"\\bind_named thrice {number} \\g\n" for number in range(50))
            script += "\\close_prepared thrice\n"
            expected += [str(3 * number) for number in range(50)]
        self.prints(script, expected, ("26000",))

    def transactions(self) -> None:
        script = f"""
            create table {self.table} (a int primary key);
            begin; insert into {self.table} values (1); rollback;
            select count(*) from {self.table};
            begin isolation level repeatable read; insert into {self.table} values (2);
            show transaction_isolation; commit;
            select a from {self.table};
            show transaction_isolation;
            begin; select 1 / 0; commit;
        """
        self.prints(script, ["0", "repeatable read", "2", "read committed"], ("22012",))

    def savepoints(self) -> None:
        script = f"""
            create table {self.table} (a int primary key);
            begin;
            insert into {self.table} values (1);
            savepoint before;
            insert into {self.table} values (2);
            insert into {self.table} values (1);
            rollback to before;
            insert into {self.table} values (3);
            commit;
            select a from {self.table} order by a;
        """
        self.prints(script, ["1", "3"], ("23505",))

    def errors(self) -> None:
        script = f"""
            selec 1;
            create table {self.table} (a int primary key);
            insert into {self.table} values (1);
            insert into {self.table} values (1);
            insert into {self.table} values (2)\\; select 1 / 0;
            begin;
            insert into {self.table} values (3);
            select 1 / 0;
            select 1;
            rollback;
            select a from {self.table};
        """
        self.prints(script, ["1"], ("42601", "23505", "22012", "22012", "25P02"))

    def copy_in(self) -> None:
        rows = "".join(f"{number}\n" for number in range(20000))
        script = f"create table {self.table} (a int primary key);\n"
        script += f"copy {self.table} from stdin;\n{rows}\\.\n"
        script += f"copy {self.table} from stdin;\n-1\n1\n\\.\n"
        script += f"copy {self.table} from stdin;\nnot a number\n\\.\n"
        script += f"select count(*), min(a), max(a) from {self.table};\n"
        self.prints(script, ["20000|0|19999"], ("23505", "22P02"))

    def copy_out(self) -> None:
        sql = "copy (select i, 'row ' || i from generate_series(1, 20000) as i) to stdout"
        expected = [f"{number}\trow {number}" for number in range(1, 20001)]
        self.prints(f"{sql};\n\\{sql}\nselect 'after';\n", [*expected, *expected, "after"])

    def pipeline(self) -> None:
        inserts = "".join(f"insert into {self.table} values ($1) \\bind {n} \\sendpipeline\n" for n in (1, 2))
        script = f"""
create table {self.table} (a int primary key);
\\startpipeline
{inserts}
select a from {self.table} order by a \\bind \\sendpipeline
\\syncpipeline
insert into {self.table} values (3) \\bind \\sendpipeline
select 1 / $1::int \\bind 0 \\sendpipeline
insert into {self.table} values (4) \\bind \\sendpipeline
\\syncpipeline
insert into {self.table} values (5) \\bind \\sendpipeline
\\flushrequest
\\getresults
\\endpipeline
select a from {self.table} order by a;
"""
        done = self.run(script)
        assert done.stdout.splitlines() == ["1", "2", "1", "2", "5"], done.stderr
        assert sqlstates(done.stderr) == ["22012"], done.stderr

    def cancel(self) -> None:
        """On a terminal, where psql goes on after Ctrl-C; a script would end there."""
        ours, terminal = pty.openpty()
        tty.setraw(terminal)
        prompts = ["-n", "-P", "pager=off", "-v", "PROMPT1=", "-v", "PROMPT2="]
        with (
            open(ours, "r+b", buffering=0) as screen,
            self.start(prompts, {}, terminal) as process,
        ):
            os.close(terminal)
            screen.write(f"{long_query(self.marker)};\n".encode())
            self.target.wait_until_running(self.marker)
            process.send_signal(signal.SIGINT)
            screen.write(b"select 'after';\n")
            shown = b""
            while b"after\n" not in shown:
                shown += screen.read(1000)
            screen.write(b"\\q\n")
            _, stderr = process.communicate()
        assert sqlstates(stderr) == ["57014"], stderr

    def many_rows(self) -> None:
        expected = [f"{number}|row {number}" for number in range(1, MANY_ROWS + 1)]
        self.prints(f"{MANY_ROWS_SQL};", expected)
        self.prints(f"\\set FETCH_COUNT 50000\n{MANY_ROWS_SQL};", expected)

    def big_value(self) -> None:
        value = big_value()
        self.prints(f"select length('{value}'), '{value}';", [f"{len(value)}|{value}"])


class PsqlWithoutPipeline(Psql):
    """psql before 18."""

    lacks: ClassVar[Mapping[str, str]] = {"pipeline": "psql has \\startpipeline since PostgreSQL 18"}


def sqlstates(stderr: str) -> list[str]:
    """Of the errors, in order; with VERBOSITY=verbose the SQLSTATE follows the severity."""
    found = []
    for line in stderr.splitlines():
        _, error, rest = line.partition("ERROR:  ")
        if error:
            found.append(rest[:5])
    return found


def driver_for(program: Installation) -> type[Psql]:
    return Psql if program.major >= PIPELINES_SINCE else PsqlWithoutPipeline


def programs_and_actions() -> list[Any]:
    """Every psql with every action it offers."""
    return [
        pytest.param(program, action, id=f"{program.label}-{action}")
        for program in PROGRAMS
        for action in offered_by(driver_for(program))
    ]


@pytest.mark.parametrize(("program", "action"), programs_and_actions())
def test_psql(program: Installation, action: str, target: Target) -> None:
    """psql finds what PostgreSQL promises; see `tests.support.actions.ACTIONS`."""
    driver_for(program)(target, program).perform(action)
