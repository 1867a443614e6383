"""Conversations in which a transaction begins: what may tell a BEGIN that was answered ahead of time from one
that was not.
"""

from __future__ import annotations

from typing import Final

from tests.support import requests
from tests.support.transcripts import Conversation, prepared, synced

SINK: Final = "deferred"
"""A table of one column, int, unique: empty before and after every conversation."""
SET_UP: Final = f"create table {SINK} (n int unique);"

SPELLINGS: Final = [
    "BEGIN",
    "begin;",
    "Begin Work",
    "BEGIN TRANSACTION;",
    "  \n\tbegin ; ",
    "-- with a comment\nBEGIN",
    "/* with /* a nested */ comment */ begin /* and another */;",
    "START TRANSACTION",
    "start transaction read only",
    "BEGIN READ ONLY",
    "BEGIN NOT DEFERRABLE",
    "BEGIN ISOLATION LEVEL READ COMMITTED",
    "BEGIN ISOLATION LEVEL READ UNCOMMITTED READ ONLY",
    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
    "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, NOT DEFERRABLE, READ ONLY",
]
BOLD: Final = [
    "BEGIN READ WRITE",
    "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE, READ ONLY, DEFERRABLE",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE",
]
"""What a standby may refuse."""
ENDS: Final = [
    "COMMIT",
    "commit;",
    "COMMIT WORK",
    "commit transaction and no chain",
    "END",
    "end transaction;",
    "ROLLBACK",
    "rollback work;",
    "ROLLBACK AND NO CHAIN",
    "ABORT",
    "abort work",
    "/* why not */ rollback -- at all",
]
_MODES: Final = ("transaction_isolation", "transaction_read_only", "transaction_deferrable")


def _empty() -> list[Conversation]:
    """Transactions in which nothing happens."""
    found = [
        Conversation.of(f"{begin!r} ended by {end!r}", begin, end, leases=0)
        for begin, end in [*((begin, "commit") for begin in SPELLINGS), *(("begin", end) for end in ENDS)]
    ]
    found += [
        Conversation.of(
            f"{begin!r} prepared, ended by {end!r}",
            synced(prepared(begin)),
            synced(prepared(end)),
            leases=0,
        )
        for begin, end in [*((begin, "commit") for begin in SPELLINGS), *(("begin", end) for end in ENDS)]
    ]
    named = synced(requests.parse("b", "begin"), requests.parse("c", "commit"))
    again = synced(requests.bind("b"), requests.execute())
    ended = synced(requests.bind("c"), requests.execute())
    return [
        *found,
        Conversation.of(
            "an ended one and another", *(["begin", "commit", "begin", "rollback"] * 2), leases=0
        ),
        Conversation.of("in one write", b"".join(map(requests.query, ("begin", "commit"))), leases=0),
        Conversation.of(
            "twice in one write",
            b"".join(map(requests.query, ("begin", "end", "start transaction", "abort"))),
            leases=0,
        ),
        Conversation.of("in one group", synced(prepared("begin"), prepared("commit"))),
        Conversation.of(
            "in two groups, one write", synced(prepared("begin")) + synced(prepared("commit")), leases=0
        ),
        Conversation.of("with a Sync in between", "begin", requests.SYNC, requests.SYNC, "commit", leases=0),
        Conversation.of("in one Query", "begin; commit", "select 1"),
        Conversation.of("prepared under names", named, again, ended, again, ended),
        Conversation.of(
            "described as a statement",
            synced(requests.parse("", "begin"), requests.describe("")),
            synced(requests.bind(""), requests.execute()),
            "commit",
        ),
        Conversation.of("the statement closed", "begin", synced(requests.close("")), "commit"),
        Conversation.of("the portal closed", "begin", synced(requests.close_portal()), "commit"),
    ]


def _with_statements() -> list[Conversation]:
    """Transactions in which something happens, in all kinds of ways."""
    insert = f"insert into {SINK} values (1)"
    looks = [f"show {mode}" for mode in _MODES]
    modes = [
        Conversation.of(f"{begin!r} as SHOW tells", begin, *looks, "commit", *looks)
        for begin in [*SPELLINGS, *BOLD]
    ]
    modes += [
        Conversation.of(
            f"{begin!r} prepared, as SHOW tells",
            synced(prepared(begin), prepared(looks[0])),
            *(synced(prepared(look)) for look in looks),
            synced(prepared("commit")),
        )
        for begin in [*SPELLINGS, *BOLD]
    ]
    first = {
        "a SELECT": "select 1",
        "an INSERT": insert,
        "nothing": "",
        "a comment": "-- nothing",
        "a semicolon": ";",
        "several": f"select 1; {insert}; select 2",
        "a syntax error": "selec 1",
        "an unknown table": "select * from   nowhere",
        "an error of execution": "select 1/0",
        "an error behind a row": "select 1; select 1/0; select 2",
        "a violated constraint": f"{insert}; {insert}",
        "a SAVEPOINT": "savepoint s",
        "ROLLBACK TO what is not there": "rollback to s",
        "RELEASE of what is not there": "release s",
        "a second BEGIN": "begin",
        "a second BEGIN with modes": "begin isolation level serializable",
        "SET": "set application_name = 'somebody'",
        "SET LOCAL": "set local work_mem = '1MB'",
        "SET TRANSACTION": "set transaction isolation level repeatable read",
        "SET TRANSACTION SNAPSHOT": "set transaction snapshot 'nonsense'",
        "RESET": "reset application_name",
        "RESET ALL": "reset all",
        "SHOW": "show transaction_isolation",
        "set_config": "select set_config('application_name', 'nobody', true)",
        "PREPARE": "prepare p as select 7",
        "EXECUTE of what is not there": "execute q",
        "DEALLOCATE of what is not there": "deallocate q",
        "LISTEN": "listen news",
        "NOTIFY": "notify news, 'nobody'",
        "LISTEN and NOTIFY": "listen news; notify news, 'me'",
        "DECLARE": "declare c cursor for select generate_series(1, 3)",
        "FETCH of what is not there": "fetch c",
        "LOCK": f"lock table {SINK} in access exclusive mode",
        "DISCARD ALL": "discard all",
        "VACUUM": f"vacuum {SINK}",
        "COMMIT PREPARED": "commit prepared 'nobody'",
        "COMMIT AND CHAIN": "commit and chain",
        "ROLLBACK AND CHAIN": "rollback and chain",
        "COPY to the client": "copy (select 1) to stdout",
        "COPY of what is not there": "copy nowhere from stdin",
        "DO": "do $$ begin raise notice 'told'; end $$",
        "EXPLAIN": "explain (costs off) select 1",
        "an unfinished literal": "select 'abc",
        "COMMIT and something": "commit; select 5",
        "something and COMMIT": "select 5; commit",
        "ROLLBACK and BEGIN": "rollback; begin",
    }
    behind = ["select 2", "rollback", "select 3"]
    found = [Conversation.of(f"{name} first", "begin", sql, *behind) for name, sql in first.items()]
    found += [
        Conversation.of(f"{name} first, all at once", _queries("begin", sql, *behind))
        for name, sql in first.items()
    ]
    found += [
        Conversation.of(f"{name} in the same Query", f"begin; {sql}", *behind) for name, sql in first.items()
    ]
    alone = [
        name for name, sql in first.items() if ";" not in sql and name not in ("nothing", "a comment", "DO")
    ]
    found += [
        Conversation.of(
            f"{name} first, prepared",
            synced(prepared("begin")),
            synced(prepared(first[name])),
            synced(prepared("select 2")),
            synced(prepared("rollback")),
        )
        for name in alone
    ]
    found += [
        Conversation.of(
            f"{name} in the group of BEGIN",
            synced(prepared("begin", describe=False), prepared(first[name])),
            synced(prepared("select $1::int", "2")),
            synced(prepared("rollback")),
        )
        for name in alone
    ]
    return [*modes, *found]


def _copies() -> list[Conversation]:
    """COPY FROM STDIN as the first statement."""
    rows = [requests.copy_data(b"1\n2\n"), requests.COPY_DONE]
    bad = [requests.copy_data(b"one\n"), requests.COPY_DONE]
    copy = f"copy {SINK} from stdin"
    count = f"select count(*) from {SINK}"
    return [
        Conversation.of(
            f"COPY from the client, {name}",
            "begin",
            requests.query(copy) + b"".join(data),
            count,
            "rollback",
            leases=1,
        )
        for name, data in {"good": rows, "bad": bad, "given up": [requests.copy_fail("enough")]}.items()
    ] + [
        Conversation.of(
            f"COPY from the client, prepared, {name}",
            synced(prepared("begin"), prepared(copy, describe=False), b"".join(data)),
            count,
            "rollback",
            leases=1,
        )
        for name, data in {"good": rows, "bad": bad}.items()
    ]


def _pipelines() -> list[Conversation]:
    """BEGIN along with other things, as drivers send them."""
    begin, commit = prepared("begin", describe=False), prepared("commit", describe=False)
    select, insert = prepared("select $1::text", "x"), prepared(f"insert into {SINK} values (1)")
    fails, broken = prepared("select 1/0"), [requests.parse("", "selec")]
    flushed = b"".join([*begin, requests.FLUSH])
    return [
        Conversation.of("JDBC's way", synced(begin, select), synced(select), synced(commit), leases=1),
        Conversation.of(
            "JDBC's way, all at once", synced(begin, select) + synced(select) + synced(commit), leases=1
        ),
        Conversation.of(
            "JDBC's way, one group", synced(begin, insert, select, prepared("rollback")), leases=1
        ),
        Conversation.of(
            "JDBC's way, failing", synced(begin, fails), synced(select), synced(commit), leases=1
        ),
        Conversation.of(
            "JDBC's way, not parsed", synced(begin, broken, select), synced(select), "rollback", leases=1
        ),
        Conversation.of(
            "JDBC's way, failing behind a row", synced(begin, select, fails, select), "commit", leases=1
        ),
        Conversation.of("behind a failure", synced(fails, begin, select), "select 1"),
        Conversation.of("behind a statement", synced(select, begin), "select 2", "rollback"),
        Conversation.of("behind a statement, simple", _queries("select 1", "begin", "select 2", "commit")),
        Conversation.of("behind a failed Query", _queries("selec", "begin", "select 2", "commit")),
        Conversation.of("two BEGINs in a group", synced(begin, begin, select), synced(commit), leases=1),
        Conversation.of(
            "BEGIN, COMMIT, BEGIN in a group", synced(begin, commit, begin, select), "rollback", leases=1
        ),
        Conversation.of("in a write with its statement", _queries("begin", "select 1"), "commit", leases=1),
        Conversation.of(
            "all at once", _queries("begin", "select 1", "select 2", "commit", "select 3"), leases=2
        ),
        Conversation.of(
            "all at once, failing",
            _queries("begin", "select 1/0", "select 2", "commit", "select 3"),
            leases=2,
        ),
        Conversation.of(
            "a Query behind an unsynced BEGIN", flushed + requests.query("select 1"), "commit", leases=1
        ),
        Conversation.of("flushed", flushed + synced(), synced(select), synced(commit)),
        Conversation.of("flushed with its statement", flushed + synced(select), synced(commit)),
        Conversation.of("mixed: simple, then prepared", "begin", synced(select), "commit", leases=1),
        Conversation.of("mixed: prepared, then simple", synced(begin), "select 1", synced(commit), leases=1),
        Conversation.of(
            "a function call", "begin", requests.function_call("abc"), "select 1", "commit", leases=1
        ),
        Conversation.of("Parse alone", "begin", synced(requests.parse("s", "select 1")), "rollback"),
        Conversation.of(
            "a statement prepared before",
            synced(requests.parse("s", "select $1::int")),
            "begin",
            synced(requests.describe("s")),
            synced(requests.bind("s", "4"), requests.execute()),
            "commit",
        ),
        Conversation.of(
            "portals with row limits",
            "begin",
            synced(
                requests.parse("", "select generate_series(1, 3)"), requests.bind(""), requests.execute("", 2)
            ),
            synced(requests.execute("", 2)),
            "commit",
            leases=1,
        ),
        Conversation.of(
            "a row limit on BEGIN",
            synced(requests.parse("", "begin"), requests.bind(""), requests.execute("", 1)),
            "select 1",
            "commit",
            leases=1,
        ),
        Conversation.of(
            "the unnamed statement of BEGIN again",
            synced(begin),
            synced(requests.bind(""), requests.execute()),
            "rollback",
        ),
        Conversation.of(
            "the unnamed statement of BEGIN behind a statement",
            synced(begin),
            synced(requests.parse("s", "select 1"), requests.bind("s"), requests.execute()),
            synced(requests.bind(""), requests.execute()),
            "rollback",
        ),
        Conversation.of(
            "an unnamed statement from before BEGIN",
            synced(requests.parse("", "select 7")),
            synced(requests.parse("b", "begin"), requests.bind("b"), requests.execute()),
            synced(requests.bind(""), requests.execute()),
            "rollback",
        ),
        Conversation.of(
            "an unnamed statement from before a simple BEGIN",
            synced(requests.parse("", "select 7")),
            "begin",
            synced(requests.bind(""), requests.execute()),
            "rollback",
        ),
        Conversation.of(
            "parameters that BEGIN does not have",
            synced(requests.parse("", "begin"), requests.bind("", "1"), requests.execute()),
            "select 1",
        ),
        Conversation.of(
            "a portal that is not there", "begin", synced(requests.execute("nobody")), "rollback"
        ),
        Conversation.of(
            "a statement that is not there", "begin", synced(requests.bind("nobody")), "rollback"
        ),
        Conversation.of(
            "BEGIN prepared twice under a name",
            synced(requests.parse("b", "begin")),
            synced(requests.parse("b", "begin")),
            "select 1",
        ),
    ]


def _longer() -> list[Conversation]:
    """What takes more than one statement to show."""
    insert = f"insert into {SINK} values (1)"
    count = f"select count(*) from {SINK}"
    return [
        Conversation.of(
            "committed and taken back", "begin", insert, "commit", f"delete from {SINK}", leases=2
        ),
        Conversation.of("rolled back", "begin", insert, count, "rollback", count, leases=2),
        Conversation.of(
            "failed, then COMMIT", "begin", insert, "select 1/0", count, "commit", count, leases=2
        ),
        Conversation.of(
            "savepoints",
            *("begin", "savepoint a", insert, "savepoint b", "select 1/0", "rollback to b", count),
            *("rollback to a", count, "release a", "commit"),
            leases=1,
        ),
        Conversation.of(
            "a chain of commits",
            *(
                "begin isolation level repeatable read read only",
                "commit and chain",
                "show transaction_read_only",
            ),
            *("commit and chain", "show transaction_isolation", "rollback and chain", "select 1", "end"),
        ),
        Conversation.of(
            "a chain that ends at once",
            "begin read only",
            "rollback and chain",
            "commit",
            "show transaction_read_only",
            leases=1,
        ),
        Conversation.of("a chain without a transaction", "commit and chain", "select 1"),
        Conversation.of("two phases, empty", "begin", "prepare transaction 'e'", "rollback prepared 'e'"),
        Conversation.of(
            "two phases, prepared",
            synced(prepared("begin")),
            synced(prepared("prepare transaction 'p'")),
            synced(prepared("commit prepared 'p'")),
        ),
        Conversation.of(
            "two phases, all at once",
            _queries("begin", "prepare transaction 'a'", "commit prepared 'a'", "select 1"),
        ),
        Conversation.of(
            "two phases", "begin", insert, "prepare transaction 'two'", count, "rollback prepared 'two'"
        ),
        Conversation.of(
            "modes set afterwards",
            *(
                "begin",
                "set transaction isolation level serializable, read only",
                "show transaction_isolation",
            ),
            *("show transaction_read_only", insert, "rollback"),
            leases=1,
        ),
        Conversation.of(
            "modes set too late",
            *("begin", "select 1", "set transaction isolation level serializable", "rollback"),
            leases=1,
        ),
        Conversation.of("a read-only one that writes", "begin read only", insert, "rollback", leases=1),
        Conversation.of(
            "defaults of the session",
            *("set default_transaction_read_only = on", "set default_transaction_isolation = 'serializable'"),
            *("begin", "show transaction_read_only", "show transaction_isolation", insert, "rollback"),
            *("begin read write", insert, "rollback", "begin", "commit", "reset all"),
        ),
        Conversation.of(
            "settings are undone",
            *("set application_name = 'before'", "begin", "set application_name = 'in it'", "rollback"),
            *(
                "show application_name",
                "begin",
                "set application_name = 'after'",
                "commit",
                "show application_name",
            ),
        ),
        Conversation.of(
            "what PREPARE prepares",
            *(
                "begin",
                "prepare p as select 7",
                "execute p",
                "commit",
                "execute p",
                "begin",
                "execute p",
                "rollback",
            ),
        ),
        Conversation.of(
            "a cursor",
            "begin",
            "declare c cursor for select generate_series(1, 3)",
            "fetch 2 from c",
            "fetch all in c",
            "commit",
            "fetch c",
        ),
        Conversation.of("ended without having begun", "commit", "rollback", "end", "abort"),
        Conversation.of("misspelled", "begin isolation level nonsense", "begin read", "select 1"),
        Conversation.of(
            "contradictory", "begin read only, read write", "show transaction_read_only", "commit"
        ),
        Conversation.of("text behind BEGIN", "begin 1", "begin; begin; commit", "begin begin", "select 1"),
    ]


def _queries(*texts: str) -> bytes:
    return b"".join(map(requests.query, texts))


CONVERSATIONS: Final = {
    "empty": _empty(),
    "with statements": _with_statements(),
    "with COPY": _copies(),
    "in pipelines": _pipelines(),
    "longer": _longer(),
}
"""By kind."""
