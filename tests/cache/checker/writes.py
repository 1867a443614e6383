"""What writers do: statements, and what the cells hold once they are committed.

A statement has `{n}` where the version goes. What it does is decided when its cells are locked, since that
can depend on what they hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cache.checker.alterations import schema
from tests.cache.checker.ledger import ABSENT
from tests.cache.checker.ops import NULL, N, Op, Plan, alike, simple, slots
from tests.cache.checker.schema import BEN, SLOTS

if TYPE_CHECKING:
    from random import Random

    from tests.cache.checker.ledger import Ledger

PLAIN = [
    "UPDATE plain SET v = {n} WHERE id = <k>",
    "UPDATE checked.plain AS p SET v = s.v FROM (SELECT {n} AS v) AS s WHERE p.id = <k>",
    "UPDATE plain_view SET v = {n} WHERE id = <k>",
    "UPDATE plain_nested SET v = {n} WHERE id = <k>",
    "INSERT INTO plain (id, cell, v) VALUES (<k>, 'plain/<k>', {n})"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "INSERT INTO plain_view (id, cell, v) VALUES (<k>, 'plain/<k>', {n})"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "MERGE INTO plain AS p USING (SELECT <k> AS id, {n} AS v) AS s ON p.id = s.id"
    " WHEN MATCHED THEN UPDATE SET v = s.v"
    " WHEN NOT MATCHED THEN INSERT (id, cell, v) VALUES (s.id, 'plain/' || s.id, s.v)",
    "WITH w AS (UPDATE plain SET v = {n} WHERE id = <k> RETURNING v) SELECT v FROM w",
    "WITH w AS (UPDATE plain SET v = {n} WHERE id = <k> RETURNING v) SELECT still.v FROM still, w",
    "WITH r AS (SELECT {n} AS n) UPDATE plain SET v = n FROM r WHERE id = <k> RETURNING *",
    "SELECT write_plain({n}, <k>)",
    "SELECT write_plain_sql({n}, <k>)",
    "SELECT still.v FROM still WHERE write_plain({n}, <k>) > 0 AND still.id = 1",
    "EXPLAIN ANALYZE UPDATE plain SET v = 0 + {n} WHERE id = <k>",
]


def plain(random: Random) -> Plan:
    k = random.choice(SLOTS)
    match random.randrange(18):
        case 0:
            return simple("plain", f"CALL call_plain({N}, {k})", f"plain/{k}")
        case 1:
            return simple(
                "plain", f"CALL commit_plain({N}, {k})", f"plain/{k}", transactional=False, literal=True
            )
        case 2:
            return simple("plain", f"UPDATE plain SET v = {N}", *slots("plain"))
        case _:
            statement = random.choice(PLAIN).replace("<k>", str(k))
            return simple("plain", statement, f"plain/{k}", literal=statement.startswith("EXPLAIN"))


def fleeting(random: Random) -> Plan:
    k = random.choice(SLOTS)
    name = f"fleeting/{k}"
    insert = f"INSERT INTO fleeting VALUES ({k}, '{name}', {N}) ON CONFLICT (id) DO UPDATE SET v = excluded.v"
    everything = slots("fleeting")
    lines = "".join(f"{slot}\tfleeting/{slot}\t{N}\n" for slot in SLOTS)

    def copy_one(ledger: Ledger) -> Op:
        cell = ledger.cells[name]
        if cell.settled and cell.content is ABSENT:
            copy = ("COPY fleeting FROM STDIN",)
            return Op("fleeting", copy, {name: N}, copy=f"{k}\t{name}\t{N}\n", literal=True)
        return Op("fleeting", (f"DELETE FROM fleeting WHERE id = {k}",), {name: ABSENT})

    match random.randrange(6):
        case 0:
            return Plan((name,), lambda _: Op("fleeting", (insert,), {name: N}))
        case 1:
            return Plan(
                everything,
                lambda _: Op("fleeting", ("TRUNCATE fleeting",), alike(everything, ABSENT), literal=True),
            )
        case 2:
            refill = f"INSERT INTO fleeting SELECT s, 'fleeting/' || s, {N} FROM generate_series(1, 3) AS s"
            both = ("TRUNCATE fleeting", refill)
            return Plan(everything, lambda _: Op("fleeting", both, alike(everything, N), literal=True))
        case 3:
            copy = ("DELETE FROM fleeting", "COPY fleeting (id, cell, v) FROM STDIN")
            return Plan(
                everything,
                lambda _: Op("fleeting", copy, alike(everything, N), copy=lines, literal=True),
            )
        case _:
            return Plan((name,), copy_one)


def docs(random: Random) -> Plan:
    k = random.choice(SLOTS)
    statement = random.choice(
        [
            "UPDATE docs SET body = jsonb_set(body, '{v}', to_jsonb({n})), list = ARRAY[{n}] WHERE id = <k>",
            "UPDATE docs SET body['v'] = to_jsonb({n}), list[1] = {n} WHERE id = <k>",
        ]
    )
    return simple("docs", statement.replace("<k>", str(k)), f"docs/{k}")


def parts(random: Random) -> Plan:
    where, k = random.choice(
        [
            ("parts", 1), ("parts", 2), ("parts", 3), ("parts_a", 1), ("parts_b", 2), ("parts_b", 3),
            ("parts_b_low", 2), ("parts_b_high", 3), ("mover", 0), ("mover", 0),
        ]
    )  # fmt: skip
    if where != "mover":
        return simple("parts", f"UPDATE {where} SET v = {N} WHERE id = {k}", f"parts/{k}")
    to, other = random.sample("ab", 2)
    effects = {"parts/mover": N, f"parts_{to}/mover": N, f"parts_{other}/mover": ABSENT}
    move = f"UPDATE parts SET v = {N}, region = '{to}' WHERE id = 50"
    return Plan(tuple(effects), lambda _: Op("parts", (move,), dict(effects)))


def elder(random: Random) -> Plan:
    where, k = random.choice(
        [
            ("elder", 1),
            ("elder", 2),
            ("elder", 3),
            ("ONLY elder", 1),
            ("younger", 2),
            ("younger", 3),
            ("youngest", 3),
        ]
    )
    return simple("elder", f"UPDATE {where} SET v = {N} WHERE id = {k}", f"elder/{k}")


KEYED = ("owner", "owned", "deep", "nulled")


def owner(random: Random) -> Plan:
    k = random.choice(SLOTS)
    names = tuple(f"{name}/{k}" for name in KEYED)
    what = random.randrange(8)
    restore = tuple(
        f"INSERT INTO {name} VALUES ({k}, '{name}/{k}', {N}) ON CONFLICT (id) DO UPDATE SET key = {N}"
        for name in KEYED
    )

    def make(ledger: Ledger) -> Op:
        cells = {name: ledger.cells[name] for name in names}
        now = {name: cell.content for name, cell in cells.items()}
        if not all(cell.settled for cell in cells.values()) or now[f"owner/{k}"] is ABSENT or what == 0:
            return Op("owner", restore, alike(names, N))
        if what <= 2:
            effects: dict[str, str | None] = {name: ABSENT for name in names[:3] if now[name] is not ABSENT}
            if now[f"nulled/{k}"] is not ABSENT:
                effects[f"nulled/{k}"] = NULL
            return Op("owner", (f"DELETE FROM owner WHERE id = {k}",), effects)
        if what == 3:
            effects = alike(names[1:3], ABSENT)
            return Op("owner", (f"DELETE FROM owned WHERE id = {k}",), effects)
        effects = {name: N for name in names if now[name] not in (ABSENT, NULL)}
        return Op("owner", (f"UPDATE owner SET key = {N} WHERE id = {k}",), effects)

    if what == 7 and random.random() < 0.3:
        everything = tuple(f"{name}/{slot}" for name in KEYED for slot in SLOTS)
        return Plan(
            everything,
            lambda _: Op("owner", ("TRUNCATE owner CASCADE",), alike(everything, ABSENT), literal=True),
        )
    return Plan(names, make)


def traced(random: Random) -> Plan:
    k = random.choice(SLOTS)
    match random.randrange(5):
        case 0:
            return simple("traced", f"UPDATE shown SET v = {N} WHERE id = {k}", f"hidden/{k}")
        case 1:
            both = (f"ruled/{k}", f"ruled_also/{k}")
            return simple("traced", f"UPDATE ruled SET v = {N} WHERE id = {k}", *both)
        case 2:
            return simple("traced", f"UPDATE ruled_view SET v = {N} WHERE id = {k}", f"ruled_instead/{k}")
        case _:
            names = ("traced", "trace", "trace_of_trace", "trace_of_statement", "trace_at_commit")
            cells = [f"{name}/{k}" for name in names]
            return simple("traced", f"UPDATE traced SET v = {N} WHERE id = {k}", *cells)


def ore(random: Random) -> Plan:
    ores, metals = slots("ore"), slots("metal")
    k = random.choice(SLOTS)
    refresh = "REFRESH MATERIALIZED VIEW metal"

    def only_refresh(ledger: Ledger) -> Op | None:
        cells = [ledger.cells[name] for name in ores]
        if not all(cell.settled for cell in cells):
            return None
        effects = {metal: cell.content for metal, cell in zip(metals, cells, strict=True)}
        return Op("ore", (refresh,), effects, literal=True)

    match random.randrange(4):
        case 0:
            return Plan(ores + metals, only_refresh)
        case 1:
            both = (f"UPDATE ore SET v = {N}", refresh)
            return Plan(ores + metals, lambda _: Op("ore", both, alike(ores + metals, N), literal=True))
        case _:
            return simple("ore", f"UPDATE ore SET v = {N} WHERE id = {k}", f"ore/{k}")


def guarded(random: Random) -> Plan:
    k = random.choice(SLOTS)
    update = f"UPDATE guarded SET v = {N} WHERE id = {k}"
    if k == 3:
        return simple("guarded", update, "guarded/3")
    role = {1: "chk_ann", 2: BEN}[k]
    statements = (f"SET LOCAL ROLE {role}", update, "RESET ROLE")
    return Plan(
        (f"guarded/{k}",),
        lambda _: Op("guarded", statements, {f"guarded/{k}": N}, literal=True, block_only=True),
    )


def things(random: Random) -> Plan:
    k = random.choice(SLOTS)
    schema = random.choice(["north", "south"])
    cell = f"things@{schema}/{k}"
    if random.random() < 0.5:
        return simple("things", f"UPDATE {schema}.things SET v = {N} WHERE id = {k}", cell)
    statements = (
        f"SET LOCAL search_path = checked, {schema}",
        f"UPDATE things SET v = {N} WHERE id = {k}",
        "SET LOCAL search_path = checked, north, south",
    )
    return Plan((cell,), lambda _: Op("things", statements, {cell: N}, literal=True, block_only=True))


def fenced(random: Random) -> Plan:
    name, k = random.choice(["fenced", "lent"]), random.choice(SLOTS)
    return simple(name, f"UPDATE {name} SET v = {N} WHERE id = {k}", f"{name}/{k}")


def following(random: Random) -> Plan:
    """Writes to tables that lead to other cells or not, as the schema is at the moment."""
    what = random.choice(["late", "adopted", "watched", "choice_a", "choice_b"])

    def make(ledger: Ledger) -> Op | None:
        switches = [ledger.cells[name] for name in names if "/" not in name]
        if not all(cell.settled for cell in switches):
            return None
        effects = alike(always, N)
        effects |= {name: N for name, switch, on in also if ledger.cells[switch].content == on}
        return Op(what, (statement,), dict(effects))

    k = random.choice(SLOTS) if what == "watched" else 1
    statement = f"UPDATE {what} SET v = {N} WHERE id = {({'adopted': 4, 'late': 70}).get(what, k)}"
    always = (f"{what}/{k}",)
    letter = what[-1]
    also = {
        "late": (("parts/late", "attached", "yes"),),
        "adopted": (("elder/adopted", "inherits", "yes"),),
        "watched": ((f"copied/{k}", "triggers", "yes"),),
        "choice_a": (("chosen/1", "choice", letter), ("chosen_from/1", "choice_of_function", letter)),
        "choice_b": (("chosen/1", "choice", letter), ("chosen_from/1", "choice_of_function", letter)),
    }[what]
    names = (*always, *(name for name, _, _ in also), *(switch for _, switch, _ in also))
    return Plan(names, make)


DATA = (
    plain,
    plain,
    plain,
    fleeting,
    docs,
    parts,
    elder,
    owner,
    owner,
    traced,
    ore,
    guarded,
    things,
    fenced,
    following,
)


MAKERS = {
    **{maker.__name__: maker for maker in DATA},
    **dict.fromkeys(("late", "adopted", "watched", "choice_a", "choice_b"), following),
    "lent": fenced,
}
"""By what is asked about."""


def choose(random: Random, share_of_schema: float, family: str = "") -> Plan:
    """Something to do, with these cells if there is a way."""
    if random.random() < share_of_schema:
        return schema(random)
    maker = MAKERS.get(family) or random.choice(DATA)
    return maker(random)
