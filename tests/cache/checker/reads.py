"""What readers ask, and which cells the answer must show to whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from tests.cache.checker.ops import NULL
from tests.cache.checker.schema import ANN, BEN, FENCE, LENT, NOSY, SLOTS
from tests.support.target import USER

if TYPE_CHECKING:
    from tests.cache.checker.ledger import Ledger, Version

PATHS = ("checked, north, south", "checked, south, north")
ZONES = ("UTC", "Asia/Tokyo", "America/New_York")
STYLES = ("ISO, MDY", "German, DMY", "SQL, MDY")
OUTPUTS = ("hex", "escape")
OPEN_TO_ALL = frozenset({"still", "fenced", "things", "defined_as"})
"""What NOSY may read."""
WHOSE = {ANN: 1, BEN: 2, USER: 3}
Rows = list[list[str | None]]


@attrs.frozen
class Identity:
    """Who asks, and with which settings."""

    database: str
    user: str
    role: str = ""
    zone: str = ZONES[0]
    style: str = STYLES[0]
    output: str = OUTPUTS[0]
    path: str = PATHS[0]
    by: str = attrs.field(default="", eq=False)
    """The last changes of it."""

    @property
    def who(self) -> str:
        return self.role or self.user

    def __str__(self) -> str:
        seen = f"{self.zone}, {self.style}, {self.output}, {self.path}; by {self.by}"
        return f"{self.user}@{self.database} as {self.who} ({seen})"


@attrs.frozen
class Spec:
    """One question. `sql` has `{k}` where the slot goes; `cells` says what is shown: `plain/{k}`, `plain/*`,
    and with `row=cell` a row that stands for a cell of another name. `simple`: not by a prepared statement.
    """

    family: str
    sql: str
    cells: str
    flavoured: bool = False
    binary: bool = True
    simple: bool = False

    def shows(self, k: int, who: Identity) -> dict[str, str]:
        """The cell that each row stands for."""
        found: dict[str, str] = {}
        for part in self.cells.replace("{k}", str(k)).split(", "):
            row, _, cell = part.partition("=")
            if row.startswith("things/"):
                schema = "north" if who.path == PATHS[0] else "south"
                row = row.replace("things", f"things@{schema}")
            if row == "guarded/own":
                found |= {
                    f"guarded/{slot}": f"guarded/{slot}" for slot in SLOTS if slot == WHOSE.get(who.who)
                }
            elif row.endswith("/*"):
                found |= {f"{row[:-1]}{slot}": f"{row[:-1]}{slot}" for slot in SLOTS}
            else:
                found[row] = cell or row
        return found


_PARTS = "parts/*, parts/mover, late/1=parts/late"
_ELDER = "elder/*, adopted/1=elder/adopted"

# PostgreSQL itself goes on reading south.shadowed with a plan from before north.shadowed was there.
SPECS = [
    Spec("still", "SELECT cell, v FROM still WHERE id = {k}", "still/{k}"),
    Spec("still", "SELECT cell, v FROM checked.still ORDER BY id", "still/*"),
    Spec("plain", "SELECT cell, v FROM plain WHERE id = {k}", "plain/{k}"),
    Spec("plain", "SELECT cell, v FROM checked.plain ORDER BY id", "plain/*"),
    Spec("plain", "TABLE plain_view", "plain/*", binary=False),
    Spec("plain", "SELECT cell, v FROM plain_view WHERE id = {k}", "plain/{k}"),
    Spec("plain", "SELECT cell, v FROM plain_nested", "plain/*"),
    Spec("plain", "SELECT cell, v, at, raw FROM plain WHERE id = {k}", "plain/{k}",
         flavoured=True, binary=False),
    Spec("plain", "SELECT cell, v, at, raw FROM plain ORDER BY id", "plain/*", flavoured=True, binary=False),
    Spec("plain", "SELECT 'plain/1', read_plain(1)", "plain/1"),
    Spec("plain", "SELECT 'plain/2', read_plain_slowly(2)", "plain/2"),
    Spec("plain", "SELECT cell, slowly(v) FROM plain WHERE id = {k}", "plain/{k}"),
    Spec("plain", "WITH w AS (SELECT * FROM plain) SELECT p.cell, w.v FROM w JOIN still AS s USING (id)"
         " JOIN plain_view AS p USING (id)", "plain/*"),
    Spec("plain", "SELECT s.cell, (SELECT max(v) FROM plain AS p WHERE p.id = s.id) FROM plain AS s",
         "plain/*"),
    Spec("plain", "SELECT cell, v FROM fleeting UNION ALL SELECT cell, v FROM plain", "plain/*, fleeting/*"),
    Spec("fleeting", "SELECT cell, v FROM fleeting WHERE id = {k}", "fleeting/{k}"),
    Spec("fleeting", "SELECT cell, max(v) FROM fleeting GROUP BY cell", "fleeting/*"),
    Spec("docs", "SELECT cell, body->>'v' FROM docs WHERE id = {k}", "docs/{k}", binary=False),
    Spec("docs", "SELECT cell, list[1] FROM docs", "docs/*"),
    Spec("docs", "SELECT cell, u FROM docs, unnest(list) AS u WHERE id = {k}", "docs/{k}"),
    Spec("docs", "SELECT cell, value FROM docs, jsonb_each_text(body) WHERE id = {k}", "docs/{k}",
         binary=False),
    Spec("parts", "SELECT cell, v FROM parts", _PARTS),
    Spec("parts", "SELECT cell, v FROM parts_a", "parts/1, parts/mover=parts_a/mover"),
    Spec("parts", "SELECT cell, v FROM parts_b", "parts/2, parts/3, parts/mover=parts_b/mover"),
    Spec("parts", "SELECT cell, v FROM parts_b_low", "parts/2"),
    Spec("parts", "SELECT cell, v FROM parts_b_high", "parts/3, parts/mover=parts_b/mover"),
    Spec("parts", "SELECT cell, v FROM parts WHERE id = {k} AND region <> 'l'", "parts/{k}"),
    Spec("late", "SELECT cell, v FROM late", "late/1"),
    Spec("late", "SELECT cell, v FROM parts", _PARTS),
    Spec("elder", "SELECT cell, v FROM elder", _ELDER),
    Spec("elder", "SELECT cell, v FROM elder WHERE id = {k}", "elder/{k}"),
    Spec("elder", "SELECT cell, v FROM ONLY elder", "elder/1"),
    Spec("elder", "SELECT cell, v FROM younger", "elder/2, elder/3"),
    Spec("elder", "SELECT cell, v FROM youngest", "elder/3"),
    Spec("adopted", "SELECT cell, v FROM adopted", "adopted/1"),
    Spec("adopted", "SELECT cell, v FROM elder", _ELDER),
    *(Spec("owner", f"SELECT cell, key FROM {name} WHERE id = {{k}}", f"{name}/{{k}}")
      for name in ("owner", "owned", "deep", "nulled")),
    Spec("owner", "SELECT cell, key FROM owner UNION ALL SELECT cell, key FROM owned UNION ALL"
         " SELECT cell, key FROM deep UNION ALL SELECT cell, key FROM nulled",
         "owner/*, owned/*, deep/*, nulled/*"),
    *(Spec("traced", f"SELECT cell, v FROM {name} WHERE id = {{k}}", f"{name}/{{k}}")
      for name in ("traced", "trace", "trace_of_trace", "trace_of_statement", "trace_at_commit", "ruled",
                   "ruled_also", "ruled_instead", "hidden")),
    Spec("traced", "SELECT cell, v FROM shown", "hidden/*"),
    Spec("traced", "SELECT cell, v FROM ruled_view WHERE id = {k}", "ruled_instead/{k}"),
    Spec("watched", "SELECT cell, v FROM watched", "watched/*"),
    Spec("watched", "SELECT cell, v FROM copied WHERE id = {k}", "copied/{k}"),
    Spec("slow", "SELECT cell, v FROM slow WHERE id = {k}", "slow/{k}"),
    Spec("ore", "SELECT cell, v FROM ore WHERE id = {k}", "ore/{k}"),
    Spec("ore", "SELECT cell, v FROM metal WHERE id = {k}", "metal/{k}"),
    Spec("ore", "SELECT cell, v FROM metal_view", "metal/*"),
    Spec("guarded", "SELECT cell, v FROM guarded", "guarded/own"),
    Spec("guarded", "SELECT cell, v FROM guarded_view", "guarded/own"),
    Spec("fenced", "SELECT cell, v FROM fenced", "fenced/*"),
    Spec("lent", "SELECT cell, v FROM lent WHERE id = {k}", "lent/{k}"),
    Spec("things", "SELECT cell, v FROM things WHERE id = {k}", "things/{k}"),
    Spec("things", "SELECT cell, v FROM things", "things/*"),
    Spec("things", "SELECT cell, v FROM shadowed WHERE id = 1", "shadowed/1", simple=True),
    Spec("defined", "SELECT cell, v FROM defined", "defined/1"),
    Spec("defined_as", "SELECT 'defined_as/1', defined_as()", "defined_as/1"),
    Spec("choice_a", "SELECT cell, v FROM chosen", "chosen/1"),
    Spec("choice_a", "SELECT 'chosen_from/1', chosen_from()", "chosen_from/1"),
    Spec("choice_b", "SELECT cell, v FROM chosen", "chosen/1"),
    Spec("choice_b", "SELECT 'chosen_from/1', chosen_from()", "chosen_from/1"),
    Spec("widened", "SELECT * FROM widened", "widened/columns", simple=True),
    Spec("counter", "SELECT 'counter/1', last_value FROM counter", "counter/1"),
]  # fmt: skip
FAMILIES = {family: [spec for spec in SPECS if spec.family == family] for family in {s.family for s in SPECS}}


@attrs.define(eq=False)
class Question:
    """One reading, between its sending and its answer."""

    ledger: Ledger
    spec: Spec
    k: int
    who: Identity
    shows: dict[str, str] = attrs.field(init=False)
    floors: dict[str, Version] = attrs.field(init=False)
    mine: frozenset[str] = frozenset()
    _base: dict[str, Version] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.shows = self.spec.shows(self.k, self.who)
        self.floors = {}

    def sent(
        self, now: float, via: object, mine: dict[str, Version] | None = None, *, exactly: bool = False
    ) -> None:
        """From now on: whatever has been committed must be seen, and what the client itself has written."""
        cells = [*self.shows.values()]
        if self.spec.family == "lent" and self.who.who == BEN:
            cells.append(LENT)
        if self.spec.family == "fenced" and self.who.who != USER:
            cells.append(FENCE)
        self.floors = self._base = {name: self.ledger.cells[name].floor(now, via) for name in cells}
        if mine:
            own = {name: version for name, version in mine.items() if name in self.floors}
            self.floors = {**self.floors, **own}
            if exactly:
                self.mine = frozenset(own)

    def forget(self) -> None:
        """What the client has written itself has failed."""
        self.floors, self.mine = self._base, frozenset()

    def check(self, rows: Rows, error: str, flavour: list[str | None], protocol: str) -> None:
        """Tell the ledger what is wrong with an answer."""
        problem = self._problem(rows, error, flavour)
        if problem:
            self.ledger.violation(f"{problem} | read by {self.who}, {protocol}: {self.spec.sql} [k={self.k}]")

    def _problem(self, rows: Rows, error: str, flavour: list[str | None]) -> str:
        who, spec = self.who, self.spec
        if who.who == NOSY and spec.family not in OPEN_TO_ALL:
            return "" if error == "42501" else f"FOREIGN: no refusal but {error or rows}"
        if spec.family == "lent" and who.who == BEN:
            problem = self._one(LENT, "no" if error == "42501" else "yes")
            if problem or error == "42501":
                return problem
        if error:
            return f"ERROR {error}"
        if spec.family == "fenced" and who.who != USER:
            problem = self._one(FENCE, "no" if rows else "yes")
            if problem or not rows:
                return problem
        if spec.family == "widened":
            return self._one("widened/columns", str(len(rows[0])))
        if spec.sql.startswith("TABLE"):
            rows = [row[1:] for row in rows]
        found = {row[0]: row[1:] for row in rows}
        strange = [row for row in rows if row[0] not in self.shows]
        if strange or len(found) < len(rows):
            return f"FOREIGN: rows that are not expected: {strange or rows}"
        for row, cell in self.shows.items():
            if cell == "shadowed/1" and who.path != PATHS[0]:
                if found.get(row) != ["0"]:
                    return f"FOREIGN: {found}"
                continue
            if row in found:
                content, *rest = found[row]
                content = NULL if content is None else content
                if spec.flavoured and rest != flavour:
                    return f"FOREIGN: {rest}, should be {flavour}"
            else:
                content = None
            problem = self._one(cell, content)
            if problem:
                return problem
        return ""

    def _one(self, name: str, content: str | None) -> str:
        cell = self.ledger.cells[name]
        return cell.problem(content, self.floors[name], name in self.mine, str(self.who))
