"""What writers do to the schema, after which a reading leads somewhere else, or is not allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cache.checker.ledger import ABSENT
from tests.cache.checker.ops import N, Op, Plan, simple
from tests.cache.checker.schema import BEN, FENCE, LENT

if TYPE_CHECKING:
    from random import Random

    from tests.cache.checker.ledger import Ledger


def _toggle(family: str, switch: str, on: str, off: str, *, shows: str = "", of: str = "") -> Plan:
    """What turns something on, or off again; `shows` then holds what `of` does, or nothing."""
    names = tuple(name for name in (switch, shows, of) if name)

    def make(ledger: Ledger) -> Op | None:
        cell = ledger.cells[switch]
        if not cell.settled or (of and not ledger.cells[of].settled):
            return None
        to_on = cell.content == "no"
        effects: dict[str, str | None] = {switch: "yes" if to_on else "no"}
        if shows:
            effects[shows] = ledger.cells[of].content if to_on else ABSENT
        return Op(family, (on if to_on else off,), effects, literal=True, killable=False)

    return Plan(names, make)


def _choice(random: Random) -> Plan:
    to = random.choice("ab")
    switch, shows, statement = random.choice(
        [
            (
                "choice",
                "chosen/1",
                "CREATE OR REPLACE VIEW chosen AS"
                f" SELECT id, 'chosen/1'::text AS cell, v FROM choice_{to} WHERE id = 1",
            ),
            (
                "choice_of_function",
                "chosen_from/1",
                "CREATE OR REPLACE FUNCTION chosen_from() RETURNS int STABLE LANGUAGE sql"
                f" AS 'SELECT v FROM checked.choice_{to} WHERE id = 1'",
            ),
        ]
    )
    of = f"choice_{to}/1"

    def make(ledger: Ledger) -> Op | None:
        if not ledger.cells[of].settled:
            return None
        effects = {switch: to, shows: ledger.cells[of].content}
        return Op("choice_a", (statement,), effects, literal=True, killable=False)

    return Plan((switch, shows, of), make)


def _shadow(_: Random) -> Plan:
    def make(ledger: Ledger) -> Op | None:
        cell = ledger.cells["shadowed/1"]
        if not cell.settled:
            return None
        if cell.content == "0":
            create = f"CREATE TABLE north.shadowed AS SELECT 1 AS id, 'shadowed/1'::text AS cell, {N} AS v"
            grant = "GRANT SELECT ON north.shadowed TO PUBLIC"
            return Op("things", (create, grant), {"shadowed/1": N}, literal=True, killable=False)
        return Op("things", ("DROP TABLE north.shadowed",), {"shadowed/1": "0"}, literal=True, killable=False)

    return Plan(("shadowed/1",), make)


def _widened(_: Random) -> Plan:
    def make(ledger: Ledger) -> Op | None:
        cell = ledger.cells["widened/columns"]
        if not cell.settled:
            return None
        what, to = ("ADD", "2") if cell.content == "1" else ("DROP", "1")
        statement = f"ALTER TABLE widened {what} COLUMN extra" + (" int" if what == "ADD" else "")
        return Op("widened", (statement,), {"widened/columns": to}, literal=True, killable=False)

    return Plan(("widened/columns",), make)


def schema(random: Random) -> Plan:
    """Changes of the schema after which a reading leads somewhere else, or is not allowed."""
    match random.randrange(12):
        case 0:
            statement = (
                f"CREATE OR REPLACE VIEW defined AS SELECT 1 AS id, 'defined/1'::text AS cell, {N} AS v"
            )
            return simple("defined", statement, "defined/1", literal=True)
        case 1:
            body = (
                f"CREATE OR REPLACE FUNCTION defined_as() RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT {N}'"
            )
            return simple("defined", body, "defined_as/1", literal=True)
        case 2:
            on = "ALTER TABLE parts ATTACH PARTITION late FOR VALUES IN ('l')"
            off = "ALTER TABLE parts DETACH PARTITION late"
            return _toggle("parts", "attached", on, off, shows="parts/late", of="late/1")
        case 3:
            on, off = "ALTER TABLE adopted INHERIT elder", "ALTER TABLE adopted NO INHERIT elder"
            return _toggle("elder", "inherits", on, off, shows="elder/adopted", of="adopted/1")
        case 4:
            on = "CREATE TRIGGER late AFTER UPDATE ON watched FOR EACH ROW EXECUTE FUNCTION copy_to('copied')"
            return _toggle("watched", "triggers", on, "DROP TRIGGER late ON watched")
        case 5:
            on, off = f"GRANT SELECT ON lent TO {BEN}", f"REVOKE SELECT ON lent FROM {BEN}"
            return _toggle("lent", LENT, on, off)
        case 6:
            on = "ALTER TABLE fenced ENABLE ROW LEVEL SECURITY"
            return _toggle("fenced", FENCE, on, "ALTER TABLE fenced DISABLE ROW LEVEL SECURITY")
        case 7:
            return _shadow(random)
        case 8:
            return _widened(random)
        case 9:
            return simple(
                "counter", f"SELECT setval('checked.counter', {N})", "counter/1", transactional=False
            )
        case _:
            return _choice(random)
